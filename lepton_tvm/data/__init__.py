"""Reading calibration and evaluation data, in every form that the API and the CLI take."""

from __future__ import annotations

from lepton_tvm.data.samples import LABEL, Samples
from lepton_tvm.data.sources import as_samples

__all__ = ["LABEL", "Samples", "as_samples"]
