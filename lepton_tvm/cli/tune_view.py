"""What a person sees of a tuning run: a live table while it lasts, the kernels at its end."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from lepton_tvm.cli.terminal import console

if TYPE_CHECKING:
    from lepton_tvm.tuning import Status, TaskResult, TuneResult

__all__ = ["follow", "result_table", "stop_on_interrupt"]

_ROWS = 12
_EVERY_S = 0.5
_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def follow(title: str) -> Iterator[Callable[[Status], None]]:
    """Show on stderr how a run gets on: a live table on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        with _live(title) as show:
            yield show
        return
    yield _lines(title)


@contextlib.contextmanager
def stop_on_interrupt(told: str) -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C came; `told` is printed then. A second one interrupts."""
    came = False
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)
        print(told, file=sys.stderr, flush=True)

    if not callable(before):  # ignored: a job in the background of a script
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def result_table(result: TuneResult) -> Any:
    """The outcome for people: a summary, then the kernels that changed, largest gain first."""
    from rich.console import Group
    from rich.table import Table

    changed = [k for k in result.kernels if k.decisions]
    if not changed:
        return "\n".join((str(result), *result.notes))
    table = Table(title="kernels with another schedule", title_justify="left")
    for name in ("kernel", "calls", "trials", "zero trials us", "speed-up", "95 %", "decisions"):
        table.add_column(name, justify="left" if name in ("kernel", "decisions") else "right")
    for kernel in sorted(changed, key=lambda k: -_gain(k)):
        low, high = kernel.ci95
        table.add_row(
            kernel.name,
            str(kernel.calls),
            str(kernel.trials),
            _number(kernel.zero_us, 1),
            f"{kernel.speedup:.3f}",
            f"{low:.3f}-{high:.3f}",
            ", ".join(f"{n}={v}" for n, v in sorted(kernel.decisions.items())),
        )
    return Group(str(result), *result.notes, table)


@contextlib.contextmanager
def _live(title: str) -> Iterator[Callable[[Status], None]]:
    from rich.live import Live

    shown = 0.0
    with Live(console=console(), auto_refresh=False, transient=True) as live:

        def show(status: Status) -> None:
            nonlocal shown
            if time.monotonic() - shown < _EVERY_S and status.phase == "searching":
                return
            shown = time.monotonic()
            live.update(_picture(title, status), refresh=True)

        yield show


def _picture(title: str, status: Status) -> Any:
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None)
    for name in ("kernel", "calls", "trials", "failed", "zero trials us", "best us", "speed-up"):
        table.add_column(name, justify="left" if name == "kernel" else "right")
    heavy = sorted(status.kernels, key=lambda k: -(k.zero_us or 0.0) * k.calls)
    for kernel in heavy[:_ROWS]:
        best = kernel.zero_us / kernel.speedup if kernel.zero_us else None
        table.add_row(
            kernel.name, str(kernel.calls), str(kernel.trials), str(kernel.failed),
            _number(kernel.zero_us, 1), _number(best, 1), f"{kernel.speedup:.3f}",
        )  # fmt: skip
    more = len(heavy) - _ROWS
    rest = f"and {more} more kernels" if more > 0 else ""
    return Group(f"{title}: {status.phase}", _summary(status), table, rest)


def _lines(title: str) -> Callable[[Status], None]:
    shown, phase = 0.0, ""

    def show(status: Status) -> None:
        nonlocal shown, phase
        if status.phase == phase and time.monotonic() - shown < _LINE_EVERY_S:
            return
        shown, phase = time.monotonic(), status.phase
        print(f"{title}: {phase}, {_summary(status)}", file=sys.stderr, flush=True)

    return show


def _summary(status: Status) -> str:
    wanted = "" if status.wanted is None else f" of {status.wanted}"
    parts = [f"{status.done}{wanted} trials", f"{_time(status.elapsed_s)} so far"]
    if status.trials_per_s:
        parts.append(f"{status.trials_per_s:.1f} trials/s")
    if status.failed:
        parts.append(f"{status.failed} failed")
    if status.eta_s is not None:
        parts.append(f"about {_time(status.eta_s)} left")
    if status.zero_ms:
        parts.append(f"kernels {status.zero_ms:.3f} ms with zero trials, {status.best_ms:.3f} best")
    return ", ".join(parts)


def _gain(kernel: TaskResult) -> float:
    return kernel.calls * (kernel.zero_us or 0.0) * (1 - 1 / kernel.speedup)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s"
