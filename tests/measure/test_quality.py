"""Accuracy, agreement and SQNR against plain NumPy, and what is not measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lepton_tvm.errors import InputError
from lepton_tvm.measure import Quality, QualityMeter


def judged(outputs: Any, reference: Any = None, labels: Any = None) -> Quality:
    meter = QualityMeter()
    their = None if reference is None else [np.asarray(reference)]
    meter.add([np.asarray(outputs)], their, None if labels is None else np.asarray(labels))
    return meter.result()


def test_numbers_by_hand() -> None:
    float_ = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [0.0, 4.0]])
    mine = float_ + np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    found = judged(mine, float_, [0, 0, 0, 1])
    assert (found.n, found.metric, found.accuracy, found.agreement) == (4, "top1", 0.5, 0.75)
    assert found.sqnr_db == pytest.approx(10 * math.log10(31 / 4))


def test_streams_like_one_piece() -> None:
    generator = np.random.default_rng(0)
    float_, noise = generator.standard_normal((2, 20, 5))
    labels = generator.integers(0, 5, 20)
    meter = QualityMeter()
    for i in range(0, 20, 4):
        rows = slice(i, i + 4)
        meter.add([float_[rows] + noise[rows]], [float_[rows]], labels[rows])
    whole, parts = judged(float_ + noise, float_, labels), meter.result()
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db)
    assert (parts.accuracy, parts.agreement, parts.n) == (whole.accuracy, whole.agreement, 20)


def test_what_was_not_measured_is_none() -> None:
    scores = np.eye(3)
    assert judged(scores) == Quality(3, None, None, None, None)
    assert judged(scores, scores).agreement == 1.0
    assert judged(scores, scores).sqnr_db == math.inf
    assert judged(np.zeros((2, 3, 4, 4)), np.ones((2, 3, 4, 4))).agreement is None
    assert judged(np.zeros((4, 1)), np.ones((4, 1)), [0, 0, 0, 0]).accuracy is None


def test_sequences_of_distributions_are_compared_by_position() -> None:
    float_ = np.array([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]])
    mine = np.array([[[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]]])
    assert judged(mine, float_).agreement == pytest.approx(2 / 3)
    assert judged(mine, float_ * 3).agreement is None


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="2 labels for 3 rows"):
        judged(np.eye(3), labels=[0, 1])
    with pytest.raises(InputError, match="differ in shape"):
        judged(np.eye(3), np.eye(4))
    with pytest.raises(InputError, match="no samples to evaluate"):
        QualityMeter().result()
