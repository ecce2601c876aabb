"""Text for a terminal: shown as written, with nothing that steers or styles the terminal."""

from __future__ import annotations

from typing import IO, Any

__all__ = ["console", "lines_of", "printable"]


def printable(text: str) -> str:
    """One line of text without what would steer the terminal, or is no character."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text.replace("\t", " "))


def lines_of(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def console(file: IO[str] | None = None, *, width: int | None = None) -> Any:
    """A rich console (default: for stderr) that shows texts as they are.

    Names of files, models and devices hold brackets and colons, which rich would take for styles
    and emojis; those that a stranger gave may hold worse.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(lines_of(text), **options)

    return Plain(file=file, stderr=file is None, width=width, markup=False, emoji=False)
