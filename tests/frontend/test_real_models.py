"""The real models: what comes out agrees with ONNX Runtime to 1e-4 of the largest value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_tvm.compiler import pipeline
from lepton_tvm.frontend import load_model, save_model
from tests import zoo
from tests.support.onnx_models import random_inputs, relative_error, run_reference

pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle of these tests")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "minilm", "ppocr_cls", "ppocr_rec"])
def test_agrees(name: str, tmp_path: Path) -> None:
    path = zoo.path(name)
    model = load_model(path, shapes=zoo.ZOO[name].shapes)
    assert tuple(info.name for info in model.outputs) == zoo.ZOO[name].outputs
    saved = tmp_path / "model.lepton"
    save_model(model, saved)
    drawn = random_inputs(model)
    feed = {
        key: np.tanh(value) if value.dtype.kind == "f" else value for key, value in drawn.items()
    }
    got = pipeline.run(load_model(saved).module, [feed[info.name] for info in model.inputs])
    for ours, theirs in zip(got, run_reference(path, feed), strict=True):
        assert relative_error(ours, theirs) <= 1e-4
