"""Measuring speed and accuracy, with raw samples and confidence intervals."""

from lepton_tvm.measure.latency import Rounds, measure_interleaved
from lepton_tvm.measure.machine import Machine, this_machine
from lepton_tvm.measure.pinning import pinned
from lepton_tvm.measure.quality import Quality, QualityMeter
from lepton_tvm.measure.stats import Estimate, median_ci, speedup_ci

__all__ = [
    "Estimate",
    "Machine",
    "Quality",
    "QualityMeter",
    "Rounds",
    "measure_interleaved",
    "median_ci",
    "pinned",
    "speedup_ci",
    "this_machine",
]
