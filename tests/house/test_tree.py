"""The tree on disk: small files, doors that say what they hold, imports that lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

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


# `from tests... import a` in the text of a script that a test runs in another process
_IN_TEXT = re.compile(r"^ *from (tests[\w.]*) import (\w+)", re.MULTILINE)


def _imports_in_text() -> set[tuple[str, str]]:
    trees = (ast.parse(p.read_text()) for p in (ROOT / "tests").rglob("*.py"))
    texts = (n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return {found for text in texts if isinstance(text, str) for found in _IN_TEXT.findall(text)}


@pytest.mark.parametrize(("module", "name"), sorted(_imports_in_text()))
def test_imports_in_scripts_of_tests_lead_somewhere(module: str, name: str) -> None:
    """Such scripts may run on a few machines only, so a move of a file goes unnoticed elsewhere."""
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
