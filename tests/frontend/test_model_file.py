"""The `.lepton` file gives the same model back, or says why it cannot."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax

from lepton_tvm.errors import InputError, ModelError
from lepton_tvm.frontend import load_model, save_model
from lepton_tvm.model import Model, Step, TensorInfo
from tests.support.onnx_models import Graph, conv_net


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(conv_net().save(tmp_path_factory.mktemp("onnx") / "net.onnx"))


def test_round_trip(model: Model, tmp_path: Path) -> None:
    step = Step("quantize", {"bits": 8, "scale": 0.25}, ({"name": "p", "skipped": []},))
    changed = model.derive(model.module, step, calibration_sha256="ab" * 32, precision="int8")
    path = tmp_path / "net.lepton"
    save_model(changed, path)
    back = load_model(path)
    assert tvm_ffi.structural_equal(back.module, model.module)
    assert back.module.script() == model.module.script()
    assert back.to_json() == changed.to_json()
    assert back.precision == "int8"
    assert os.listdir(tmp_path) == ["net.lepton"]


def test_the_weights_are_part_of_equality(model: Model, tmp_path: Path) -> None:
    """Guards the test above: equality does look at the constants."""
    path = tmp_path / "net.lepton"
    save_model(model, path)
    replace_member(path, "weights/0.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert not tvm_ffi.structural_equal(load_model(path).module, model.module)


def test_same_model_same_bytes(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a.lepton")
    save_model(model, tmp_path / "b.lepton")
    assert (tmp_path / "a.lepton").read_bytes() == (tmp_path / "b.lepton").read_bytes()


@pytest.mark.parametrize(
    "dtype", ["float16", "float64", "bfloat16", "int8", "uint8", "int32", "int64", "bool"]
)
def test_every_dtype_of_weights(dtype: str, tmp_path: Path) -> None:
    values = relax.const(np.array([[0, 1, 2], [3, 4, 5]]).astype("float32"))
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), dtype))
    raw = values.value.numpy()
    array = raw.astype(_numpy_dtype(dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            made = builder.emit(relax.op.where(relax.const(raw > 2), x, relax.const(array, dtype)))
            result = builder.emit_output(made)
        builder.emit_func_output(result)
    info = (TensorInfo("x", (2, 3), dtype),)
    before = Model(builder.get(), info, info, "m", "0" * 64)
    save_model(before, tmp_path / "m.lepton")
    assert tvm_ffi.structural_equal(load_model(tmp_path / "m.lepton").module, before.module)


def _numpy_dtype(dtype: str) -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype


def test_quantized_operators(tmp_path: Path) -> None:
    g = Graph(13)
    scale, zero = g.weight(np.float32(0.05)), g.weight(np.uint8(128))
    x = g.op("QuantizeLinear", g.input("weight_0", [1, 4, 8, 8]), scale, zero)
    x = g.op("DequantizeLinear", x, scale, zero)
    w = g.weight(g.rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8))
    scales = g.weight(g.rng.uniform(0.01, 0.02, 6).astype(np.float32))
    w = g.op("DequantizeLinear", w, scales, g.weight(np.zeros(6, np.int8)), axis=0)
    g.output(g.op("Conv", x, w, pads=[1, 1, 1, 1]))
    before = load_model(g.save(tmp_path / "model.onnx"))
    save_model(before, tmp_path / "m.lepton")
    after = load_model(tmp_path / "m.lepton")
    assert tvm_ffi.structural_equal(after.module, before.module)
    assert after.module.script() == before.module.script()


def test_nothing_needs_pickle(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    save_model(model, path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert all(m.compress_type == zipfile.ZIP_STORED for m in archive.infolist())
        for name in names:
            if name.endswith(".npy"):
                with archive.open(name) as stream:
                    np.lib.format.read_array(stream, allow_pickle=False)
        text = archive.read("module.json")
    assert "manifest.json" in names
    assert "weights/0.npy" in names
    assert len(text) < 60_000


def replace_member(path: Path, name: str, change: Callable[[bytes], bytes] | None) -> None:
    """Rewrite the archive with one member changed, or left out."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    if change is None:
        del members[name]
    else:
        members[name] = change(members[name])
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in members.items():
            archive.writestr(key, data)


def in_manifest(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes] | None, str]] = {
    "newer": ("manifest.json", in_manifest(format_version=99), "format version 99.*upgrade"),
    "unknown-version": ("manifest.json", in_manifest(format_version="x"), "'x' is not known"),
    "foreign": ("manifest.json", in_manifest(format="other"), "not that of a .lepton file"),
    "manifest-noise": ("manifest.json", lambda _: b"\xff{", "not that of a .lepton file"),
    "no-manifest": ("manifest.json", None, "a zip archive, but not a .lepton file"),
    "no-module": ("module.json", None, "its content does not load"),
    "no-weight": ("weights/0.npy", None, "its content does not load"),
    "half-a-module": ("module.json", lambda data: data[: len(data) // 2], "does not load"),
    "another-object": (
        "module.json",
        lambda _: tvm.ir.save_json(tvm.ir.Range(0, 3)).encode(),
        "does not hold a module",
    ),
    "other-weight": ("weights/0.npy", lambda data: data[:-8], "its content does not load"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_archives(kind: str, model: Model, tmp_path: Path) -> None:
    member, change, match = DAMAGE[kind]
    path = tmp_path / "net.lepton"
    save_model(model, path)
    replace_member(path, member, change)
    with pytest.raises(ModelError, match=match) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_another_tvm_is_named_when_the_content_does_not_load(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    save_model(model, path)
    replace_member(path, "manifest.json", in_manifest(tvm="0.99"))
    load_model(path)
    replace_member(path, "module.json", lambda _: b"{}")
    here = re.escape(tvm.__version__)
    with pytest.raises(ModelError, match=rf"written with TVM 0\.99, and this is TVM {here}"):
        load_model(path)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated(part: float, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelError, match="truncated or damaged"):
        load_model(path)


def test_any_flipped_byte_of_a_weight_is_noticed(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    save_model(model, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("weights/0.npy").header_offset
    data[start + 400] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="truncated or damaged"):
        load_model(path)


def test_compressed_members_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    save_model(model, path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    with pytest.raises(ModelError, match="is compressed"):
        load_model(path)


def test_text_under_our_suffix(tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    path.write_text("hello")
    with pytest.raises(ModelError, match=r"not a \.lepton file"):
        load_model(path)


def test_shapes_are_fixed(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "net.lepton"
    save_model(model, path)
    assert load_model(path, shapes={"x": (1, 3, 16, 16)}, name="new").name == "new"
    with pytest.raises(ModelError, match="a saved model whose shapes are fixed"):
        load_model(path, shapes={"x": (2, 3, 16, 16)})


def test_an_older_file_stays_when_writing_fails(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.lepton"
    path.write_bytes(b"older")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write model .*: No space left on device"):
        save_model(model, path)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["net.lepton"]


def test_nowhere_to_write(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        save_model(model, tmp_path / "no" / "such" / "folder.lepton")
    with pytest.raises(InputError, match="it is a folder"):
        save_model(model, tmp_path)
