"""A small model and a database for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_tvm.demo.assets import calibration, model_path
from lepton_tvm.frontend import load_model, save_model
from lepton_tvm.model import Model
from lepton_tvm.quantization import quantize


@pytest.fixture(scope="session")
def model() -> Model:
    """The demo's network in int8: twelve kernels, quick to build."""
    return quantize(load_model(model_path()), calibration())


@pytest.fixture(scope="session")
def model_file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("model") / "small.lepton"
    save_model(model, path)
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that is not there yet."""
    return f"sqlite:///{tmp_path / 'tune.db'}"
