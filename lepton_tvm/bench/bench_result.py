"""What a benchmark found, as tables and as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_tvm.bench.engines import OURS
from lepton_tvm.measure import Estimate, Machine, speedup_ci
from lepton_tvm.measure.kernel_profile import KernelTime, Profile
from lepton_tvm.measure.peak.peak_result import Peaks

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["BenchResult", "EngineTime", "Ratio"]


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
class Ratio:
    """Our latency over that of the fastest peer of the same precision (below 1: we are faster).

    `over_float32` is how many times faster we are than the fastest float32 of any engine, ours
    included; None for float32 itself and where no float32 was timed.
    """

    precision: str
    peer: str | None
    over_peer: Estimate | None
    over_float32: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """The entry of `ratios` in `bench --json`."""
        return {
            "precision": self.precision,
            "best_peer": self.peer,
            "ours_over_best_peer": _estimate(self.over_peer),
            "speedup_over_best_float32": _estimate(self.over_float32),
        }


@dataclass(frozen=True)
class BenchResult:
    """All engines of one benchmark. Prints as tables; `report` says what was left out and why.

    `profiles` and `peaks` are there where they were asked for.
    """

    model: str
    machine: Machine
    threads: int
    engines: tuple[EngineTime, ...]
    report: tuple[str, ...]
    profiles: tuple[Profile, ...] = ()
    peaks: Peaks | None = None

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """One for each precision of ours."""
        floats = _fastest(e for e in self.engines if e.precision == "float32")
        made = []
        for ours in (e for e in self.engines if e.engine == OURS):
            peer = _fastest(
                e for e in self.engines if e.engine != OURS and e.precision == ours.precision
            )
            base = None if ours.precision == "float32" else floats
            made.append(
                Ratio(
                    ours.precision,
                    peer.engine if peer else None,
                    speedup_ci(ours.samples_s, peer.samples_s) if peer else None,
                    speedup_ci(base.samples_s, ours.samples_s) if base else None,
                )
            )
        return tuple(made)

    def to_json(self) -> dict[str, Any]:
        """The result as `bench --json` shows it; `profile` and `peak` only where asked for."""
        made: dict[str, Any] = {
            "model": self.model,
            "machine": self.machine.to_json(),
            "threads": self.threads,
            "engines": [e.to_json() for e in self.engines],
            "ratios": [r.to_json() for r in self.ratios],
            "report": list(self.report),
        }
        if self.profiles:
            made["profile"] = [p.to_json() for p in self.profiles]
        if self.peaks is not None:
            made["peak"] = self.peaks.to_json()
        return made

    def __rich__(self) -> Group:
        from rich.console import Group

        parts = [self._table(), *(_profile_table(p) for p in self.profiles)]
        return Group(*parts, *([self.peaks] if self.peaks else []))

    def _table(self) -> Table:
        from rich.table import Table

        title = f"{self.model} on {self.machine.cpu}, {self.threads} thread(s)"
        table = Table(title=title, caption="\n".join(self.report) or None, caption_justify="left")
        for name in ("engine", "version", "precision", "isa"):
            table.add_column(name)
        table.add_column("latency ms", justify="right")
        table.add_column("ours / best peer", justify="right")
        table.add_column("best float32 / ours", justify="right")
        ratios = {r.precision: r for r in self.ratios}
        for e in self.engines:
            row = [e.engine, e.version, e.precision, e.isa, _interval(e.latency_ms, 3)]
            ratio = ratios.get(e.precision)
            if e.engine == OURS and ratio is not None:
                row += [_interval(ratio.over_peer, 2), _interval(ratio.over_float32, 2)]
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=160, color_system=None).print(self)
        return out.getvalue().rstrip()


def _fastest(engines: Iterable[EngineTime]) -> EngineTime | None:
    return min(engines, key=lambda e: e.latency_ms.value, default=None)


def _estimate(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else {"ratio": value.value, "ci95": value.ci()}


def _interval(value: Estimate | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _profile_table(profile: Profile) -> Table:
    from rich.table import Table

    caption = (
        f"kernels {profile.kernels_s * 1e3:.3f} ms of {profile.latency_s * 1e3:.3f} ms; "
        f"{profile.overhead:.1%} is spent between them. Shares are of the peak of the kernel's "
        "instruction and of the bandwidth of the memory that its tensors lie in; the larger one "
        "says how near to its limit a kernel is."
    )
    table = Table(
        title=f"kernels of {profile.precision}, {profile.isa}, {profile.threads} thread(s)",
        caption=caption,
        caption_justify="left",
    )
    for name in ("kernel", "rule", "instruction", "shapes"):
        table.add_column(name)
    for name in ("calls", "us", "time", "Gop/s", "peak", "GB/s", "memory"):
        table.add_column(name, justify="right")
    for kernel in profile.kernels:
        table.add_row(*_cells(kernel))
    return table


def _cells(kernel: KernelTime) -> tuple[str, ...]:
    shapes = [kernel.input_shapes[0], *kernel.input_shapes[1:2]] if kernel.input_shapes else []
    read = " ".join("x".join(map(str, s)) for s in shapes)
    return (
        kernel.name,
        kernel.schedule,
        f"{kernel.instruction or '-'} ({kernel.isa})",
        f"{read} -> {'x'.join(map(str, kernel.output_shape))}",
        str(kernel.calls),
        f"{kernel.seconds * 1e6:.1f}",
        f"{kernel.share:.1%}",
        "-" if kernel.gops is None else f"{kernel.gops:.1f}",
        "-" if kernel.peak_share is None else f"{kernel.peak_share:.0%}",
        f"{kernel.gbs:.1f}",
        f"{kernel.memory_share:.0%}",
    )
