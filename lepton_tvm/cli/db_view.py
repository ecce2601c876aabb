"""What the texts of `lepton-tvm db` are made of: aligned columns that fit a terminal, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_tvm.cli.terminal import printable

__all__ = ["Machines", "grid", "heading", "lines", "number"]


def grid(
    columns: Sequence[str], rows: Sequence[Sequence[str]], like: Sequence[Sequence[str]] = ()
) -> Any:
    """Rows under their titles, indented; as wide as the rows of `like`, too, need it.

    A title that begins with `>` puts its column to the right; one that begins with `~` lets it be
    cut where the terminal is too narrow.
    The texts are shown as they are: a stranger's record can neither style nor steer the terminal.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, title in enumerate(columns):
        widest = max((len(row[i]) for row in (*rows, *like)), default=0)
        cut = title.startswith("~")
        name = title.lstrip(">~")
        table.add_column(
            name,
            justify="right" if title.startswith(">") else "left",
            no_wrap=not cut,
            min_width=None if cut else max(widest, len(name)),
        )
    for row in rows:
        cells = (Text(printable(cell), no_wrap=True, overflow="ellipsis") for cell in row)
        table.add_row(*cells)
    return Padding(table, (0, 0, 0, 2), expand=False)


def heading(text: str, rest: str = "") -> Any:
    """A name in bold type, and what belongs to it."""
    from rich.text import Text

    return Text.assemble((printable(text), "bold"), printable(rest))


def lines(fields: Mapping[str, str | None]) -> Any:
    """Fields below each other; a long one goes on below itself, one that is None is left out."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None:
            table.add_row(name, Text(printable(value)))
    return Padding(table, (0, 0, 0, 2), expand=False)


class Machines:
    """Machines by a letter, which stands for them in columns, in the order of their first use."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._letters: dict[str, str] = {}

    def __getitem__(self, fingerprint: str) -> str:
        count = len(self._letters)
        letter = chr(ord("A") + count % 26) + (str(count // 26) if count >= 26 else "")
        return self._letters.setdefault(fingerprint, letter)

    def legend(self) -> list[Any]:
        """Which letter stands for which machine, line by line."""
        from rich.text import Text

        told = []
        for fingerprint, letter in self._letters.items():
            name = self._names.get(fingerprint)
            told.append(f"{letter} = {fingerprint}" + (f", {name}" if name else ""))
        return [Text(printable(line)) for line in told]


def number(value: Any, form: str = "") -> str:
    """A number in that form; nothing for None."""
    return "" if value is None else format(value, form)
