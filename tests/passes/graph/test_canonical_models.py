"""The canonical form of real models: what stays in it, and the same numbers as ONNX Runtime."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tvm

from lepton_tvm.frontend import load_model
from lepton_tvm.ir.graph import bindings_of, main_of, op_name, same_structure, shape_of
from lepton_tvm.passes.graph.canonical import canonical_passes
from tests import zoo
from tests.support.graphs import count, named, run

SHAPES = {
    "efficientnet_lite0": {"input": (1, 3, 224, 224)},
    "ppocr_cls": {"x": (1, 3, 48, 192)},
    "ppocr_rec": {"x": (1, 3, 48, 160)},
}


@cache
def canonical(name: str) -> tvm.IRModule:
    return load_model(zoo.path(name), shapes=SHAPES[name]).module


@pytest.mark.parametrize("name", SHAPES)
def test_spatial_ops_are_channels_last_with_bias_per_channel(name: str) -> None:
    mod = canonical(name)
    for binding in named(mod, "nn.conv2d"):
        attrs = binding.value.attrs
        layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
        assert layouts == ("NHWC", "HWIO", "NHWC")
    assert not any(op_name(b.value).startswith("call_tir") for b in bindings_of(main_of(mod)))
    names = [b.var.name for b in bindings_of(main_of(mod))]
    assert len(set(names)) == len(names)


def test_efficientnet_has_one_permute_and_nothing_between_its_blocks() -> None:
    mod = canonical("efficientnet_lite0")
    counts = {op: count(mod, op) for op in ("nn.conv2d", "permute_dims", "clip", "matmul")}
    assert counts == {"nn.conv2d": 49, "permute_dims": 1, "clip": 33, "matmul": 1}
    assert op_name(bindings_of(main_of(mod))[0].value) == "relax.permute_dims"
    assert count(mod, "add") == 49 + 9 + 1  # biases, residuals, the bias of the classifier


def test_squeeze_and_excite_blocks_hold_no_permutes() -> None:
    mod = canonical("ppocr_cls")
    assert count(mod, "permute_dims") == 1
    gates = [b for b in named(mod, "mean") if shape_of(b.var)[1:3] == (1, 1)]
    assert len(gates) == 10


@pytest.mark.parametrize("name", SHAPES)
def test_a_canonical_model_does_not_change_again(name: str) -> None:
    mod = canonical(name)
    for p in canonical_passes():
        again, report = p(mod)
        assert same_structure(again, mod), p.name
        assert report.changed == 0


def test_ppocr_cls_computes_what_onnx_runtime_computes() -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    x = np.random.default_rng(0).uniform(-1, 1, SHAPES["ppocr_cls"]["x"]).astype(np.float32)
    session = ort.InferenceSession(str(zoo.path("ppocr_cls")), options)
    (want,) = session.run(None, {"x": x})
    (got,) = run(canonical("ppocr_cls"), x)
    # probabilities in [0, 1]; the issue allows 1e-4 relative
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
