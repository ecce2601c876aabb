"""Whole channels leave: which hang together, how much each matters, and the smaller graph."""

from __future__ import annotations

from lepton_tvm.passes.prune.channels.prune_channels import PruneChannels

__all__ = ["PruneChannels"]
