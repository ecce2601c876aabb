"""How `lepton-tvm db list` shows a database to people: model by model, in any terminal."""

from __future__ import annotations

from typing import Any

from lepton_tvm.cli.db_view import Machines, grid, heading, number

__all__ = ["overview_text"]

_Row = tuple[str, ...]
_ARTIFACTS = ("artifact", "~variant", "~target", ">MB", ">ms", "on", ">older")
_TUNED = ("~tuned for", "on", ">kernels", ">trials", ">failed", "schedules", "TVM")


def overview_text(data: dict[str, Any]) -> Any:
    """The answer of `db list`: of each variant and target the newest artifact, then the tuning."""
    if not data["models"] and not data["trials"]:
        return f"{data['db']} (schema {data['schema']}) holds no models"
    from rich.console import Group
    from rich.text import Text

    machines = Machines(data["machines"])
    blocks = [
        (model["name"], _artifact_rows(model, machines), _tuning_rows(model["tuning"], machines))
        for model in data["models"]
    ]
    if data["tuning_without_model"]:
        blocks.append(("(of no model)", [], _tuning_rows(data["tuning_without_model"], machines)))
    artifacts = [row for _, rows, _ in blocks for row in rows]
    tuned = [row for _, _, groups in blocks for row in groups]
    versions = sorted({row[-1] for row in tuned})
    # one version for all is told once, at the end
    columns = _TUNED if len(versions) > 1 else _TUNED[:-1]
    shown: list[Any] = []
    for name, rows, groups in blocks:
        shown.append(heading(name, "" if rows or groups else ": nothing compiled, nothing tuned"))
        if rows:
            shown.append(grid(_ARTIFACTS, rows, like=artifacts))
        if groups:
            shown.append(grid(columns, [row[: len(columns)] for row in groups], like=tuned))
        shown.append("")
    tvm = [f"all tuned with TVM {versions[0]}"] if len(versions) == 1 else []
    return Group(*shown, *machines.legend(), *tvm, Text(_summary(data)))


def _artifact_rows(model: dict[str, Any], machines: Machines) -> list[_Row]:
    """The newest of each variant and target, a line for each machine that it was timed on."""
    newest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for artifact in reversed(model["artifacts"]):
        newest.setdefault((artifact["variant"], artifact["target"]), []).append(artifact)
    rows: list[_Row] = []
    for (variant, target), alike in newest.items():
        first = alike[0]
        size = f"{first['size_bytes'] / 1e6:.2f}"
        older = f"{len(alike) - 1}" if len(alike) > 1 else ""
        head = (first["sha256"][:12], variant, target, size)
        times = [
            (number(ms, ".3f"), machines[machine])
            for machine, ms in reversed(first["latest_ms"].items())
        ]
        for i, time in enumerate(times or [("", "")]):
            rows.append((*head, *time, older) if i == 0 else ("", "", "", "", *time, ""))
    return rows


def _tuning_rows(groups: list[dict[str, Any]], machines: Machines) -> list[_Row]:
    return [
        (
            group["target"],
            machines[group["hardware"]],
            *(str(group[n]) for n in ("tasks", "trials", "failed")),
            group["schedule_version"],
            group["tvm_version"],
        )
        for group in groups
    ]


def _summary(data: dict[str, Any]) -> str:
    left = data["model_count"] - len(data["models"])
    more = f" ({left:,} not shown: --limit, --offset)" if left else ""
    counts = {"kernel": data["workloads"], "trial": data["trials"], "job": data["job_count"]}
    return (
        f"{data['db']}: {_counted(data['model_count'], 'model')}{more}, "
        + ", ".join(_counted(number, noun) for noun, number in counts.items())
        + f"; artifacts in {data['artifacts_folder']}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
