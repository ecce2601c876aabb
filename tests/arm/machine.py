"""An ARM machine to run code on: an arm64 Python under qemu, made from Debian's and PyPI's files.

Debian's arm64 packages are fetched by apt in a private configuration (nothing of the host's changes
and root is not needed) and unpacked into a folder of the cache; PyPI's aarch64 wheels lie beside
them. Where something is missing, `machine()` skips the running test with the reason.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import platformdirs
import pytest

__all__ = ["ARCHITECTURE", "Machine", "Unavailable", "machine", "prepare"]

ARCHITECTURE = "aarch64"
_QEMU = ("qemu-aarch64-static", "qemu-aarch64")  # newer Debians have the second name
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
# What `lepton_tvm.runtime`, the command line and TVM's RPC import.
_WHEELS = ("numpy", "psutil", "tornado", "cloudpickle", "platformdirs", "typer", "rich")
_PINNED = ("apache-tvm", "apache-tvm-ffi")
_UNUSED = ("libtvm_compiler.so",)  # 250 MB that a device does not need
_REPOSITORY = Path(__file__).parents[2]


class Unavailable(Exception):
    """There is no ARM machine here; the message says why."""


@dataclass(frozen=True)
class Machine:
    """An emulated ARM machine; `python` is a program that works as its `sys.executable`."""

    python: Path

    def environment(self, cpu: str) -> dict[str, str]:
        """The environment for processes on `cpu` (a name that qemu knows: `cortex-a72`, `max`)."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV", "QEMU"))}
        more = {"QEMU_CPU": cpu, "TVM_USE_RUNTIME_LIB": "1", "PYTHONPATH": str(_REPOSITORY)}
        return {**kept, **more}

    def run(
        self, cpu: str, *arguments: str | Path, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with `arguments` on `cpu`."""
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            env=self.environment(cpu),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def machine() -> Machine:
    """The machine; skips the running test, with the reason, where there is none."""
    made = _prepared()
    if isinstance(made, str):
        pytest.skip(f"no emulated ARM machine: {made}")
    return made


@functools.cache
def _prepared() -> Machine | str:
    try:
        return prepare()
    except Unavailable as reason:
        return str(reason)


def prepare() -> Machine:
    """The machine, made on first use (about 20 s) and cached; raises Unavailable."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"it is emulated on x86_64 only, this machine is {platform.machine()}")
    if _qemu() is None:
        raise Unavailable(f"{_QEMU[0]} is missing (Debian: apt-get install qemu-user-static)")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is missing")
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if not Path(_KEYRING).is_file() or not release:
        raise Unavailable("this is not Debian: its arm64 packages cannot be checked")
    pins = [f"{name}=={metadata.version(name)}" for name in _PINNED]
    key = "-".join(["arm64", release, *(p.rpartition("==")[2] for p in pins)])
    cache = Path(platformdirs.user_cache_dir("lepton-tvm"))
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes may start together
        folder = cache / key
        if not (folder / "python").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _unpack(_debian_packages(folder, release), folder / "root")
            _install(pins, folder)
            _write_wrapper(folder)
            shutil.rmtree(folder / "apt")
    return Machine(folder / "python")


def _qemu() -> str | None:
    return next((path for name in _QEMU if (path := shutil.which(name))), None)


def _debian_packages(folder: Path, release: str) -> list[Path]:
    apt = folder / "apt"
    (apt / "state/lists/partial").mkdir(parents=True)
    archives = apt / "cache/archives"
    (archives / "partial").mkdir(parents=True)
    (apt / "status").touch()
    sources = apt / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] http://deb.debian.org/debian {release} main\n")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
    }
    get = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    _must(*get, "update")
    _must(*get, "install", "-y", "--download-only", *_DEBIAN)
    return sorted(archives.glob("*.deb"))


def _unpack(packages: list[Path], root: Path) -> None:
    for name in ("bin", "lib"):  # some packages still name /lib
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        _must("dpkg-deb", "-x", str(package), str(root))


def _install(pins: list[str], folder: Path) -> None:
    version = _python(folder).name.removeprefix("python")
    platforms = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
    _must(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--target", str(folder / "site"), "--only-binary=:all:", "--python-version", version,
        "--implementation", "cp", *(a for p in platforms for a in ("--platform", p)),
        *pins, *_WHEELS,
    )  # fmt: skip
    for name in _UNUSED:
        for path in (folder / "site").rglob(name):
            path.unlink()


def _python(folder: Path) -> Path:
    return next(p for p in (folder / "root/usr/bin").glob("python3.*") if p.suffix[1:].isdigit())


def _write_wrapper(folder: Path) -> None:
    """Child processes that start `sys.executable` run emulated as well."""
    wrapper, python = folder / "python", _python(folder)
    partial = folder / "python.part"
    partial.write_text(
        "#!/bin/sh\n"
        f"export PYTHONHOME='{folder}/root/usr'\n"
        f"export PYTHONPATH='{folder}/site'\"${{PYTHONPATH:+:$PYTHONPATH}}\"\n"
        f"exec {_qemu()} -L '{folder}/root' -0 '{wrapper}' '{python}' \"$@\"\n"
    )
    partial.chmod(0o755)
    partial.rename(wrapper)


def _must(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{' '.join(command[:3])} failed: {' '.join(said)[-300:]}")
