"""Writing artifacts: small, in one step, and clear where it cannot be done."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.artifact import writer
from lepton_tvm.errors import ArtifactError
from tests.support import toy_artifact as toy
from tests.support.manifests import manifest


def test_toy_is_small_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so")
    assert [p.name for p in tmp_path.iterdir()] == ["model.so"]
    # 25 kB with the flags of TVM's own export
    assert (tmp_path / "model.so").stat().st_size < 20_000


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("LEPTON_TVM_CC", raising=False)
    with pytest.raises(ArtifactError, match=r"no C compiler found .* install gcc"):
        toy.write(tmp_path / "model.so")
    assert list(tmp_path.iterdir()) == []


def test_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "mycc"
    compiler.write_text("#!/bin/sh\necho 'no space left, says mycc' >&2; exit 3\n")
    compiler.chmod(0o755)
    with pytest.raises(ArtifactError, match=r"mycc could not link .* no space left, says mycc"):
        writer.save(toy.dense()[0], tmp_path / "model.so", manifest(), cc=str(compiler))


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        toy.write(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.so"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_for_real(tmp_path: Path) -> None:
    link = tmp_path / f".model.so.{os.getpid()}.tmp"
    link.symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match="the disk is full"):
        writer.write_atomic(tmp_path / "model.so", b"x" * 10_000)


def test_folder_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="does not exist; create it first"):
        toy.write(tmp_path / "none" / "model.so")
    with pytest.raises(ArtifactError, match="it is a folder"):
        toy.write(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ArtifactError, match="is read-only for this user"):
        toy.write(tmp_path / "model.so")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    class Broken:
        def export_library(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("nothing to export")

    with pytest.raises(ArtifactError, match="cannot be exported: nothing to export"):
        writer.save(Broken(), tmp_path / "model.so", manifest())
