"""`compile --dump DIR`: the module after every phase as a file that people can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_tvm.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import tvm

    from lepton_tvm.compiler.phase import Hook

__all__ = ["check_dump", "dump_to"]


def check_dump(folder: str | Path) -> None:
    """Raise InputError unless `folder` is empty, or not there and can be made; makes nothing."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"cannot dump to {path}: it is a file; name a folder")
    parent = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot dump to {path}: {parent} cannot be written; name another folder")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"cannot dump to {path}: the folder is not empty; name a new one")


def dump_to(folder: str | Path) -> Hook:
    """A hook that writes the module after every phase to `folder`, which it makes.

    The files are TVM's script of the module, in the order of their names: `04-legalize.py`.
    Constants of more than one element are left out, so they stay small. Where a tuned model is
    lowered twice, the files show the second time. Raises InputError as `check_dump` does, and
    ArtifactError where a file cannot be written.
    """
    check_dump(folder)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot dump to {path}: {error.strerror or error}") from error

    def write(index: int, name: str, module: tvm.IRModule) -> None:
        file = path / f"{index:02d}-{name}.py"
        try:
            file.write_text(module.script() + "\n", "utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write {file}: {error.strerror or error}") from error

    return write
