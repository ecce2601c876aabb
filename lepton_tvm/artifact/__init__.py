"""The compiled file: one shared library with its manifest inside. Imports no compiler."""

from lepton_tvm.artifact.container import file_sha256, read_manifest, verify
from lepton_tvm.artifact.manifest import MANIFEST_VERSION, Manifest, check_manifest
from lepton_tvm.artifact.writer import save

__all__ = [
    "MANIFEST_VERSION",
    "Manifest",
    "check_manifest",
    "file_sha256",
    "read_manifest",
    "save",
    "verify",
]
