"""Comparisons as tables for people; the JSON form is the library's own."""

from __future__ import annotations

from typing import Any

__all__ = ["comparison_table"]


def comparison_table(data: dict[str, Any]) -> Any:
    """A rich table of a comparison's JSON: the baseline first, one row per variant."""
    from rich.table import Table

    machine = data["machine"]
    table = Table(
        *("variant", "precision", "ISA", "size", "ms (95 % CI)", "times as fast (95 % CI)"),
        *("accuracy", "agreement", "SQNR"),
        title=f"{data['model']} on {machine.get('cpu', 'this machine')}",
        caption=f"kept in {data['db']}",
    )
    for variant in (data["baseline"], *data["variants"]):
        table.add_row(*_cells(variant))
    return table


def _cells(v: dict[str, Any]) -> list[str]:
    accuracy = v["accuracy"]
    return [
        v["name"],
        v["precision"],
        v["isa"],
        f"{v['size_bytes'] / 1024:.0f} KiB",
        _with_interval(v["latency_ms"], "median", 3),
        _with_interval(v["speedup"], "ratio", 2),
        "" if not accuracy else f"{100 * accuracy['value']:.1f} % of {accuracy['n']}",
        _number(v["agreement"], "{:.1%}"),
        _number(v["sqnr_db"], "{:.1f} dB"),
    ]


def _with_interval(measured: dict[str, Any] | None, key: str, digits: int) -> str:
    if not measured or measured.get(key) is None:
        return ""
    low, high = measured["ci95"]
    return f"{measured[key]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
