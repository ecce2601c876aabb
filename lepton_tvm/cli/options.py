"""The options that several commands have, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_tvm.cli.command import warn
from lepton_tvm.errors import InputError

if TYPE_CHECKING:
    from lepton_tvm.farm import Farm

__all__ = [
    "Db",
    "FarmOptions",
    "Json",
    "Shapes",
    "Target",
    "Threads",
    "current_methods",
    "parse_prune",
    "parse_shapes",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        envvar="LEPTON_TVM_DB",
        help="Use this database: a URL or a SQLite file.",
        show_default="sqlite:///lepton.db",
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="T",
        help="Compile for native, x86:avx2, x86:vnni, arm:neon, arm:cortex-a76, cuda:sm_80, ...",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, metavar="N", help="Run kernels on N threads.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME=1,3,224,224", help="Fix the shape of an input; repeatable."
    ),
]

Tracker = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        metavar="HOST:PORT",
        help="Measure on a device of this tracker (needs --key).",
        show_default=False,
    ),
]
DeviceKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Choose the kind of device (needs --tracker).",
        show_default=False,
    ),
]

_PRUNE = {"magnitude": "sparsity", "channels": "ratio"}
_OLD_METHODS = {"pruning": "magnitude"}


@dataclass(frozen=True)
class FarmOptions:
    """Where `tune`, `compare` and `bench` measure: here, or on devices that a tracker gives."""

    tracker: Tracker = None
    key: DeviceKey = None

    @property
    def asked(self) -> bool:
        """Whether devices are meant; those who ask for them refuse one option without the other."""
        return self.tracker is not None or self.key is not None

    def farm(self) -> Farm | None:
        """The farm that is meant; None for this machine. Raises InputError for half a name."""
        from lepton_tvm.farm import Farm

        return Farm.of(self.tracker, self.key)


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]] | None:
    """`["x=1,3,224,224"]` -> `{"x": (1, 3, 224, 224)}`; None where there is none."""
    if not texts:
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, sep, dims = text.rpartition("=")
        parts = [d.strip() for d in dims.split(",")]
        if not sep or not name or not all(d.isdigit() and int(d) > 0 for d in parts):
            raise InputError(
                f"--shape {text!r} is not NAME=D,D,...: give the input's name and its dimensions "
                "as whole numbers above 0, for example --shape input=1,3,224,224"
            )
        if name in shapes:
            raise InputError(f"--shape names the input {name!r} twice")
        shapes[name] = tuple(int(d) for d in parts)
    return shapes


def current_methods(texts: list[str] | None) -> list[str] | None:
    """The values of `--prune` with the methods' present names; warns of old ones."""
    found = []
    for text in texts or ():
        method, colon, value = text.partition(":")
        if method in _OLD_METHODS:
            new = _OLD_METHODS[method]
            warn(f"--prune {text} is an old spelling: write --prune {new}{colon}{value}")
            method = new
        found.append(f"{method}{colon}{value}")
    return found or texts


def parse_prune(text: str) -> dict[str, Any]:
    """`channels:0.3` -> the arguments of `lepton_tvm.compress`."""
    method, _, value = text.partition(":")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if method not in _PRUNE or not 0.0 < number < 1.0:
        raise InputError(
            f"--prune {text!r} is not METHOD:VALUE: METHOD is one of {', '.join(_PRUNE)} and VALUE "
            "the share to remove, between 0 and 1, for example --prune channels:0.3"
        )
    return {"method": method, _PRUNE[method]: number}
