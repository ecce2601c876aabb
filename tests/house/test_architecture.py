"""docs/architecture.md shows the house as it is: its layers, its passes, its folders and files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lepton_tvm.passes.registry import PASSES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Names in capitals, and those with `my_`, are for the reader to choose.
PATHS = sorted(
    path.rstrip(".")
    for path in set(re.findall(r"\b(?:passes|schedules|lepton_tvm|tests|tools)/[\w/.]+", PAGE))
    if not re.search(r"[A-Z]{2}|my_", path)
)
PAGES = sorted(
    str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
)


def section(title: str) -> str:
    """What stands under a heading, up to the next heading of its rank."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found.group(1)


def test_layers_are_those_of_the_import_contract() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^layers = (\[.*?^\])", project, re.MULTILINE | re.DOTALL)
    assert found
    # what stands in brackets there is not built yet
    wanted = [re.sub(r"\([^)]*\)", "", layer) for layer in ast.literal_eval(found.group(1))]
    names = [re.findall(r"\w+", layer) for layer in wanted]
    shown = re.findall(r"^│ (.*?) │", section("The layers"), re.MULTILINE)
    assert [re.findall(r"\w+", layer) for layer in shown] == [n for n in names if n]


def test_passes_are_those_of_the_registry() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", section("The passes"), re.MULTILINE) == list(PASSES)


def test_every_package_stands_in_the_tree() -> None:
    shown = set(re.findall(r"`([\w/]+)/`", section("The tree")))
    packages = {str(d.parent.relative_to(ROOT)) for d in ROOT.glob("lepton_tvm/*/__init__.py")}
    rooms = {str(d.parent.relative_to(ROOT)) for d in ROOT.glob("*/*/__init__.py")}
    links = {"lepton_tvm/passes", "lepton_tvm/schedules"}
    wanted = packages | {r for r in rooms if r.startswith(("passes/", "schedules/"))}
    assert shown == (wanted - links) | {"passes", "schedules", "tests", "tools"}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_page_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    file = ROOT / page
    text = file.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not link.startswith(("http:", "https:")):
            assert (file.parent / link).exists(), link
