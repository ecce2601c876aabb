"""Files that are not a model, or not a whole one: each is refused with one clear message."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend import load_model
from tests.support.onnx_models import Graph, conv_net


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(path)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert "Traceback" not in str(caught.value)


CONTENT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, I am not a model\n" * 40, "this is a text file"),
    "text-utf8": ("größer als zwei Bäume\n".encode() * 40, "this is a text file"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "this is a text file"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "noise": (bytes(range(256)) * 8, "not an ONNX model, or a truncated one"),
    "zeros": (bytes(4096), "not an ONNX model, or a truncated one"),
    "pickle": (b"\x80\x02}q\x00.", "a Python pickle"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(64), "an ELF binary"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "gzip archive"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(64), "TensorFlow Lite"),
    "zip": (b"PK\x03\x04" + bytes(64), "truncated or damaged, or not a .lepton file"),
    "only-opset": (
        helper.make_opsetid("", 17).SerializeToString() * 1,
        "no complete graph|truncat",
    ),
}


@pytest.mark.parametrize("kind", CONTENT)
def test_content(kind: str, tmp_path: Path) -> None:
    content, match = CONTENT[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, match)


@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_truncated(part: float, tmp_path: Path) -> None:
    whole = conv_net().model().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * part)])
    refused(path, "truncated|not valid ONNX")


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.onnx", "the file does not exist")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "it is a folder; name the file in it")


def test_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe.onnx"
    os.mkfifo(path)
    refused(path, "not a regular file")


def test_name_too_long() -> None:
    refused(Path("x" * 5000), "cannot read model")


def test_unreadable(tmp_path: Path) -> None:
    path = conv_net().save(tmp_path / "model.onnx")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads every file")
    refused(path, "Permission denied")


def test_larger_than_protobuf_allows(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 10)  # sparse: takes no disk
    refused(path, "at most 2 GiB; save it with its weights as external data")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_weights_that_are_not_finite_are_named(value: float, dtype: str, tmp_path: Path) -> None:
    g = Graph()
    weights = np.ones((4, 3), dtype)
    weights[1, 2] = value
    x = g.op("Cast", g.input("x", [2, 3]), to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
    g.output(
        g.op("Gemm", x, g.weight(weights, "broken"), transB=1),
        dtype=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
    )
    word = "1 NaN value" if np.isnan(value) else "1 infinite value"
    refused(g.save(tmp_path / "model.onnx"), rf"'broken' \[4, 3\] has {word}")


def test_every_broken_weight_is_named(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 3])
    x = g.op("Gemm", x, g.weight(np.full((3, 3), np.nan, np.float32), "first"))
    constant = helper.make_tensor("v", 1, [3], [1.0, np.inf, 2.0])
    g.nodes.append(helper.make_node("Constant", [], ["second"], value=constant))
    g.output(g.op("Mul", x, "second"))
    refused(g.save(tmp_path / "model.onnx"), r"'first' \[3, 3\] has 9 NaN values; 'second'")


def test_infinity_as_mask_or_bound_is_no_broken_weight(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [3, 3])
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    x = g.op("Softmax", g.op("Add", x, g.weight(mask)))
    g.output(g.op("Clip", x, g.weight(np.float32(0.1)), g.weight(np.float32(np.inf))))
    assert load_model(g.save(tmp_path / "model.onnx")).outputs[0].shape == (3, 3)


def _twice_initialized(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _twice_an_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


def _twice_computed(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def _missing_value(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nobody_makes_this"


def _missing_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nobody_makes_this"


def _missing_attribute(model: onnx.ModelProto) -> None:
    pool = next(n for n in model.graph.node if n.op_type == "MaxPool")
    del pool.attribute[:]


def _short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 8


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _wrong_channels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def _unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 102


def _text_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


def _sequence_output(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_sequence_value_info(model.graph.output[0].name, 1, None)
    model.graph.output[0].CopyFrom(info)


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "twice-initialized": (_twice_initialized, "initializer name 'w' is used more than once"),
    "twice-an-input": (_twice_an_input, "input name 'x' is used more than once"),
    "twice-computed": (_twice_computed, "value name 't0_0' is used more than once"),
    "missing-value": (_missing_value, "not valid ONNX.*nobody_makes_this"),
    "missing-output": (_missing_output, "output 'nobody_makes_this'"),
    "missing-attribute": (_missing_attribute, "not valid ONNX.*kernel_shape"),
    "short-weight": (_short_weight, "not valid ONNX|weight 'w'"),
    "cycle": (_cycle, "not valid ONNX: Nodes in a graph must be topologically sorted"),
    "wrong-channels": (_wrong_channels, r"Conv \('.*'\): .*data channel size is 4"),
    "unknown-type": (_unknown_type, "'x' has the unknown element type 102"),
    "text-input": (_text_input, "'x' holds text, not numbers"),
    "sequence-output": (_sequence_output, "only tensors can be returned"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_graph(kind: str, tmp_path: Path) -> None:
    damage, match = GRAPHS[kind]
    model = conv_net().model()
    damage(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    refused(path, match)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(conv_net().model().SerializeToString().replace(b"relu_2", b"relu\xff\xfe"))
    refused(path, "is not UTF-8 text; the file is damaged")


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(conv_net().save(tmp_path / "model.onnx"))
    assert capfd.readouterr() == ("", "")
