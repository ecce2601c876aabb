"""The table of precisions: types that name one row, suffixes that name one row."""

from __future__ import annotations

import dataclasses
import re

import pytest

from lepton_tvm.ir.precisions import (
    FLOAT32,
    INT8,
    PRECISIONS,
    SUFFIXES,
    Precision,
    reading,
    suffix_of,
)


@pytest.mark.parametrize("row", PRECISIONS.values(), ids=lambda row: row.name)
def test_types_and_suffix_name_the_row(row: Precision) -> None:
    assert reading(row.data) is row
    assert reading(row.weight) is row
    assert suffix_of(row.data) == row.suffix
    found = re.fullmatch(f"conv2d{SUFFIXES}", f"conv2d{row.suffix}")
    assert found is not None
    assert (found.group(1) or "") == row.suffix


def test_types_of_no_row() -> None:
    assert reading("float64") is None
    assert suffix_of("float64") == ""


def test_float_kernels_have_no_suffix() -> None:
    assert FLOAT32.suffix == ""


def test_what_does_not_fill_a_lane_is_refused() -> None:
    with pytest.raises(ValueError, match="int8: 3 values do not fill a 32-bit lane"):
        dataclasses.replace(INT8, per_lane=3)
