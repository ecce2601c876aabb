"""Measures the demo on this machine, and writes its table and its two charts into the README.

    python tools/demo_table.py --runs 5

Each run compiles and times the demo in a folder of its own. The run whose last variant has the
median speed-up is shown whole, so that all figures of the table belong together. Run it on an idle
machine. The table goes between two marks in `README.md`, the charts into `docs/images`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- demo table: begin -->", "<!-- demo table: end -->")
HEADER = "| variant | time of one picture | speed-up | size | top-1 | same answer as float |"
#: Colours of GitHub's own pages: text, quiet text, baseline, variants, rails of the bars.
THEMES = {
    "light": ("#1f2328", "#59636e", "#818b98", "#0969da", "#eff2f5"),
    "dark": ("#f0f6fc", "#9198a1", "#656c76", "#4493f8", "#21262d"),
}
_FONT = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
_WIDTH, _TOP, _ROW, _BAR = 720, 46, 40, 18
# Left edge and width of the two groups of bars, with room for figures behind them.
_TIME, _SIZE, _TOP1 = (130, 190), (450, 110), 700


def measure(runs: int) -> dict[str, Any]:
    """What `lepton-tvm demo --json` prints; of several runs the one with the median speed-up."""
    found = [_run_demo() for _ in range(runs)]
    found.sort(key=lambda result: float(result["variants"][-1]["speedup"]["ratio"]))
    return found[len(found) // 2]


def _run_demo() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "lepton_tvm.cli", "demo", "--json"]
        done = subprocess.run(line, cwd=folder, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def markdown(result: dict[str, Any], runs: int) -> str:
    """The table, with the machine and the command that made it."""
    base, machine = result["baseline"], result["machine"]
    rows = [_table_row(v) for v in (base, *result["variants"])]
    slower = [v["name"] for v in result["variants"] if v["speedup"]["ci95"][1] < 1]
    notes = [f"On this machine, {name} is slower than float32." for name in slower]
    of_runs = "" if runs == 1 else f" The table shows the median of {runs} runs."
    where = (
        f"Measured on {_machine_name(machine)} ({machine['arch']}, {base['isa']}), with "
        f"{base['threads']} thread and batch size 1.{of_runs} Top-1 is measured on "
        f"{base['accuracy']['n']:,} pictures; brackets are 95 % confidence intervals. "
        "`python tools/demo_table.py` makes the table and the chart."
    )
    rule = "|---|--:|--:|--:|--:|--:|"
    return "\n".join([HEADER, rule, *rows, "", textwrap.fill(" ".join([where, *notes]), 100)])


def _table_row(variant: dict[str, Any]) -> str:
    time, speed = variant["latency_ms"], variant["speedup"]
    low, high = time["ci95"]
    agreement = variant["agreement"]
    cells = [
        variant["name"],
        f"{_us(time['median'])} µs [{_us(low)}, {_us(high)}]",
        "baseline" if speed is None else _speed(speed),
        f"{_kb(variant)} kB",
        f"{_percent(variant['accuracy']['value'])} %",
        "-" if agreement is None else f"{_percent(agreement)} %",
    ]
    return f"| {' | '.join(cells)} |"


def _speed(speed: dict[str, Any]) -> str:
    low, high = speed["ci95"]
    return f"{speed['ratio']:.2f}x [{low:.2f}, {high:.2f}]"


def _us(milliseconds: float) -> str:
    return f"{milliseconds * 1000:.0f}"


def _kb(variant: dict[str, Any]) -> str:
    return f"{variant['size_bytes'] / 1000:.0f}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f}"


def _machine_name(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} CPUs"


def chart(result: dict[str, Any], theme: str) -> str:
    """One bar of time and one of size for each variant, as SVG without a background."""
    text, quiet = THEMES[theme][:2]
    variants = (result["baseline"], *result["variants"])
    height = _TOP + _ROW * len(variants)
    times = [v["latency_ms"]["median"] for v in variants]
    sizes = [v["size_bytes"] for v in variants]
    label = f"{result['model']} on {_machine_name(result['machine'])}: time, size and accuracy"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" font-family="{_FONT}" font-size="14">',
        f"<title>{escape(label)}</title>",
        _text(_TIME[0], 22, "time of one picture", quiet),
        _text(_SIZE[0], 22, "size", quiet),
        _text(_TOP1, 22, "top-1", quiet, "end"),
    ]
    for index, variant in enumerate(variants):
        y = _TOP + _ROW * index
        baseline = variant["speedup"] is None
        time = f"{_us(times[index])} µs"
        time += "" if baseline else f" ({variant['speedup']['ratio']:.2f}x)"
        parts += [
            _text(_TIME[0] - 12, y + 14, variant["name"], text, "end"),
            *_bar(_TIME, y, times[index] / max(times), baseline, theme),
            _text(sum(_TIME) + 8, y + 14, time, text),
            *_bar(_SIZE, y, sizes[index] / max(sizes), baseline, theme),
            _text(sum(_SIZE) + 8, y + 14, f"{_kb(variant)} kB", text),
            _text(_TOP1, y + 14, f"{_percent(variant['accuracy']['value'])} %", text, "end"),
        ]
    return "\n".join([*parts, "</svg>", ""])


def _bar(place: tuple[int, int], y: int, share: float, baseline: bool, theme: str) -> list[str]:
    grey, blue, rail = THEMES[theme][2:]
    left, width = place
    return [
        f'<rect x="{left}" y="{y}" width="{width}" height="{_BAR}" rx="3" fill="{rail}"/>',
        f'<rect x="{left}" y="{y}" width="{width * share:.1f}" height="{_BAR}" rx="3" '
        f'fill="{grey if baseline else blue}"/>',
    ]


def _text(x: int, y: int, words: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'


def with_table(readme: str, table: str) -> str:
    """`readme` with `table` between the two marks."""
    begin, end = MARKS
    found = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not found.search(readme):
        raise SystemExit(f"README.md must hold the marks {begin} and {end}")
    return found.sub(lambda _: f"{begin}\n{table}\n{end}", readme)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of the demo (default 5)")
    runs = parser.parse_args().runs
    result = measure(runs)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text("utf-8"), markdown(result, runs)), "utf-8")
    for theme in THEMES:
        file = ROOT / "docs" / "images" / f"demo-{theme}.svg"
        file.parent.mkdir(exist_ok=True)
        file.write_text(chart(result, theme), "utf-8")


if __name__ == "__main__":
    main()
