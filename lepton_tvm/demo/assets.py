"""The files that ship with the demo, ready for the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import LeptonError

__all__ = ["calibration", "labelled", "model_path"]

_FOLDER = Path(__file__).parent


def model_path() -> Path:
    """The ONNX file: `input` [1,1,28,28] float32 in 0..1 -> `logits` [1,10]."""
    return _file("resnet8.onnx")


def labelled() -> dict[str, npt.NDArray[Any]]:
    """1,000 test pictures: `input` [1000,1,28,28] float32 and `label` [1000] int64."""
    with np.load(_file("test.npz"), allow_pickle=False) as data:
        return {"input": _scaled(data["pictures"]), "label": data["labels"].astype(np.int64)}


def calibration() -> dict[str, npt.NDArray[Any]]:
    """128 pictures of the training set without labels: `input` [128,1,28,28] float32."""
    with np.load(_file("calibration.npz"), allow_pickle=False) as data:
        return {"input": _scaled(data["pictures"])}


def _scaled(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return pictures.astype(np.float32)[:, None] / np.float32(255)


def _file(name: str) -> Path:
    path = _FOLDER / name
    if not path.is_file():
        raise LeptonError(f"the demo's file {path} is missing; install lepton-tvm again")
    return path
