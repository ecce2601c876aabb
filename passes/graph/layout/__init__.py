"""Channels last: the pass `to-nhwc` and its rules, one for each kind of operator."""

from __future__ import annotations

from lepton_tvm.passes.graph.layout.to_nhwc import ToNHWC

__all__ = ["ToNHWC"]
