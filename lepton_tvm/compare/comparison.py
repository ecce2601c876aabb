"""What a comparison found, as a table, as notes for people, and as JSON."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_tvm.db import Artifact
from lepton_tvm.measure import Estimate, Machine, Quality

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Comparison", "Variant"]


@dataclass(frozen=True)
class Variant:
    """One artifact of a comparison. Latency in milliseconds; `speedup` above 1 is faster."""

    artifact: Artifact
    path: str
    threads: int
    latency_ms: Estimate
    samples: int
    speedup: Estimate | None
    quality: Quality | None

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.artifact.variant

    def to_json(self) -> dict[str, Any]:
        """The variant as `compare --json` shows it; what was not measured is None."""
        a, q = self.artifact, self.quality
        speedup = self.speedup
        return {
            "name": a.variant,
            "artifact": self.path,
            "sha256": a.sha256,
            "size_bytes": a.size_bytes,
            "precision": a.precision,
            "isa": a.isa,
            "threads": self.threads,
            "latency_ms": {
                "median": self.latency_ms.value,
                "ci95": self.latency_ms.ci(),
                "samples": self.samples,
            },
            "speedup": speedup and {"ratio": speedup.value, "ci95": speedup.ci()},
            "accuracy": _accuracy(q),
            "agreement": q.agreement if q else None,
            "sqnr_db": _finite(q.sqnr_db) if q else None,
        }


@dataclass(frozen=True)
class Comparison:
    """A float baseline and its variants, run in turns on one machine. Prints as a table."""

    machine: Machine
    db: str
    model: str
    target: str
    run_id: str
    baseline: Variant
    variants: tuple[Variant, ...]
    skipped: tuple[str, ...]

    @property
    def report(self) -> tuple[str, ...]:
        """What stands out: variants that are slower or worse, and what was left out and why."""
        notes = [note for v in self.variants for note in self._notes(v)]
        if not self.variants:
            notes.append("only the float baseline is stored; compile a variant to compare it")
        return (*notes, *(f"not compared: {s}" for s in self.skipped))

    def slower_than(self, ratio: float) -> tuple[Variant, ...]:
        """The variants whose speed-up over float is below `ratio`."""
        return tuple(v for v in self.variants if v.speedup and v.speedup.value < ratio)

    def to_json(self) -> dict[str, Any]:
        """The comparison as `compare --json` shows it."""
        return {
            "machine": self.machine.to_json(),
            "db": self.db,
            "model": self.model,
            "baseline": self.baseline.to_json(),
            "variants": [v.to_json() for v in self.variants],
        }

    def __rich__(self) -> Table:
        from rich.table import Table

        rows = (self.baseline, *self.variants)
        threads = self.baseline.threads
        title = f"{self.model} on {self.machine.cpu}, {self.target}, {threads} thread(s)"
        table = Table(title=title, caption="\n".join(self.report) or None, caption_justify="left")
        table.add_column("variant")
        for name in ("size kB", "latency ms", "speed-up", "accuracy", "agreement", "SQNR dB"):
            table.add_column(name, justify="right")
        for v in rows:
            table.add_row(*_cells(v))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, color_system=None, markup=False, emoji=False).print(self)
        return out.getvalue().rstrip()

    def _notes(self, variant: Variant) -> list[str]:
        notes = []
        speed = variant.speedup
        if speed and speed.high < 1:
            notes.append(f"{variant.name} is SLOWER than float: {_speed(speed)}")
        elif speed and speed.low <= 1:
            notes.append(f"{variant.name} is not measurably faster than float: {_speed(speed)}")
        lost = _lost_accuracy(self.baseline.quality, variant.quality)
        if lost is not None and lost > 0:
            notes.append(f"{variant.name} is WORSE than float: {lost * 100:.2f} points of accuracy")
        if variant.artifact.size_bytes > self.baseline.artifact.size_bytes:
            notes.append(f"{variant.name} is LARGER than float")
        return notes


def _accuracy(quality: Quality | None) -> dict[str, Any] | None:
    if quality is None or quality.accuracy is None:
        return None
    return {"metric": quality.metric, "value": quality.accuracy, "n": quality.n}


def _lost_accuracy(float_: Quality | None, mine: Quality | None) -> float | None:
    if float_ is None or mine is None or float_.accuracy is None or mine.accuracy is None:
        return None
    return float_.accuracy - mine.accuracy


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _speed(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}x [{estimate.low:.2f}, {estimate.high:.2f}]"


def _cells(v: Variant) -> list[str]:
    q = v.quality
    latency = v.latency_ms
    return [
        v.name,
        f"{v.artifact.size_bytes / 1000:.0f}",
        f"{latency.value:.3f} [{latency.low:.3f}, {latency.high:.3f}]",
        _speed(v.speedup) if v.speedup else "1 (baseline)",
        "-" if q is None or q.accuracy is None else f"{q.accuracy:.4f} ({q.metric}, n={q.n})",
        "-" if q is None or q.agreement is None else f"{q.agreement:.4f}",
        "-" if q is None or q.sqnr_db is None else f"{q.sqnr_db:.1f}",
    ]
