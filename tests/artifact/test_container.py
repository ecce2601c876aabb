"""The container: what is written is read back, and any damage is found without loading code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_tvm import artifact
from lepton_tvm.artifact.container import MAGIC, pack
from lepton_tvm.errors import ArtifactError
from tests.support import toy_artifact as toy
from tests.support.manifests import manifest

CODE = b"\x7fELF" + bytes(range(256)) * 4


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("container") / "model.so"
    path.write_bytes(CODE + pack(CODE, manifest()))
    return path


def test_manifest_comes_back(stored: Path) -> None:
    assert artifact.read_manifest(stored) == manifest()
    assert manifest()["cpu_features"] == ["avx2", "fma"]
    assert artifact.verify(stored)[1] == hashlib.sha256(stored.read_bytes()).hexdigest()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(stored: Path, tmp_path: Path, place: float, bit: int) -> None:
    data = bytearray(stored.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    broken = tmp_path / "broken.so"
    broken.write_bytes(data)
    with pytest.raises(ArtifactError):
        artifact.read_manifest(broken)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_found(stored: Path, tmp_path: Path, place: float) -> None:
    data = stored.read_bytes()
    broken = tmp_path / "broken.so"
    broken.write_bytes(data[: int(place * len(data))])
    with pytest.raises(ArtifactError):
        artifact.read_manifest(broken)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"just text", "not a shared library"),
        (CODE, "no lepton_tvm manifest at its end: it was cut short"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        artifact.read_manifest(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        artifact.read_manifest(tmp_path / "none.so")
    with pytest.raises(ArtifactError, match="cannot read artifact"):
        artifact.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2, this lepton_tvm reads up to 1; upgrade lepton_tvm"),
        ({"version": "1"}, "no usable version"),
        ({"format": "someone else's"}, "is not ours"),
        ({"kernels": None}, "no usable 'kernels'"),
        ({"outputs": []}, "names no outputs"),
        ({"inputs": [{"name": "x"}]}, "describes a tensor badly"),
    ],
)
def test_manifests_that_are_not_understood(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(CODE + pack(CODE, {**manifest(), **changes}))
    with pytest.raises(ArtifactError, match=message):
        artifact.read_manifest(path)


def test_newer_container_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.so"
    monkeypatch.setattr("lepton_tvm.artifact.container.CONTAINER_VERSION", 9)
    path.write_bytes(CODE + pack(CODE, manifest()))
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="container version 9"):
        artifact.read_manifest(path)


def test_manifest_is_json_and_the_file_ends_with_magic(stored: Path) -> None:
    assert json.loads(json.dumps(manifest())) == manifest()
    assert stored.read_bytes().endswith(MAGIC)


def test_same_model_gives_same_bytes(tmp_path: Path) -> None:
    first = toy.write(tmp_path / "a.so")
    assert toy.write(tmp_path / "b.so") == first
    assert artifact.file_sha256(tmp_path / "a.so") == first
