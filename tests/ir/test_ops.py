"""The table of operators: its names are real, and whoever reads a column knows all its words."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import tvm

from lepton_tvm.ir import cost
from lepton_tvm.ir.ops import _ROWS, COLUMNS, OPS, Op, named
from lepton_tvm.passes.graph.canonicalize import canonicalize, widen_lines
from lepton_tvm.passes.graph.layout import layout_rules, to_nhwc
from lepton_tvm.passes.graph.linear_ops import LINEAR_OPS
from lepton_tvm.passes.lower.kernels import kernel_types, views
from lepton_tvm.passes.prune.channels import propagate
from lepton_tvm.passes.quantize import ops, to_bfloat16
from lepton_tvm.passes.quantize.annotate import _REASONS


def with_word(column: str) -> set[str]:
    """The ops that have any word in `column`."""
    return {op.name for op in OPS.values() if getattr(op, column)}


@pytest.mark.parametrize("name", OPS)
def test_names_are_ops_of_relax(name: str) -> None:
    assert tvm.ir.Op.get(name).name == name


def test_one_row_each() -> None:
    assert len(_ROWS) == len(OPS)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_word_is_used(column: str) -> None:
    assert {getattr(op, column) for op in _ROWS} - {""} == set(COLUMNS[column])


def test_a_word_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"relax\.new: layout has no word 'diagonal'"):
        Op("relax.new", layout="diagonal")


def test_named() -> None:
    assert named("macs", "matmul") == {"relax.matmul"}
    assert named("line", "source", "through") == with_word("line")
    assert named("linear", True) < named("macs", *COLUMNS["macs"])


@pytest.mark.parametrize(
    ("column", "known"),
    [
        ("macs", cost._COUNTS),
        ("layout", {*layout_rules._BY_WORD, "no_form"}),
        ("prune", propagate._BY_WORD),
    ],
    ids=["macs", "layout", "prune"],
)
def test_a_rule_for_every_word(column: str, known: Collection[str]) -> None:
    assert set(known) == set(COLUMNS[column])


@pytest.mark.parametrize(
    ("column", "read"),
    [
        ("linear", LINEAR_OPS),
        ("macs", cost.MACS_OPS),
        ("line", widen_lines.THROUGH | widen_lines._SOURCES),
        ("layout", {*layout_rules.RULES, *to_nhwc._NO_FORM}),
        ("prune", propagate._RULES),
        (
            "quantize",
            ops.ANCHORS
            | ops.ELEMENTWISE
            | ops.JOINS
            | ops.PASSTHROUGH
            | ops.POOLS
            | named("quantize", *_REASONS),
        ),
        ("bfloat16", to_bfloat16._WIDENING),
        ("lower", kernel_types.ANCHORS | views._VIEWS),
    ],
    ids=["linear", "macs", "line", "layout", "prune", "quantize", "bfloat16", "lower"],
)
def test_readers_see_every_row_that_concerns_them(column: str, read: Collection[str]) -> None:
    assert set(read) == with_word(column)


def test_lines_go_through_after_the_other_rules_of_an_op() -> None:
    for name in widen_lines.THROUGH:
        assert canonicalize.RULES[name][-1] is widen_lines.sink_line_reshape
