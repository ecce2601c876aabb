"""Narrower types: what is quantized, why the rest is not, and the Q/DQ pairs that say so."""

from __future__ import annotations

from lepton_tvm.passes.quantize.annotate import annotate
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.insert_qdq import InsertQDQ
from lepton_tvm.passes.quantize.plan import Plan
from lepton_tvm.passes.quantize.split_to_slices import SplitToSlices
from lepton_tvm.passes.quantize.to_bfloat16 import ToBfloat16

__all__ = ["InsertQDQ", "Plan", "QuantizeConfig", "SplitToSlices", "ToBfloat16", "annotate"]
