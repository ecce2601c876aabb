"""This compiler's float32 and int8 beside other engines, each in its own process."""

from __future__ import annotations

from lepton_tvm.bench.engines import ENGINES
from lepton_tvm.bench.result import BenchResult, EngineTime
from lepton_tvm.bench.run import bench

__all__ = ["ENGINES", "BenchResult", "EngineTime", "bench"]
