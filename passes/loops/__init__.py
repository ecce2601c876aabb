"""Loop nests to loop nests, after their schedule: plain TVM passes without a report."""

from __future__ import annotations

from lepton_tvm.passes.loops.expand_math import expand_math
from lepton_tvm.passes.loops.fused_sums import fused_sums
from lepton_tvm.passes.loops.masked_vectors import masked_vectors
from lepton_tvm.passes.loops.round_once import round_once
from lepton_tvm.passes.loops.saturating_narrow import saturating_narrow
from lepton_tvm.passes.loops.stack_buffers import stack_buffers

__all__ = [
    "expand_math",
    "fused_sums",
    "masked_vectors",
    "round_once",
    "saturating_narrow",
    "stack_buffers",
]
