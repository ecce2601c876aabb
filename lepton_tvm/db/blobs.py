"""The folder of artifacts: files named by the sha256 of what they hold."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from lepton_tvm.artifact.container import file_sha256
from lepton_tvm.artifact.writer import write_atomic
from lepton_tvm.errors import ArtifactError, DatabaseError

__all__ = ["Blobs"]


class Blobs:
    """Files under `folder`, each at `ab/abcdef....so` where the name is its sha256.

    A file appears whole or not at all and is never changed; the hash is checked on every way out,
    because loading an artifact runs its code. `elsewhere` tells where a missing file may be.
    """

    def __init__(self, folder: Path, elsewhere: str = "") -> None:
        self.folder = folder
        self.elsewhere = elsewhere

    def path(self, sha256: str) -> Path:
        """Where the file of that hash lies, or would lie."""
        return self.folder / sha256[:2] / f"{sha256}.so"

    def put(self, data: bytes, sha256: str) -> Path:
        """Store `data`, whose hash the caller has checked. Raises DatabaseError."""
        path = self.path(sha256)
        if path.is_file() and file_sha256(path) == sha256:
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except (OSError, ArtifactError) as e:
            raise DatabaseError(f"cannot store artifact {sha256[:12]}: {e}") from e
        return path

    def get(self, sha256: str) -> Path:
        """The path of a stored file after its hash was checked. Raises ArtifactError."""
        path = self.path(sha256)
        if not path.is_file():
            raise ArtifactError(
                f"artifact {sha256[:12]} is recorded but its file {path} is gone; "
                + (f"{self.elsewhere}; or " if self.elsewhere else "")
                + "compile it again"
            )
        found = file_sha256(path)
        if found == sha256:
            return path
        raise ArtifactError(
            f"artifact {path} is damaged: its sha256 is {found[:12]}..., recorded is "
            f"{sha256[:12]}...; it was not loaded; compile it again"
        )

    def stored(self) -> Iterator[tuple[str, Path]]:
        """Hash and path of every stored file."""
        for path in sorted(self.folder.glob("[0-9a-f][0-9a-f]/*.so")):
            if len(path.stem) == 64 and not path.name.startswith("."):
                yield path.stem, path

    def leftovers(self, older_than_s: float) -> Iterator[Path]:
        """Temporary files of writers that were killed, older than that many seconds."""
        for path in sorted(self.folder.glob("[0-9a-f][0-9a-f]/.*.tmp")):
            if age(path) > older_than_s:
                yield path


def age(path: Path) -> float:
    """Seconds since the file was last changed; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
