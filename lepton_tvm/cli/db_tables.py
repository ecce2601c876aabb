"""How `lepton-tvm db` shows records to people."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["overview_table", "printable", "record_text"]


def overview_table(data: dict[str, Any]) -> Any:
    """The answer of `db list`."""
    if not data["models"] and not data["trials"]:
        return f"{data['db']} (schema {data['schema']}) holds no models"
    from rich.console import Group
    from rich.table import Table

    shown: list[Any] = []
    if data["models"]:
        table = Table(
            "model", "variant", "artifact", "target", "ISA", "bytes", "multiply-adds", "ms"
        )
        for model in data["models"]:
            if not model["artifacts"]:
                _row(table, model["name"])
            for a in model["artifacts"]:
                _row(
                    table,
                    model["name"],
                    a["variant"],
                    a["sha256"][:12],
                    a["target"],
                    a["isa"],
                    str(a["size_bytes"]),
                    _text(a["macs"]),
                    _latest(a["latest_ms"], data["machines"]),
                )
        shown.append(table)
    tuning = [(m["name"], g) for m in data["models"] for g in m["tuning"]]
    tuning += [("(no model)", g) for g in data["tuning_without_model"]]
    if tuning:
        table = Table(
            "tuned", "target", "machine", "TVM", "schedules", "kernels", "trials", "failed"
        )
        for name, group in tuning:
            _row(
                table,
                name,
                group["target"],
                data["machines"].get(group["hardware"], group["hardware"]),
                group["tvm_version"],
                group["schedule_version"],
                *(str(group[n]) for n in ("tasks", "trials", "failed")),
            )
        shown.append(table)
    left = data["model_count"] - len(data["models"])
    more = f" ({left} models are not shown: --limit, --offset)" if left else ""
    shown.append(
        f"{data['db']}: {data['model_count']} models{more}, {data['workloads']} kernels, "
        f"{data['trials']} trials, {data['job_count']} jobs; "
        f"artifacts in {data['artifacts_folder']}"
    )
    return Group(*shown)


def record_text(data: dict[str, Any]) -> Any:
    """The answer of `db show`: fields as JSON, tuning as tables."""
    from rich.console import Group
    from rich.text import Text

    tuning = data.get("tuning", [])
    plain = {k: v for k, v in data.items() if k not in ("tuning", "kernels")}
    shown: list[Any] = [Text(json.dumps(plain, indent=2))]
    if data["kind"] == "model" and tuning:
        shown.append(_kernel_table(tuning, data["kernels"]))
    if data["kind"] == "kernel":
        shown += [_trial_table(group) for group in tuning]
    return Group(*shown)


def _kernel_table(tuning: list[dict[str, Any]], kernels: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    calls = {k["workload_hash"]: k["calls"] for k in kernels}
    table = Table(
        "kernel", "hash", "calls", "target", "hardware", "trials", "failed", "best us", "faster by"
    )
    for row in tuning:
        failed = row["trials"] - row["states"].get("ok", 0)
        winner = row["winner"]
        _row(
            table,
            row["name"],
            row["workload_hash"][:12],
            _text(calls.get(row["workload_hash"])),
            row["target"],
            row["hardware"],
            str(row["trials"]),
            str(failed),
            _text(row["best_us"], ".1f"),
            "" if winner is None else f"{winner['ratio']:.3f}",
        )
    return table


def _trial_table(group: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    parts = ("target", "hardware", "tvm_version", "schedule_version")
    table = Table("trial", "state", "us", "zero-trial us", "candidate", "error")
    table.title = Text(ascii(", ".join(str(group[part]) for part in parts))[1:-1])
    for trial in group["shown"]:
        _row(
            table,
            trial["id"][:12],
            trial["state"],
            _text(trial["median_s"] and trial["median_s"] * 1e6, ".1f"),
            _text(trial["reference_s"] and trial["reference_s"] * 1e6, ".1f"),
            trial["candidate"][:200],
            (trial["error"] or "")[:80],
        )
    left = group["trials"] - len(group["shown"])
    won = group["winner"]
    table.caption = f"{group['trials']} trials" + (f", {left} not shown" if left else "")
    if won is not None:
        low, high = won["ci95"]
        table.caption += f"; winner {won['ratio']:.3f} times as fast ({low:.3f} to {high:.3f})"
    return table


def _row(table: Any, *cells: str) -> None:
    """A row of texts as they are: a stranger's record can neither style nor steer the terminal."""
    from rich.text import Text

    table.add_row(*(Text(printable(text)) for text in cells))


def printable(text: str) -> str:
    """A text of a record, without what would steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _latest(by_machine: dict[str, float], names: dict[str, str]) -> str:
    """The time on each machine; its name where there is more than one."""
    if len(by_machine) < 2:
        return "".join(_text(ms, ".3f") for ms in by_machine.values())
    return ", ".join(f"{ms:.3f} {names.get(h, h)}" for h, ms in sorted(by_machine.items()))


def _text(value: Any, form: str = "") -> str:
    return "" if value is None else format(value, form)
