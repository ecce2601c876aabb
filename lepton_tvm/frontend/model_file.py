"""The `.lepton` file: a model with its weights and its history, to be loaded again as it was.

A zip archive without compression: `manifest.json` (format, versions, inputs, outputs, recipe),
`module.json` (the Relax module as TVM's JSON, its weights left out) and `weights/N.npy`. Nothing
in it is pickled, and NumPy alone reads the weights.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tvm.errors import InputError, ModelError
from lepton_tvm.model import Model, Step, TensorInfo

__all__ = ["FORMAT_VERSION", "is_model_file", "read_model_file", "save_model"]

FORMAT = "lepton-model"
FORMAT_VERSION = 1


def save_model(model: Model, path: str | Path) -> None:
    """Write a model to `path` (by custom `NAME.lepton`); `load_model` gives it back as it was.

    The file appears under its name only when it is complete; an older one stays until then.
    Raises `InputError` where the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.is_dir():
        raise InputError(f"cannot write model '{path}': it is a folder; name a file in it")
    try:
        try:
            with temporary.open("xb") as file:
                _write(model, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write model '{path}': {error.strerror or error}") from None


def _write(model: Model, file: Any) -> None:
    import tvm

    from lepton_tvm.frontend.module_text import split_module, weight_array

    module = split_module(model.module)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tvm": str(tvm.__version__),
        "model": model.to_json(),
        "weights": [{"dtype": str(w.dtype), "shape": list(w.shape)} for w in module.weights],
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(_member("manifest.json"), json.dumps(manifest, indent=1))
        archive.writestr(_member("module.json"), module.text)
        for index, weight in enumerate(module.weights):
            with archive.open(_member(_weight(index)), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, weight_array(weight), allow_pickle=False)


def _weight(index: int) -> str:
    return f"weights/{index}.npy"


def _member(name: str) -> zipfile.ZipInfo:
    """An entry with a fixed date: the same model gives the same bytes."""
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))


def is_model_file(path: Path) -> bool:
    """Whether a file is, or claims to be, a `.lepton` file: by its suffix or as a zip archive."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" or path.suffix == ".lepton"


def read_model_file(path: Path) -> Model:
    """Read a `.lepton` file.

    Raises `ModelError` for a file that is truncated or damaged, is another kind of archive, or was
    written by a newer version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            manifest = _manifest(archive, path)
            module = _module(archive, manifest["weights"])
        return _model(module, manifest["model"])
    except zipfile.BadZipFile:
        raise ModelError(
            f"cannot read model '{path}': the file is truncated or damaged, or not a .lepton file; "
            "copy or save it again"
        ) from None
    except ModelError:
        raise
    except Exception as error:  # whatever the parsers of a damaged file raise
        written = _written_by(path)
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"cannot read model '{path}': its content does not load{written} "
            f"({type(error).__name__}: {first}); save it again"
        ) from None


def _module(archive: zipfile.ZipFile, weights: Sequence[Mapping[str, Any]]) -> Any:
    from lepton_tvm.frontend.module_text import join_module, npy_array

    tensors = []
    for index, info in enumerate(weights):
        with archive.open(_weight(index)) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            if stream.read(1):  # also checks the sum, which is done at the end of a member
                raise ValueError(f"'{_weight(index)}' is longer than its array")
        tensors.append(npy_array(array, info["dtype"], info["shape"]))
    return join_module(archive.read("module.json").decode("utf-8"), tensors)


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    names = archive.namelist()
    if "manifest.json" not in names:
        raise ModelError(
            f"cannot read model '{path}': a zip archive, but not a .lepton file "
            "(a PyTorch checkpoint? export it to ONNX first)"
        )
    packed = [m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ModelError(
            f"cannot read model '{path}': '{packed[0]}' in it is compressed, which save_model "
            "never does; save the model again"
        )


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(archive.read("manifest.json"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(
            f"cannot read model '{path}': a zip archive, but its manifest is not that of a "
            ".lepton file"
        )
    version = manifest.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ModelError(f"cannot read model '{path}': format version {version!r} is not known")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"cannot read model '{path}': it has format version {version}, and this lepton_tvm "
            f"reads up to {FORMAT_VERSION}; upgrade lepton_tvm"
        )
    return manifest


def _written_by(path: Path) -> str:
    import tvm

    try:
        with zipfile.ZipFile(path) as archive:
            written = json.loads(archive.read("manifest.json"))["tvm"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return ""
    if written == tvm.__version__:
        return ""
    return f"; it was written with TVM {written}, and this is TVM {tvm.__version__}"


def _model(module: Any, data: dict[str, Any]) -> Model:
    return Model(
        module,
        tuple(TensorInfo.from_json(t) for t in data["inputs"]),
        tuple(TensorInfo.from_json(t) for t in data["outputs"]),
        data["name"],
        data["source_sha256"],
        tuple(Step.from_json(s) for s in data["recipe"]),
        data["calibration_sha256"],
        data["precision"],
    )
