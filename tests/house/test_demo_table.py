"""tools/demo_table.py: one result of the demo makes the README's table and both charts."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tools import demo_table

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"


def variant(name: str, milliseconds: float, speedup: float | None) -> dict[str, Any]:
    """A variant as `demo --json` prints it."""
    around = [0.98, 1.02]
    return {
        "name": name,
        "size_bytes": 592_122,
        "isa": "avx2",
        "threads": 1,
        "latency_ms": {"median": milliseconds, "ci95": [milliseconds * a for a in around]},
        "speedup": speedup and {"ratio": speedup, "ci95": [speedup * a for a in around]},
        "accuracy": {"metric": "top1", "value": 0.933, "n": 1000},
        "agreement": None if speedup is None else 0.984,
    }


def result(speedup: float) -> dict[str, Any]:
    """A result of the demo with one variant."""
    return {
        "machine": {"cpu": "A <CPU>", "arch": "x86_64", "cores": 2},
        "model": "resnet8",
        "baseline": variant("float32", 0.25, None),
        "variants": [variant("int8", 0.25 / speedup, speedup)],
    }


def table_of_the_readme() -> str:
    """What stands between the marks."""
    begin, end = demo_table.MARKS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition(begin)[2].partition(end)[0]


def test_a_row_has_time_speed_size_and_accuracy() -> None:
    lines = demo_table.markdown(result(2.0), runs=3).splitlines()
    assert lines[2] == "| float32 | 250 µs [245, 255] | baseline | 592 kB | 93.3 % | - |"
    assert lines[3].startswith("| int8 | 125 µs [122, 128] | 2.00x [1.96, 2.04] |")
    assert "A <CPU>, 2 CPUs" in lines[5]
    assert "median of 3 runs" in " ".join(lines[5:])


def test_a_variant_that_is_slower_is_named() -> None:
    assert "int8 is slower than float32" in demo_table.markdown(result(0.9), runs=1)
    assert "slower" not in demo_table.markdown(result(1.0), runs=1)


def test_bars_are_as_long_as_the_times() -> None:
    root = ET.fromstring(demo_table.chart(result(2.0), "light"))
    grey, blue = demo_table.THEMES["light"][2:4]
    # backwards, so that of bars of one colour the first one, the time, stays
    wide = {r.get("fill"): float(r.get("width", "")) for r in reversed(root) if r.get("rx")}
    assert wide[grey] == pytest.approx(2 * wide[blue], abs=0.1)


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="must hold the marks"):
        demo_table.with_table("# a page", "a table")


@pytest.mark.parametrize("theme", demo_table.THEMES)
def test_chart_and_table_show_the_same_figures(theme: str) -> None:
    picture = (IMAGES / f"demo-{theme}.svg").read_text(encoding="utf-8")
    shown = table_of_the_readme()
    names = re.findall(r"^\| ([^|]+) \| \d", shown, re.MULTILINE)
    figures = re.findall(r"\d+ µs|\d+ kB", shown)
    assert names == ["float32", "int8", "pruned + int8"]
    assert len(figures) == 6
    assert all(word in picture for word in (*names, *figures))
    assert f"docs/images/demo-{theme}.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
