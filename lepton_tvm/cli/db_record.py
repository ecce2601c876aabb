"""How `lepton-tvm db show` shows one record to people, and what belongs to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lepton_tvm.cli.db_view import Machines, grid, heading, lines, number

__all__ = ["record_text"]


def record_text(data: dict[str, Any]) -> Any:
    """The answer of `db show`: the record's fields, then tables of what belongs to it."""
    from rich.console import Group

    machines = Machines(data.get("machines", {}))
    shown: list[Any] = [
        heading(f"{data['kind']} {data.get('name', '')}".strip()),
        lines(_fields(data)),
    ]
    shown += _PARTS.get(data["kind"], _nothing)(data, machines)
    legend = machines.legend()
    return Group(*shown, *([""] if legend else []), *legend)


def _fields(data: dict[str, Any]) -> dict[str, str | None]:
    """What is not shown in a table: values as they are, lists and dicts as JSON."""
    shown: dict[str, str | None] = {}
    for name, value in {**data, **data.get("key", {})}.items():
        if name in ("inputs", "outputs"):
            value = ", ".join(f"{t['name']} {t['dtype']} {t['shape']}" for t in value)
        if name not in ("kind", "name", "key", "machines", *_TABLES):
            text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value)
            shown[_TITLES.get(name, name).replace("_", " ")] = None if value is None else text
    return shown


def _model(data: dict[str, Any], machines: Machines) -> list[Any]:
    shown: list[Any] = []
    artifacts = [
        (
            a["sha256"][:12], a["variant"], a["target"], f"{a['size_bytes'] / 1e6:.2f}",
            number(a["macs"] and a["macs"] / 1e6, ".1f"), _when(a["created_at"]),
        )
        for a in sorted(data["artifacts"], key=lambda a: a["created_at"], reverse=True)
    ]  # fmt: skip
    if artifacts:
        columns = ("artifact", "~variant", "~target", ">MB", ">million macs", "stored")
        shown += ["", grid(columns, artifacts)]
    calls = {(k["workload_hash"], k["target"]): k["calls"] for k in data["kernels"]}

    def _weight(row: dict[str, Any]) -> float:
        return (calls.get((row["workload_hash"], row["target"])) or 1) * (row["best_us"] or 0.0)

    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in data["tuning"]:
        groups.setdefault(tuple(row[part] for part in _KEY), []).append(row)
    tables = [
        [_kernel_row(row, calls) for row in sorted(rows, key=_weight, reverse=True)]
        for rows in groups.values()
    ]
    like = [row for rows in tables for row in rows]
    for key, rows in zip(groups, tables, strict=True):
        shown += ["", *_tuned(key, machines), grid(_KERNELS, rows, like=like)]
    return shown


def _kernel_row(row: dict[str, Any], calls: dict[tuple[str, str], int]) -> tuple[str, ...]:
    winner = row["winner"]
    return (
        row["name"],
        row["workload_hash"][:8],  # leaves room for the number at a name's end
        number(calls.get((row["workload_hash"], row["target"]))),
        str(row["trials"]),
        str(row["trials"] - row["states"].get("ok", 0)),
        number(row["best_us"], ".1f"),
        "" if winner is None else f"{winner['ratio']:.3f}",
    )


def _kernel(data: dict[str, Any], machines: Machines) -> list[Any]:
    columns = ("trial", "state", ">us", ">zero-trial us", "~candidate or error")
    tables = [[_trial_row(trial) for trial in group["shown"]] for group in data["tuning"]]
    like = [row for rows in tables for row in rows]
    shown: list[Any] = []
    for group, rows in zip(data["tuning"], tables, strict=True):
        shown += ["", *_tuned(tuple(group[part] for part in _KEY), machines)]
        shown += [_counts(group), grid(columns, rows, like=like)]
    return shown


def _trial_row(trial: dict[str, Any]) -> tuple[str, ...]:
    median, reference = trial["median_s"], trial["reference_s"]
    return (
        trial["id"][:12],
        trial["state"],
        number(median and median * 1e6, ".1f"),
        number(reference and reference * 1e6, ".1f"),
        " ".join((trial["error"] or trial["candidate"])[:300].split()),
    )


def _counts(group: dict[str, Any]) -> str:
    left = group["trials"] - len(group["shown"])
    text = f"  {group['trials']} trials" + (f", {left} not shown" if left else "")
    won = group["winner"]
    if won is None:
        return text
    low, high = won["ci95"]
    which = f", trial {won['trial_id'][:12]}," if won["trial_id"] else ""
    faster = f"{won['ratio']:.3f} times as fast ({low:.3f} to {high:.3f})"
    return f"{text}\n  the winner{which} is {faster}"


def _artifact(data: dict[str, Any], machines: Machines) -> list[Any]:
    shown: list[Any] = []
    names = {m["hardware"]: m["machine"].get("cpu") for m in data["measurements"]}
    measured = [
        (
            _when(m["created_at"]), f"{m['median_s'] * 1e3:.3f}", str(len(m["samples_s"])),
            str(m["threads"]), m["hardware"], str(names[m["hardware"]] or ""),
        )
        for m in reversed(data["measurements"])
    ]  # fmt: skip
    if measured:
        columns: tuple[str, ...] = (
            "measured",
            ">ms",
            ">samples",
            ">threads",
            "machine",
            "~processor",
        )
        shown += ["", grid(columns, measured)]
    evaluated = [
        (
            _when(e["created_at"]), str(e["n"]), e["metric"] or "", number(e["value"], ".4f"),
            number(e["agreement"], ".4f"), number(e["sqnr_db"], ".1f"),
        )
        for e in reversed(data["evaluations"])
    ]  # fmt: skip
    if evaluated:
        columns = ("evaluated", ">samples", "~metric", ">value", ">agreement", ">SQNR dB")
        shown += ["", grid(columns, evaluated)]
    return shown


def _nothing(_data: dict[str, Any], _machines: Machines) -> list[Any]:
    return []


def _tuned(key: tuple[str, ...], machines: Machines) -> list[Any]:
    target, hardware, tvm, schedules = key
    head = heading(f"tuned for {target}", f" on {machines[hardware]}")
    return [head, lines({"TVM": f"{tvm}, schedules {schedules}"})]


def _when(time: str) -> str:
    """To the minute; times are UTC."""
    return time[:16].replace("T", " ")


_KEY = ("target", "hardware", "tvm_version", "schedule_version")
_KERNELS = ("~kernel", "hash", ">calls", ">trials", ">failed", ">best us", ">speed-up")
_TITLES = {
    "source_sha256": "source",
    "created_at": "stored",
    "workload_hash": "kernel",
    "tvm_version": "TVM",
    "schedule_version": "schedules",
}
_TABLES = ("artifacts", "kernels", "tuning", "measurements", "evaluations")
_PARTS: dict[str, Callable[[dict[str, Any], Machines], list[Any]]] = {
    "model": _model,
    "kernel": _kernel,
    "artifact": _artifact,
}
