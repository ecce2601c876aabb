"""What an artifact says about itself: the fields of its manifest, made and checked in one place."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from lepton_tvm.errors import ArtifactError

__all__ = ["MANIFEST_VERSION", "Manifest", "check_manifest", "versions"]

FORMAT = "lepton_tvm artifact"
MANIFEST_VERSION = 1
_PACKAGES = {"tvm": "apache-tvm", "ffi": "apache-tvm-ffi", "lepton_tvm": "lepton_tvm"}
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "precision": str,
    "inputs": list,
    "outputs": list,
    "target": str,
    "arch": str,
    "isa": str,
    "cpu_features": list,
    "versions": dict,
    "recipe": list,
    "source_sha256": str,
    "kernels": list,
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is to be said of an artifact; `to_json` is what is stored in it.

    `name` is the model's, `variant` what was made of it (`float32`, `int8`, `pruned + int8`).
    `inputs` and `outputs` are dicts with `name`, `shape`, `dtype` and, where the tensor holds
    quantized numbers, `quantization`. `cpu_features` are names as /proc/cpuinfo writes them.
    `macs` counts multiply-adds of one run; `memory` is in bytes. `gpu` (None for CPUs)
    holds `archs`, what machine code is there for, and `capability`, the oldest that can run it (80
    for 8.0). The order of inputs is the order in which the compiled `main` takes them.
    """

    name: str
    precision: str
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    target: str
    isa: str
    cpu_features: Iterable[str]
    source_sha256: str
    variant: str | None = None
    arch: str | None = None
    calibration_sha256: str | None = None
    recipe: Sequence[Mapping[str, Any]] = ()
    kernels: Sequence[Mapping[str, Any]] = ()
    macs: int | None = None
    memory: Mapping[str, int] | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    gpu: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The complete manifest; raises ArtifactError where a field cannot be used."""
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": MANIFEST_VERSION,
            "name": self.name,
            "variant": self.variant or self.precision,
            "precision": self.precision,
            "inputs": [_tensor(t) for t in self.inputs],
            "outputs": [_tensor(t) for t in self.outputs],
            "target": self.target,
            "arch": self.arch or platform.machine(),
            "isa": self.isa,
            "cpu_features": sorted(set(self.cpu_features)),
            "versions": versions(),
            "recipe": [dict(s) for s in self.recipe],
            "source_sha256": self.source_sha256,
            "calibration_sha256": self.calibration_sha256,
            "kernels": [dict(k) for k in self.kernels],
            "macs": self.macs,
            "memory": dict(self.memory) if self.memory is not None else None,
            "seeds": dict(self.seeds),
            "gpu": dict(self.gpu) if self.gpu is not None else None,
        }
        check_manifest(manifest, "(new)")
        return manifest


def check_manifest(manifest: Mapping[str, Any], path: str) -> None:
    """Raise ArtifactError unless `manifest` is one that this version understands."""
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"the manifest of {path} is not ours: format is {manifest.get('format')!r}, "
            f"expected {FORMAT!r}"
        )
    version = manifest.get("version")
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(f"the manifest of {path} has no usable version: {version!r}")
    if version > MANIFEST_VERSION:
        raise ArtifactError(
            f"the manifest of {path} has version {version}, this lepton_tvm reads up to "
            f"{MANIFEST_VERSION}; upgrade lepton_tvm"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise ArtifactError(
                f"the manifest of {path} has no usable {key!r}: found {manifest.get(key)!r}"
            )
    for tensor in (*manifest["inputs"], *manifest["outputs"]):
        if not isinstance(tensor, dict) or not {"name", "shape", "dtype"} <= set(tensor):
            raise ArtifactError(f"the manifest of {path} describes a tensor badly: {tensor!r}")
    gpu = manifest.get("gpu")
    if gpu is not None and not (isinstance(gpu, dict) and {"archs", "capability"} <= set(gpu)):
        raise ArtifactError(f"the manifest of {path} describes its GPU badly: {gpu!r}")
    if not manifest["outputs"]:
        raise ArtifactError(f"the manifest of {path} names no outputs")


def versions() -> dict[str, str | None]:
    """The installed versions of tvm, ffi and lepton_tvm (None where a package has no metadata)."""
    return {key: _version(package) for key, package in _PACKAGES.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": tensor["name"],
        "shape": [int(d) for d in tensor["shape"]],
        "dtype": tensor["dtype"],
        "quantization": tensor.get("quantization"),
    }
