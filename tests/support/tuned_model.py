"""The small model that is tuned, and a database for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_tvm.compression.quantize import quantize
from lepton_tvm.demo.assets import calibration, model_path
from lepton_tvm.frontend import load_model
from lepton_tvm.model import Model


@pytest.fixture(scope="session")
def model() -> Model:
    """The demo's network in int8: twelve kernels, quick to build."""
    return quantize(load_model(model_path()), calibration())


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that is not there yet."""
    return f"sqlite:///{tmp_path / 'tune.db'}"
