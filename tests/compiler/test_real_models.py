"""End to end on the real models: integer kernels only, and answers that stay what they were."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_tvm import runtime
from lepton_tvm.compiler.compile import CompiledArtifact, compile
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.frontend import load_model
from lepton_tvm.ir.graph import Array
from lepton_tvm.model import Model
from tests import zoo


def compiled(model: Model, folder: Path, name: str) -> tuple[CompiledArtifact, runtime.Net]:
    made = compile(model, output=folder / f"{name}.so", db=False)
    return made, runtime.load(made.path, threads=1)


def check_kernels(artifact: CompiledArtifact) -> None:
    """No float convolution or product with weights, and nothing left to TVM's default schedule."""
    kernels = artifact.manifest["kernels"]
    # products of two activations (attention) have no weights
    anchors = [k for k in kernels if k["macs"] and k["op"] != "batch_matmul"]
    assert anchors
    assert [k["name"] for k in anchors if k["precision"] != "int8"] == []
    assert [k["name"] for k in kernels if k["schedule"] == "default"] == []


def run_each(net: runtime.Net, pictures: Array) -> Array:
    return np.concatenate([net(p[None]) for p in pictures])


def test_efficientnet_lite0_int8_agrees_with_float(tmp_path: Path) -> None:
    pictures, labels = zoo.imagenet()
    shapes = {"input": (1, 3, 224, 224)}
    model = load_model(zoo.path("efficientnet_lite0"), shapes=shapes)
    # mirrored pictures are unlabelled calibration data that the evaluation does not contain
    quantized = quantize(model, np.ascontiguousarray(pictures[..., ::-1]))
    float_artifact, float_net = compiled(model, tmp_path, "float")
    int8_artifact, int8_net = compiled(quantized, tmp_path, "int8")
    check_kernels(int8_artifact)
    wanted, got = run_each(float_net, pictures), run_each(int8_net, pictures)
    assert (wanted.argmax(-1) == labels).mean() >= 0.85
    assert (wanted.argmax(-1) == got.argmax(-1)).mean() >= 0.95
    noise = float(((wanted - got) ** 2).sum())
    assert 10 * np.log10(float((wanted**2).sum()) / noise) > 15
    assert int8_artifact.size_bytes <= 0.30 * float_artifact.size_bytes


def test_ppocr_cls_int8_knows_which_way_is_up(tmp_path: Path) -> None:
    lines, labels = zoo.rotated_text(40, seed=1)
    shapes = {"x": (1, 3, 48, 192)}
    model = load_model(zoo.path("ppocr_cls"), shapes=shapes)
    artifact, net = compiled(quantize(model, lines[:20]), tmp_path, "int8")
    check_kernels(artifact)
    got = run_each(net, lines[20:])
    assert (got.argmax(-1) == labels[20:]).mean() >= 0.9


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_ppocr_rec_reads_text(precision: str, tmp_path: Path) -> None:
    lines, texts = zoo.text_lines(28, seed=2)
    path = zoo.path("ppocr_rec")
    characters = next(p.value for p in onnx.load(path).metadata_props if p.key == "character")
    model = load_model(path, shapes={"x": (1, 3, 48, 320)})
    if precision == "int8":
        model = quantize(model, lines[:16])
    artifact, net = compiled(model, tmp_path, precision)
    if precision == "int8":
        check_kernels_but_attention(artifact)
    read = [zoo.decode_text(net(line[None])[0], characters) for line in lines[16:]]
    likeness = [
        difflib.SequenceMatcher(None, a, b).ratio() for a, b in zip(read, texts[16:], strict=True)
    ]
    assert np.mean(likeness) >= (0.95 if precision == "float32" else 0.85), read


def check_kernels_but_attention(artifact: CompiledArtifact) -> None:
    """As `check_kernels`; the four products of two activations stay float32."""
    check_kernels(artifact)
    products = [k for k in artifact.manifest["kernels"] if k["op"] == "batch_matmul"]
    assert sum(k["calls"] for k in products) == 4
    assert {k["precision"] for k in products} == {"float32"}
    skipped = [s for r in artifact.report for s in r["skipped"]]
    assert [s for s in skipped if s["op"] in ("relax.matmul", "relax.nn.conv2d")] == []
