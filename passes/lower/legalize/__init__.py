"""How all other Relax operators become loop nests: one table for CPUs, one for GPUs."""

from __future__ import annotations

from lepton_tvm.passes.lower.legalize.legalize import LEGALIZATIONS
from lepton_tvm.passes.lower.legalize.legalize_gpu import GPU_LEGALIZATIONS

__all__ = ["GPU_LEGALIZATIONS", "LEGALIZATIONS"]
