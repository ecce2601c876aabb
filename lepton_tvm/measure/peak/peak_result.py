"""What a machine can do at best, as a table and as JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_tvm.measure.machine import Machine

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Bandwidth", "ComputePeak", "Peaks"]

_CORES, _ONE = 0.75, 1.25


@dataclass(frozen=True)
class ComputePeak:
    """Best rate of one instruction, in Gop/s (a multiply-add is two), by number of threads."""

    isa: str
    precision: str
    instruction: str
    bits: int
    gops: Mapping[int, float]


@dataclass(frozen=True)
class Bandwidth:
    """Best rate of reading `bytes` per thread that lie in `level`, in GB/s (10^9), by threads."""

    level: str
    bytes: Mapping[int, int]
    gbs: Mapping[int, float]


@dataclass(frozen=True)
class Peaks:
    """All peaks of a machine, each for every number of `threads`. Prints as a table."""

    machine: Machine
    threads: tuple[int, ...]
    compute: tuple[ComputePeak, ...]
    memory: tuple[Bandwidth, ...]

    def gops(self, instruction: str, bits: int, threads: int) -> float | None:
        """The rate of an instruction on registers of `bits`; None where it was not measured."""
        for peak in self.compute:
            if (peak.instruction, peak.bits) == (instruction, bits):
                return peak.gops.get(threads)
        return None

    def gbs(self, nbytes: int, threads: int) -> float:
        """The bandwidth of the smallest level that holds `nbytes` in all."""
        sizes = {"L1": 2 * threads, "L2": 2 * threads, "L3": 4 * threads}
        for band in self.memory:
            if nbytes <= band.bytes[threads] * sizes.get(band.level, 0):
                return band.gbs[threads]
        return self.memory[-1].gbs[threads]

    @property
    def scaling(self) -> float | None:
        """Float32 rate of the most threads over that of one; None where only one was measured."""
        if len(self.threads) < 2:
            return None
        floats = [p.gops for p in self.compute if p.precision == "float32"][-1]
        return floats[self.threads[-1]] / floats[1]

    @property
    def scaling_text(self) -> str | None:
        """What `scaling` says of this machine's CPUs."""
        ratio, most = self.scaling, self.threads[-1]
        if ratio is None:
            return None
        said = f"{most} threads do {ratio:.2f} times the float32 work of one: "
        if ratio >= _CORES * most:
            return said + f"the {most} CPUs behave like {most} cores"
        if ratio <= _ONE:
            return said + f"the {most} CPUs behave like one core"
        return said + f"the {most} CPUs behave like about {round(ratio)} cores"

    def to_json(self) -> dict[str, Any]:
        """The value of `peak` in `bench --json`; thread counts are strings there."""
        return {
            "threads": list(self.threads),
            "scaling": self.scaling,
            "compute": [
                {
                    "isa": p.isa,
                    "precision": p.precision,
                    "instruction": p.instruction,
                    "bits": p.bits,
                    "gops": {str(n): rate for n, rate in p.gops.items()},
                }
                for p in self.compute
            ],
            "memory": [
                {
                    "level": m.level,
                    "bytes_per_thread": {str(n): size for n, size in m.bytes.items()},
                    "gbs": {str(n): rate for n, rate in m.gbs.items()},
                }
                for m in self.memory
            ],
        }

    def __rich__(self) -> Table:
        from rich.table import Table

        title = f"peaks of {self.machine.cpu}: best of the rounds"
        table = Table(title=title, caption=self.scaling_text, caption_justify="left")
        for name in ("isa", "precision", "instruction"):
            table.add_column(name)
        for count in self.threads:
            table.add_column(_threads(count), justify="right")
        for p in self.compute:
            name = f"{p.instruction}, {p.bits} bit" if p.bits else p.instruction
            rates = [f"{p.gops[n]:.1f} Gop/s" for n in self.threads]
            table.add_row(p.isa, p.precision, name, *rates)
        table.add_section()
        for m in self.memory:
            rates = [f"{m.gbs[n]:.1f} GB/s" for n in self.threads]
            table.add_row("", "bytes", f"read from {m.level}", *rates)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, color_system=None).print(self)
        return out.getvalue().rstrip()


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
