"""The tree on disk: small files, and doors that say what their room is."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# the links lepton_tvm/passes and lepton_tvm/schedules would list files twice
PRODUCT = sorted(
    path
    for room in ("lepton_tvm", "passes", "schedules")
    for path in (ROOT / room).rglob("*.py")
    if path.resolve() == path
)
_MOST_LINES = 300


def test_no_file_of_the_product_is_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in PRODUCT}
    assert len(lengths) > 300
    assert {name: n for name, n in lengths.items() if n > _MOST_LINES} == {}


def test_every_file_begins_with_a_sentence() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PRODUCT
        if len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) < 3
    ]
    assert silent == []
