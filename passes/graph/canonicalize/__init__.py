"""One way to write each idea: the pass `canonicalize` and the rules that it applies."""

from __future__ import annotations

from lepton_tvm.passes.graph.canonicalize.canonicalize import Canonicalize

__all__ = ["Canonicalize"]
