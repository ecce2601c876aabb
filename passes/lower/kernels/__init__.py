"""Convolutions and products to loop nests: the pass `lower-kernels` and its parts."""

from __future__ import annotations

from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels

__all__ = ["LowerKernels"]
