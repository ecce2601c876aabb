"""Pruning real models: they shrink, still fit together, and say what was left alone."""

from __future__ import annotations

import pytest

from lepton_tvm.compression.prune import compress
from lepton_tvm.frontend import load_model
from lepton_tvm.ir.cost import macs, params
from lepton_tvm.ir.graph import bindings_of, main_of, op_name
from lepton_tvm.model import Model
from tests.support.shape_checks import check_shapes
from tests.zoo import ZOO, path


def load(name: str) -> Model:
    return load_model(path(name), shapes=ZOO[name].shapes)


@pytest.mark.parametrize(
    ("name", "share"), [("efficientnet_lite0", 0.65), ("ppocr_cls", 0.8), ("ppocr_rec", 0.8)]
)
def test_channels_of_real_models(name: str, share: float) -> None:
    model = load(name)
    small = compress(model, method="channels", ratio=0.3)
    check_shapes(small.module)
    assert macs(small.module) < share * macs(model.module)
    assert params(small.module) < params(model.module)
    report = small.recipe[-1].reports[0]
    assert report["changed"] >= 5
    assert all(s["reason"] for s in report["skipped"])
    unknown = [s["reason"] for s in report["skipped"] if "not known" in s["reason"]]
    assert unknown == []
    last = main_of(small.module).ret_ty.shape
    assert tuple(int(d) for d in last) == model.outputs[0].shape


@pytest.mark.parametrize("name", ["efficientnet_lite0", "ppocr_cls", "ppocr_rec"])
def test_zeros_of_real_models(name: str) -> None:
    model = load(name)
    sparse = compress(model, method="magnitude", sparsity=0.5)
    numbers = sparse.recipe[-1].reports[0]["numbers"]
    assert numbers["zeros_after"] == int(0.5 * numbers["weights"] + 0.5)
    assert macs(sparse.module) == macs(model.module)


def test_residual_trunks_and_depthwise_layers_of_efficientnet_shrink() -> None:
    small = compress(load("efficientnet_lite0"), method="channels", ratio=0.3, scope="group")
    groups = [
        int(b.value.attrs.groups)
        for b in bindings_of(main_of(small.module))
        if op_name(b.value) == "relax.nn.conv2d"
    ]
    assert max(groups) < 1152  # the widest depthwise layer
    notes = small.recipe[-1].reports[0]["notes"]
    assert any("+" in note and "192 -> 136" in note for note in notes)
