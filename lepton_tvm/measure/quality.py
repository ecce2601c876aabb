"""How well a variant computes: accuracy against labels, agreement and SQNR against float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError

__all__ = ["Quality", "QualityMeter"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Quality:
    """What was found on `n` rows; None where it was not measured.

    `accuracy` is the share of rows whose largest score is the label (`top1`). `agreement` is the
    share of rows (for sequences of distributions: positions) where the largest score is where the
    float model has it. `sqnr_db` is 10 log10 of the power of the float model's outputs over that of
    the difference, all outputs together; infinite where there is none.
    """

    n: int
    metric: str | None
    accuracy: float | None
    agreement: float | None
    sqnr_db: float | None


class QualityMeter:
    """Collects outputs sample by sample and holds none of them.

    Top-1 needs a first output of shape [N, C] with C > 1. Agreement needs that too, or [N, T, C]
    where the float model's last axis are distributions (no negative values, each summing to 1): the
    largest entry of any other output means nothing, and then agreement is None.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._labelled = 0
        self._correct = 0
        self._compared = 0
        self._agreed = 0
        self._against = False
        self._signal = 0.0
        self._noise = 0.0

    def add(
        self, outputs: Sequence[Array], reference: Sequence[Array] | None, labels: Array | None
    ) -> None:
        """One sample: outputs in the model's order, the float model's, labels of its rows."""
        first = outputs[0]
        self._rows += first.shape[0] if first.ndim else 1
        if labels is not None:
            self._score(first, labels)
        if reference is not None:
            self._compare(outputs, reference)

    def result(self) -> Quality:
        """What was found so far. Raises InputError where no sample was added."""
        if not self._rows:
            raise InputError("the data holds no samples to evaluate on")
        return Quality(
            n=self._rows,
            metric="top1" if self._labelled else None,
            accuracy=self._correct / self._labelled if self._labelled else None,
            agreement=self._agreed / self._compared if self._compared else None,
            sqnr_db=self._sqnr() if self._against else None,
        )

    def _score(self, scores: Array, labels: Array) -> None:
        if not _is_top1(scores):
            return
        if len(labels) != len(scores):
            raise InputError(f"{len(labels)} labels for {len(scores)} rows of scores")
        self._labelled += len(labels)
        self._correct += int((scores.argmax(-1) == labels).sum())

    def _compare(self, outputs: Sequence[Array], reference: Sequence[Array]) -> None:
        self._against = True
        for mine, its in zip(outputs, reference, strict=True):
            if mine.shape != its.shape:
                raise InputError(
                    f"outputs of the variants differ in shape: {list(mine.shape)} and "
                    f"{list(its.shape)}"
                )
            expected = its.astype(np.float64)
            self._signal += float(np.sum(expected**2))
            self._noise += float(np.sum((mine.astype(np.float64) - expected) ** 2))
        mine, its = outputs[0], reference[0]
        if not _is_top1(its) and not _is_distribution(its):
            return
        same = mine.argmax(-1) == its.argmax(-1)
        self._compared += same.size
        self._agreed += int(same.sum())

    def _sqnr(self) -> float | None:
        if not math.isfinite(self._noise) or not math.isfinite(self._signal):
            return None
        if self._noise == 0.0:
            return math.inf
        return 10 * math.log10(self._signal / self._noise) if self._signal else -math.inf


def _is_top1(scores: Array) -> bool:
    return scores.ndim == 2 and scores.shape[1] > 1


def _is_distribution(values: Array) -> bool:
    if values.ndim != 3 or values.shape[-1] < 2 or values.dtype.kind != "f":
        return False
    return bool(values.min() >= 0 and np.allclose(values.sum(-1), 1, atol=1e-3))
