"""Quantize/dequantize pairs to integer arithmetic: the pass `lower-int8` and its parts."""

from __future__ import annotations

from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8

__all__ = ["LowerInt8"]
