"""Databases that cannot be read: one sentence, exit code 2, and nothing made or changed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_tvm.db import open_database
from tests.db.summary_contract import fill
from tests.support.command_line import Ended, Lepton

READING = (("list",), ("show", "big"), ("why", "big", "--target", "x86:avx2"), ("gc",))


def stored(file: Path) -> None:
    """A database with a model and its trials."""
    with open_database(str(file)) as database:
        fill(database, 200, kernels=4)


def cut(share: float) -> Callable[[Path], None]:
    """A database of which so much is left."""

    def make(file: Path) -> None:
        stored(file)
        os.truncate(file, int(file.stat().st_size * share) // 512 * 512)

    return make


def overwritten(file: Path) -> None:
    """A database whose schema can be read, and none of its records."""
    stored(file)
    data = bytearray(file.read_bytes())
    for page in range(10, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    file.write_bytes(data)


def statement(sql: str, known: bool = False) -> Callable[[Path], None]:
    """A database, ours where it is `known`, after a statement."""

    def make(file: Path) -> None:
        if known:
            stored(file)
        with sqlite3.connect(file) as connection:
            connection.executescript(sql)
        connection.close()

    return make


@pytest.mark.parametrize("words", READING, ids=" ".join)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "does not exist; lepton-tvm compile makes one"),
        (Path.mkdir, "is a folder; give a file"),
        (Path.touch, "is empty; lepton-tvm compile fills it"),
        (lambda file: file.write_text("a text\n" * 40), "is not a SQLite database"),
        (lambda file: file.write_bytes(b"SQLite for"), "is not a SQLite database"),
        (cut(0.5), "is damaged; restore it from a copy"),
        (cut(0.01), "is damaged; restore it from a copy"),
        (overwritten, "is damaged; restore it from a copy"),
        (statement("CREATE TABLE songs(title)"), "tables of another program (songs)"),
        (statement("CREATE TABLE a(b); DROP TABLE a"), "is empty; lepton-tvm compile fills it"),
        (
            statement("UPDATE alembic_version SET version_num = '0099'", known=True),
            "has schema 0099, this lepton_tvm knows up to",
        ),
        (
            statement("CREATE VIEW trick AS SELECT 1", known=True),
            "holds the view 'trick', which lepton_tvm never makes",
        ),
    ],
    ids=[
        "missing", "folder", "empty", "text", "ten bytes", "half", "start", "overwritten",
        "another program", "no tables", "newer", "view",
    ],
)  # fmt: skip
def test_file_that_is_none_of_ours(
    make: Callable[[Path], None], message: str, words: tuple[str, ...], lepton: Lepton
) -> None:
    file = Path("some.db")
    make(file)
    before = _contents()
    refused(lepton("db", *words, "--db", file), message)
    assert _contents() == before


@pytest.mark.parametrize("words", [("merge", "other.db"), ("import", "other.db")], ids=" ".join)
@pytest.mark.parametrize("make", [lambda file: None, Path.touch, cut(0.5)], ids=["no", "0", "half"])
def test_bad_source_makes_no_database(
    make: Callable[[Path], None], words: tuple[str, ...], lepton: Lepton
) -> None:
    make(Path("other.db"))
    before = _contents()
    ended = lepton("db", *words)
    assert (ended.code, ended.out) == (2, "")
    assert "other.db" in ended.err
    assert _contents() == before


def refused(ended: Ended, message: str) -> None:
    """Exit code 2 and one line."""
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: database ")
    assert message in line


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://localhost:1/x", "no server listens there"),
        ("postgresql://localhost:1", "the URL names no database"),
        ("postgresql://me:secret@name.invalid/x", "its host name is not known"),
        ("mysql://host/name", "only sqlite:///FILE and postgresql+psycopg://... are supported"),
        ("nowhere/some.db", "does not exist; create it with: mkdir -p"),
    ],
)
def test_place_that_is_none(
    url: str, message: str, lepton: Lepton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEPTON_TVM_ARTIFACTS", str(tmp_path / "artifacts"))
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    ended = lepton("db", "list", "--db", url)
    refused(ended, message)
    assert "secret" not in ended.err
    assert _contents() == {}


def test_read_only_file_and_folder_can_be_read(lepton: Lepton) -> None:
    folder = Path("shared")
    folder.mkdir()
    stored(folder / "some.db")
    (folder / "some.db").chmod(0o444)
    folder.chmod(0o555)
    before = _contents()
    try:
        for words in READING[:3]:
            assert lepton("db", *words, "--db", folder / "some.db").code == 0
        refused(lepton("db", "list", "--db", folder / "none.db"), "does not exist")
    finally:
        folder.chmod(0o755)
    assert _contents() == before


def test_reading_leaves_a_file_as_it_is(lepton: Lepton) -> None:
    stored(Path("some.db"))
    before = _contents()
    for words in READING[:3]:
        assert lepton("db", *words, "--db", "some.db").code == 0
    assert _contents() == before


def test_file_that_may_not_be_read(lepton: Lepton, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(Path("some.db"))

    def closed(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", closed)  # root may read everything
        refused(lepton("db", "list", "--db", "some.db"), "some.db: Permission denied")


def _contents() -> dict[str, bytes]:
    """Every file below the working folder."""
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}
