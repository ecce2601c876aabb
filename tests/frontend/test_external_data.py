"""Weights in files beside the model: read, hashed, and never from outside of its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend import load_model
from tests.support.onnx_models import assert_agrees, conv_net

DATA = "weights.bin"


def external_net(folder: Path, location: str = DATA, **entry: Any) -> Path:
    """The convolution net with weight `w` declared to be at `location`; the data is in DATA."""
    model = conv_net().model()
    weight = model.graph.initializer[0]
    (folder / DATA).write_bytes(weight.raw_data)
    set_external_data(weight, location, **entry)
    weight.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_all_weights_external(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle of this test")
    path = tmp_path / "model.onnx"
    onnx.save(
        conv_net().model(), path, save_as_external_data=True, location="all.data", size_threshold=0
    )
    assert (tmp_path / "all.data").stat().st_size > 0
    assert_agrees(load_model(path), path)


def test_hash_covers_the_data(tmp_path: Path) -> None:
    path = external_net(tmp_path)
    data = tmp_path / DATA
    whole = hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()
    assert load_model(path).source_sha256 == whole
    values = np.frombuffer(data.read_bytes(), np.float32).copy()
    values[0] += 1
    data.write_bytes(values.tobytes())
    assert load_model(path).source_sha256 != whole


def test_hash_without_external_data_is_the_file_s(tmp_path: Path) -> None:
    path = conv_net().save(tmp_path / "model.onnx")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_model(path).source_sha256 == expected


def test_subfolder_is_inside(tmp_path: Path) -> None:
    path = external_net(tmp_path, "data/w.bin")
    (tmp_path / "data").mkdir()
    (tmp_path / DATA).rename(tmp_path / "data" / "w.bin")
    assert load_model(path).inputs[0].name == "x"


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(path)
    assert "external data of weight 'w'" in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    path = external_net(tmp_path)
    (tmp_path / DATA).unlink()
    refused(path, "'weights.bin' is missing from .*; copy it beside the model")


def test_absolute(tmp_path: Path) -> None:
    refused(external_net(tmp_path, str(tmp_path / DATA)), "is absolute; only files inside")


def test_windows_absolute(tmp_path: Path) -> None:
    refused(external_net(tmp_path, "C:\\weights.bin"), "is absolute; only files inside")


@pytest.mark.parametrize("location", ["../weights.bin", "a/../../weights.bin", "..\\weights.bin"])
def test_parent(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external_net(folder, location)
    (tmp_path / "weights.bin").write_bytes((folder / DATA).read_bytes())
    refused(path, r"leads outside of the model's folder \('\.\.' is not allowed\)")


def test_symbolic_link_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external_net(folder)
    (folder / DATA).rename(tmp_path / DATA)
    (folder / DATA).symlink_to(tmp_path / DATA)
    refused(path, "a symbolic link that leads outside of the model's folder")


def test_linked_folder_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external_net(folder, "data/weights.bin")
    (tmp_path / "data").mkdir()
    (folder / DATA).rename(tmp_path / "data" / DATA)
    (folder / "data").symlink_to(tmp_path / "data")
    refused(path, "a symbolic link that leads outside of the model's folder")


def test_symbolic_link_inside(tmp_path: Path) -> None:
    path = external_net(tmp_path)
    (tmp_path / DATA).rename(tmp_path / "real.bin")
    (tmp_path / DATA).symlink_to("real.bin")
    assert load_model(path).inputs[0].name == "x"


def test_folder_for_a_file(tmp_path: Path) -> None:
    path = external_net(tmp_path)
    (tmp_path / DATA).unlink()
    (tmp_path / DATA).mkdir()
    refused(path, "not a readable regular file")


def test_truncated_data(tmp_path: Path) -> None:
    path = external_net(tmp_path)
    data = (tmp_path / DATA).read_bytes()
    (tmp_path / DATA).write_bytes(data[:-4])
    refused(path, r"takes 864 bytes, but 'weights.bin' gives 860")


def test_range_outside_of_the_file(tmp_path: Path) -> None:
    refused(external_net(tmp_path, offset=4, length=864), "bytes 4 to 868 .* the file has 864")


def test_no_location(tmp_path: Path) -> None:
    refused(external_net(tmp_path, ""), "no location is given")


def test_null_byte(tmp_path: Path) -> None:
    refused(external_net(tmp_path, "a\0b"), "not a usable path|is missing")
