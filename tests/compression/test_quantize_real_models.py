"""Real networks: int8 agrees with float, and no convolution or product stays in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from lepton_tvm.compiler import pipeline
from lepton_tvm.compression.quantize import QuantizeConfig, quantize
from lepton_tvm.frontend import load_model
from lepton_tvm.model import Model
from lepton_tvm.targets import parse_target
from tests import zoo

Array = npt.NDArray[Any]


def _both(
    model: Model, calibration: Array, inputs: Array, config: QuantizeConfig | None = None
) -> tuple[Array, Array, Any]:
    """Outputs of float and int8 for single samples, and the int8 kernels."""
    made = quantize(model, calibration, config=config)
    exact, int8 = pipeline.executor(model.module), pipeline.executor(made.module)
    kernels = pipeline.lower(made.module, parse_target("native")).kernels
    return (
        np.concatenate([exact([x[None]])[0] for x in inputs]),
        np.concatenate([int8([x[None]])[0] for x in inputs]),
        kernels,
    )


def _sqnr(exact: Array, made: Array) -> float:
    return float(10 * np.log10((exact**2).sum() / ((made - exact) ** 2).sum()))


@pytest.mark.parametrize(("sum_bits", "decibels"), [(32, 22), (16, 20)])
def test_efficientnet_lite0_agrees_with_float(sum_bits: int, decibels: float) -> None:
    model = load_model(zoo.path("efficientnet_lite0"), shapes={"input": (1, 3, 224, 224)})
    pictures, labels = zoo.imagenet()
    mirrored = pictures[:, :, :, ::-1]
    calibration = np.concatenate([pictures[:16], mirrored[:16]])
    inputs = np.concatenate([pictures, mirrored])
    config = QuantizeConfig(sum_bits=sum_bits)
    exact, made, kernels = _both(model, calibration, inputs, config)
    agreement = (exact.argmax(1) == made.argmax(1)).mean()
    assert agreement >= 0.95
    assert _sqnr(exact, made) > decibels
    assert (made[:20].argmax(1) == labels).sum() >= (exact[:20].argmax(1) == labels).sum() - 1
    heavy = [k for k in kernels if k.macs]
    assert {k.precision for k in heavy} == {"int8"}
    assert sum(k.calls for k in heavy) == 50


def test_text_recognition_reads_the_same_text() -> None:
    path = zoo.path("ppocr_rec")
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    model = load_model(path, shapes={"x": (1, 3, 48, 320)})
    lines, _ = zoo.text_lines(20, seed=0)
    calibration, _ = zoo.text_lines(32, seed=7)
    exact, made, _ = _both(model, calibration, lines)
    read, read8 = (
        [zoo.decode_text(scores, properties["character"]) for scores in outputs]
        for outputs in (exact, made)
    )
    assert sum(a == b for a, b in zip(read, read8, strict=True)) >= 19
    skipped = quantize(model, calibration[:1]).recipe[-1].reports[1]["skipped"]
    reasons = {s["reason"] for s in skipped if s["op"] == "relax.matmul"}
    assert reasons == {"both operands are activations"}


def test_text_direction_agrees_with_float() -> None:
    model = load_model(zoo.path("ppocr_cls"), shapes={"x": (1, 3, 48, 192)})
    lines, labels = zoo.rotated_text(20, seed=0)
    calibration, _ = zoo.rotated_text(32, seed=7)
    exact, made, _ = _both(model, calibration, lines)
    assert np.array_equal(exact.argmax(1), made.argmax(1))
    assert (made.argmax(1) == labels).mean() >= 0.95
