"""How `lepton-tvm db why` shows which kernels have a record, and what differs for the others."""

from __future__ import annotations

from typing import Any

from lepton_tvm.cli.db_view import heading, lines
from lepton_tvm.cli.terminal import printable

__all__ = ["misses_text"]


def misses_text(data: dict[str, Any]) -> Any:
    """The key that was asked for, then kernels of the same fate together."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    kernels = data["kernels"]
    used = sum(kernel["used"] for kernel in kernels)
    asked = {part.replace("_", " ").replace("tvm", "TVM"): v for part, v in data["asked"].items()}
    shown: list[Any] = [
        heading(f"{used} of {len(kernels)} kernels have a record for"),
        lines(asked),
    ]
    if not kernels:
        shown.append("its kernels are not known here: run lepton-tvm tune")
    alike: dict[str, list[dict[str, Any]]] = {}
    for kernel in kernels:
        alike.setdefault(kernel["text"], []).append(kernel)
    for text, some in alike.items():
        reasons = [d["text"] for d in some[0]["differs"]] or [text]
        head = f"{len(some)} kernels" if len(some) > 1 else "1 kernel"
        shown += ["", heading(head, ": records differ in" if some[0]["differs"] else "")]
        shown += [Padding(Text(printable(reason)), (0, 0, 0, 2)) for reason in reasons]
        names = ", ".join(f"{k['name']} ({k['workload_hash'][:12]})" for k in some)
        shown.append(Padding(Text(printable(names), style="dim"), (0, 0, 0, 4)))
    return Group(*shown)
