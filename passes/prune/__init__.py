"""Smaller models: which weights or channels matter least, and the graph without them."""

from __future__ import annotations

from lepton_tvm.passes.prune.channels import PruneChannels
from lepton_tvm.passes.prune.prune_magnitude import PruneMagnitude

__all__ = ["PruneChannels", "PruneMagnitude"]
