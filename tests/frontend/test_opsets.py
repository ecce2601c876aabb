"""Every supported operator set gives the numbers of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import helper

from lepton_tvm.errors import CompileError, ModelError
from lepton_tvm.frontend import load_model
from tests.support.onnx_models import Graph, assert_agrees, clip, conv_net

pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle of these tests")

OPSETS = range(9, 22)


@pytest.mark.parametrize("opset", OPSETS)
def test_conv_net(opset: int, tmp_path: Path) -> None:
    path = conv_net(opset).save(tmp_path / "net.onnx")
    assert_agrees(load_model(path), path)


def squeeze(g: Graph, x: str) -> str:
    if g.opset < 13:
        return str(g.op("Squeeze", x, axes=[2]))
    return str(g.op("Squeeze", x, g.weight(np.array([2], np.int64))))


def unsqueeze(g: Graph, x: str) -> str:
    if g.opset < 13:
        return str(g.op("Unsqueeze", x, axes=[1]))
    return str(g.op("Unsqueeze", x, g.weight(np.array([1], np.int64))))


def reduce_op(kind: str, since: int) -> Callable[[Graph, str], str]:
    def build(g: Graph, x: str) -> str:
        if g.opset >= since:
            return str(g.op(kind, x, g.weight(np.array([2, 3], np.int64)), keepdims=1))
        return str(g.op(kind, x, axes=[2, 3], keepdims=1))

    return build


def pad(mode: str, value: float) -> Callable[[Graph, str], str]:
    def build(g: Graph, x: str) -> str:
        widths = [0, 0, 1, 2, 0, 0, 3, 1]
        if g.opset < 11:
            return str(g.op("Pad", x, pads=widths, mode=mode, value=value))
        pads = g.weight(np.array(widths, np.int64))
        return str(g.op("Pad", x, pads, g.weight(np.float32(value)), mode=mode))

    return build


def pad_conv(g: Graph, x: str) -> str:
    widths = np.array([0, 0, 1, 2], np.int64)
    if g.opset < 11:
        x = g.op("Pad", x, pads=[0, 0, 0, 0, 0, 0, 1, 2])
    elif g.opset < 18:
        x = g.op("Pad", x, g.weight(np.array([0, 0, 0, 0, 0, 0, 1, 2], np.int64)))
    else:
        x = g.op("Pad", x, g.weight(widths), "", g.weight(np.array([2, 3], np.int64)))
    return str(g.op("Conv", x, g.normal(4, 4, 3, 3), strides=[2, 2]))


def upsample(mode: str) -> Callable[[Graph, str], str]:
    def build(g: Graph, x: str) -> str:
        scales = g.weight(np.array([1, 1, 2, 3], np.float32))
        if g.opset == 9:
            return str(g.op("Upsample", x, scales, mode=mode))
        if g.opset == 10:
            return str(g.op("Resize", x, scales, mode=mode))
        roi = g.weight(np.zeros(0, np.float32)) if g.opset < 13 else ""
        how: dict[str, Any] = {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return str(g.op("Resize", x, roi, scales, mode=mode, **how))

    return build


def resize_to(mode: str, coordinates: str) -> Callable[[Graph, str], str]:
    def build(g: Graph, x: str) -> str:
        if g.opset < 11:
            return ""  # sizes came with opset 11
        empty = [g.weight(np.zeros(0, np.float32)) for _ in range(2)] if g.opset < 13 else ["", ""]
        sizes = g.weight(np.array([2, 4, 9, 5], np.int64))
        how: dict[str, Any] = {"coordinate_transformation_mode": coordinates}
        return str(g.op("Resize", x, *empty, sizes, mode=mode, **how))

    return build


def topk(g: Graph, x: str) -> str:
    if g.opset < 10:
        return str(g.op("TopK", x, k=3, axis=3, outputs=2)[0])
    return str(g.op("TopK", x, g.weight(np.array([3], np.int64)), axis=3, outputs=2)[0])


def slice_op(g: Graph, x: str) -> str:
    if g.opset < 10:
        return str(g.op("Slice", x, starts=[1, 1], ends=[-1, 6], axes=[2, 3]))
    parts = ([1, 6], [-1, 1], [2, 3], [1, -2])
    return str(g.op("Slice", x, *[g.weight(np.array(p, np.int64)) for p in parts]))


def split(g: Graph, x: str) -> str:
    if g.opset < 13:
        a, b = g.op("Split", x, axis=1, split=[1, 3], outputs=2)
    else:
        a, b = g.op("Split", x, g.weight(np.array([1, 3], np.int64)), axis=1, outputs=2)
    return str(g.op("Mul", b, a))


def dropout(g: Graph, x: str) -> str:
    return str(g.op("Dropout", x))


def reshape_by_shape(g: Graph, x: str) -> str:
    """Shape -> Gather -> Concat -> Reshape, as exporters write `x.view(x.shape[0], -1)`."""
    shape = g.op("Shape", x)
    batch = g.op("Gather", shape, g.weight(np.int64(0)), axis=0)
    batch = unsqueeze_scalar(g, batch)
    target = g.op("Concat", batch, g.weight(np.array([-1], np.int64)), axis=0)
    return str(g.op("Reshape", x, target))


def unsqueeze_scalar(g: Graph, x: str) -> str:
    if g.opset < 13:
        return str(g.op("Unsqueeze", x, axes=[0]))
    return str(g.op("Unsqueeze", x, g.weight(np.array([0], np.int64))))


OPS: dict[str, Callable[[Graph, str], str]] = {
    "softmax": lambda g, x: g.op("Softmax", x, axis=1),
    "softmax-last": lambda g, x: g.op("Softmax", x, axis=-1),
    "log-softmax": lambda g, x: g.op("LogSoftmax", x, axis=1),
    "squeeze": lambda g, x: squeeze(g, reduce_op("ReduceMax", 18)(g, x)),
    "unsqueeze": unsqueeze,
    "reduce-sum": reduce_op("ReduceSum", 13),
    "reduce-mean": reduce_op("ReduceMean", 18),
    "reduce-l2": reduce_op("ReduceL2", 18),
    "pad-constant": pad("constant", 0.5),
    "pad-reflect": pad("reflect", 0.0),
    "pad-edge": pad("edge", 0.0),
    "pad-conv": pad_conv,
    "upsample-nearest": upsample("nearest"),
    "upsample-linear": upsample("linear"),
    "resize-linear": resize_to("linear", "half_pixel"),
    "resize-align": resize_to("linear", "align_corners"),
    "resize-nearest": resize_to("nearest", "asymmetric"),
    "topk": topk,
    "slice": slice_op,
    "split": split,
    "dropout": dropout,
    "reshape-by-shape": reshape_by_shape,
    "clip": lambda g, x: clip(g, x, -0.5, 0.75),
    "clip-low": lambda g, x: clip(g, x, -0.5, float("inf")),
    "clip-none": lambda g, x: clip(g, x, float("-inf"), float("inf")),
    "clip-relu": lambda g, x: clip(g, x, 0.0, float(np.finfo(np.float32).max)),
    "prelu": lambda g, x: g.op("PRelu", x, g.normal(4, 1, 1)),
    "leaky": lambda g, x: g.op("LeakyRelu", x, alpha=0.1),
    "elu": lambda g, x: g.op("Elu", x, alpha=0.7),
    "selu": lambda g, x: g.op("Selu", x),
    "softplus": lambda g, x: g.op("Softplus", x),
    "hard-sigmoid": lambda g, x: g.op("HardSigmoid", x, alpha=0.2, beta=0.5),
    "depth-to-space": lambda g, x: g.op("DepthToSpace", x, blocksize=2),
    "space-to-depth": lambda g, x: g.op("SpaceToDepth", x, blocksize=2),
    "instance-norm": lambda g, x: g.op("InstanceNormalization", x, g.normal(4), g.normal(4)),
    "lrn": lambda g, x: g.op("LRN", x, size=3, alpha=0.1),
    "argmax": lambda g, x: g.op("Cast", g.op("ArgMax", x, axis=1, keepdims=1), to=1),
    "pow-2": lambda g, x: g.op("Pow", x, g.weight(np.float32(2))),
    "erf": lambda g, x: g.op("Erf", x),
    "transpose": lambda g, x: g.op("Transpose", x, perm=[0, 2, 3, 1]),
    "flatten": lambda g, x: g.op("Flatten", x, axis=2),
    "matmul": lambda g, x: g.op("MatMul", x, g.normal(6, 5)),
    "tile": lambda g, x: g.op("Tile", x, g.weight(np.array([1, 2, 1, 3], np.int64))),
    "expand": lambda g, x: g.op("Expand", x, g.weight(np.array([2, 4, 8, 6], np.int64))),
    "conv-same-upper": lambda g, x: g.op(
        "Conv", x, g.normal(3, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "conv-same-lower": lambda g, x: g.op(
        "Conv", x, g.normal(3, 4, 2, 3), auto_pad="SAME_LOWER", strides=[1, 3]
    ),
    "conv-transpose": lambda g, x: g.op(
        "ConvTranspose", x, g.normal(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    "conv-transpose-same": lambda g, x: g.op(
        "ConvTranspose", x, g.normal(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "conv-dilated": lambda g, x: g.op(
        "Conv", x, g.normal(4, 2, 3, 3), group=2, dilations=[2, 2], pads=[2, 1, 0, 3]
    ),
    "max-pool-same": lambda g, x: g.op(
        "MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "average-pool-pad": lambda g, x: g.op(
        "AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    "average-pool-edge": lambda g, x: g.op(
        "AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
}  # fmt: skip


#: Operators of `OPS` that are imported but do not compile, and why.
NOT_COMPILED = {
    "topk": "TVM's code for sort and scan (DispatchSortScan) is not in the pipeline",
}

CHANGES = [9, 10, 11, 12, 13, 18, 21]  # operator sets in which one of `OPS` changed


@pytest.mark.parametrize("opset", CHANGES)
def test_operators(opset: int, tmp_path: Path) -> None:
    """All of `OPS` that compile, side by side in one model, one output each."""
    check_operators(opset, [name for name in OPS if name not in NOT_COMPILED], tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(raises=CompileError, strict=True, reason=why))
        for name, why in NOT_COMPILED.items()
    ],
)
@pytest.mark.parametrize("opset", CHANGES)
def test_operators_that_do_not_compile(opset: int, name: str, tmp_path: Path) -> None:
    check_operators(opset, [name], tmp_path)


def check_operators(opset: int, names: Sequence[str], folder: Path) -> None:
    g = Graph(opset)
    x = g.input("x", [2, 4, 8, 6])
    for name in names:
        made = OPS[name](g, x)
        if made:
            g.nodes.append(helper.make_node("Identity", [made], [name]))
            g.output(name)
    path = g.save(folder / "operators.onnx")
    model = load_model(path)
    assert [info.name for info in model.outputs] == [o.name for o in g.outputs]
    assert_agrees(model, path)


def test_converted_from_another_opset(tmp_path: Path) -> None:
    converted = onnx.version_converter.convert_version(conv_net(13).model(), 18)
    path = tmp_path / "net.onnx"
    onnx.save(converted, path)
    assert_agrees(load_model(path), path)


def test_newer_opset_is_tried_and_said(tmp_path: Path) -> None:
    path = conv_net(22).save(tmp_path / "net.onnx")
    model = load_model(path)
    assert any("newer than 21" in note for note in model.report[0].reports[0]["notes"])


@pytest.mark.parametrize("opset", [8, 1000])
def test_opset_outside_of_the_range_is_refused(opset: int, tmp_path: Path) -> None:
    net = conv_net(17).model()
    net.opset_import[0].version = opset
    onnx.save(net, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=rf"opset {opset}; opsets 9 to 21 are supported"):
        load_model(tmp_path / "net.onnx")
