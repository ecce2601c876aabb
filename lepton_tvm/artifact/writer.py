"""Linking a compiled module into one small shared library and writing it in one step."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_tvm.artifact.container import pack
from lepton_tvm.artifact.device_code import device_source, packer
from lepton_tvm.artifact.manifest import check_manifest
from lepton_tvm.errors import ArtifactError

__all__ = ["export_library", "find_compiler", "link", "save", "write_atomic"]

_EXPORTS = "{ global: __tvm_ffi_*; __TVM*; TVM*; local: *; };\n"
# Measured on a five-kernel model: 31 kB with none of these, 11 kB with all. Debug sections are
# most of it; the rest is padding between segments of a page each.
_LINK_FLAGS = (
    "-s",
    "-nostartfiles",
    "-Wl,-z,noseparate-code",
    "-Wl,-z,norelro",
    "-Wl,--hash-style=gnu",
    "-Wl,--build-id=none",
    "-Wl,--gc-sections",
    "-Wl,--as-needed",
)


def save(
    executable: Any,
    path: str | Path,
    manifest: dict[str, Any],
    *,
    cc: str | None = None,
    cross: str | None = None,
    device_code: bytes | None = None,
) -> str:
    """Write a compiled module and its manifest as one file; the sha256 of that file.

    `executable` is what `tvm.compile` returns (anything with `export_library`), `cc` the C compiler
    that links (default: LEPTON_TVM_CC, CC, then cc, gcc, clang), `cross` the name of the one for
    the code's architecture where that is not this machine's. `device_code` is the fat binary of the
    kernels where the executable is for a GPU (`nvrtc.compile_binary`). The file appears whole or
    not at all; the same input gives the same bytes. Raises ArtifactError when there is no C
    compiler, linking fails, or the file cannot be written.
    """
    check_manifest(manifest, str(path))
    target = Path(path)
    check_output(target)
    compiler = find_compiler(cc, cross=cross)
    with _scratch() as folder:
        library = Path(folder) / "model.so"
        export_library(executable, library, compiler, device_code)
        code = library.read_bytes()
    data = code + pack(code, manifest)
    write_atomic(target, data, mode=0o755)
    return hashlib.sha256(data).hexdigest()


def find_compiler(cc: str | None = None, *, cross: str | None = None) -> str:
    """The path of the C compiler that links artifacts.

    `cross` is the name of the one for another architecture (`Target.cross_compiler`), None where
    this machine's own does. Raises ArtifactError when there is none.
    """
    variable = "LEPTON_TVM_CC" if cross is None else "LEPTON_TVM_CROSS_CC"
    asked = cc or os.environ.get(variable) or cross or os.environ.get("CC")
    names = [asked] if asked else ["cc", "gcc", "clang"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    packages = "gcc" if cross is None else _cross_packages(cross)
    raise ArtifactError(
        f"no C compiler found to link the artifact (looked for {', '.join(names)} in PATH); "
        f"install gcc (Debian: apt-get install {packages}) or set {variable}"
    )


def _cross_packages(cross: str) -> str:
    """Debian's packages for `aarch64-linux-gnu-gcc` and the like."""
    triple = cross.removesuffix("-gcc")
    debian = {"aarch64": "arm64", "x86_64": "amd64"}.get(triple.split("-")[0])
    library = f" libc6-dev-{debian}-cross" if debian else ""
    return f"gcc-{triple.replace('_', '-')}{library}"


def link(compiler: str, output: str | Path, objects: Sequence[str | Path]) -> None:
    """Link object files into a small shared library that shows only TVM's entry points."""
    _drop_unwind_tables(compiler, objects)
    exports = Path(output).with_suffix(".map")
    exports.write_text(_EXPORTS)
    command = [compiler, "-shared", "-fPIC", "-o", str(output), *map(str, objects)]
    command += [*_LINK_FLAGS, *_page_size(compiler), f"-Wl,--version-script={exports}", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    reason = done.stderr.strip() or f"exit status {done.returncode}"
    raise ArtifactError(f"{compiler} could not link the artifact: {reason[-2000:]}")


def _page_size(compiler: str) -> tuple[str, ...]:
    """x86 has one page size; ARM machines have pages of up to 64 KiB, the linker's default."""
    return () if "aarch64" in Path(compiler).name else ("-Wl,-z,max-page-size=4096",)


def _drop_unwind_tables(compiler: str, objects: Sequence[str | Path]) -> None:
    """Leave out what only C++ exceptions and debuggers read: kernels report errors by value.

    2.7 kB of a model with 13 kernels. Done where binutils' objcopy is there, else left in.
    """
    objcopy = shutil.which(_prefix(compiler) + "objcopy")
    if objcopy is None:
        return
    for path in objects:
        sections = ("--remove-section=.eh_frame", "--remove-section=.rela.eh_frame")
        subprocess.run([objcopy, *sections, str(path)], capture_output=True, check=False)


def _prefix(compiler: str) -> str:
    """What stands before the names of a cross compiler's tools: `aarch64-linux-gnu-`."""
    name = Path(compiler).name
    return name.removesuffix("gcc") if name.endswith("-linux-gnu-gcc") else ""


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` so that `path` holds all of it or what it held before.

    Raises ArtifactError when the disk is full or the folder cannot be written.
    """
    check_output(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as e:
        raise ArtifactError(_write_failed(path, e)) from e
    finally:
        temporary.unlink(missing_ok=True)


def export_library(
    executable: Any, library: Path, compiler: str, device_code: bytes | None = None
) -> None:
    """Link a compiled module into `library`, without a manifest; raises ArtifactError."""
    source = device_source(executable)
    if (source is None) != (device_code is None):
        raise ArtifactError(
            "a module for a GPU is exported with the machine code of its kernels, others without"
        )
    options = {}
    if source is not None and device_code is not None:
        options["fpack_imports"] = packer(source, device_code)
    failures: list[ArtifactError] = []

    def fcompile(output: str, objects: list[str], options: Any = None, **_: Any) -> None:
        # An exception would come back from TVM as a RuntimeError without its type.
        try:
            link(compiler, output, objects)
        except ArtifactError as e:
            failures.append(e)
            raise

    fcompile.object_format = "o"  # type: ignore[attr-defined]
    try:
        executable.export_library(str(library), fcompile=fcompile, **options)
    except Exception as e:
        if failures:
            raise failures[0] from e
        raise ArtifactError(f"the compiled module cannot be exported: {e}") from e


def _scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="lepton_tvm_")
    except OSError as e:
        raise ArtifactError(f"cannot make a temporary folder: {e.strerror or e}") from e


def check_output(path: Path) -> None:
    """Raise ArtifactError where no file can be written at `path`; long work asks beforehand."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ArtifactError(f"cannot write {path}: folder {folder} does not exist; create it first")
    if path.is_dir():
        raise ArtifactError(f"cannot write {path}: it is a folder; give a file name")
    if not os.access(folder, os.W_OK):
        raise ArtifactError(f"cannot write {path}: folder {folder} is read-only for this user")


def _write_failed(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {path}: the disk is full; free some space and run again"
    return f"cannot write {path}: {error.strerror or error}"
