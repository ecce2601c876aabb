"""What a benchmark found, as a table and as JSON."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_tvm.measure import Estimate, Machine

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["BenchResult", "EngineTime"]


@dataclass(frozen=True)
class EngineTime:
    """One engine with one precision; latency in milliseconds, raw samples in seconds."""

    engine: str
    version: str
    precision: str
    isa: str
    latency_ms: Estimate
    samples_s: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The entry of `bench --json`."""
        return {
            "engine": self.engine,
            "version": self.version,
            "precision": self.precision,
            "isa": self.isa,
            "latency_ms": {
                "median": self.latency_ms.value,
                "ci95": self.latency_ms.ci(),
                "samples": len(self.samples_s),
            },
        }


@dataclass(frozen=True)
class BenchResult:
    """All engines of one benchmark. Prints as a table; `report` says what was left out and why."""

    model: str
    machine: Machine
    threads: int
    engines: tuple[EngineTime, ...]
    report: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as `bench --json` shows it."""
        return {
            "model": self.model,
            "machine": self.machine.to_json(),
            "threads": self.threads,
            "engines": [e.to_json() for e in self.engines],
        }

    def __rich__(self) -> Table:
        from rich.table import Table

        title = f"{self.model} on {self.machine.cpu}, {self.threads} thread(s)"
        table = Table(title=title, caption="\n".join(self.report) or None, caption_justify="left")
        for name in ("engine", "version", "precision", "isa"):
            table.add_column(name)
        table.add_column("latency ms", justify="right")
        for e in self.engines:
            t = e.latency_ms
            time = f"{t.value:.3f} [{t.low:.3f}, {t.high:.3f}]"
            table.add_row(e.engine, e.version, e.precision, e.isa, time)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, color_system=None).print(self)
        return out.getvalue().rstrip()
