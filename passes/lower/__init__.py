"""Relax calls to loop nests: integer arithmetic, kernels per unit, legalization, kernel names."""

from __future__ import annotations

from lepton_tvm.passes.lower.int8 import LowerInt8
from lepton_tvm.passes.lower.kernels import LowerKernels
from lepton_tvm.passes.lower.legalize import GPU_LEGALIZATIONS, LEGALIZATIONS
from lepton_tvm.passes.lower.name_kernels import NameKernels

__all__ = ["GPU_LEGALIZATIONS", "LEGALIZATIONS", "LowerInt8", "LowerKernels", "NameKernels"]
