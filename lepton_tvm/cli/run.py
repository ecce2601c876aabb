"""`lepton-tvm run`: feed a .npz to an artifact; the compiler is not needed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_tvm.cli.command import Output, command, new_app
from lepton_tvm.cli.options import Json, Threads
from lepton_tvm.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["app"]

app = new_app()


@command(app, "run", example="lepton-tvm run model.so --input x.npz --output y.npz")
def run(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A compiled .so.")],
    source: Annotated[
        Path,
        typer.Option("--input", metavar="X.NPZ", help="Read inputs: one array per input name."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="Y.NPZ", help="Write the outputs to this file."),
    ] = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> Output:
    """Run an artifact once on the arrays of a .npz file."""
    from lepton_tvm.runtime import load

    inputs = read_npz(source)
    net = load(artifact, threads=threads)
    found = net(inputs)
    outputs = found if isinstance(found, dict) else {net.outputs[0].name: found}
    if output is not None:
        write_npz(output, outputs)
    described = [describe(name, value) for name, value in outputs.items()]
    lines = [
        f"{o['name']}: {o['dtype']} {o['shape']}, from {o['min']:.6g} to {o['max']:.6g}, "
        f"largest at flat index {o['argmax']}"
        for o in described
    ]
    if output is not None:
        lines.append(f"written to {output}")
    kept = None if output is None else str(output)
    data = {"artifact": str(artifact), "output": kept, "outputs": described}
    return Output(data, "\n".join(lines))


def describe(name: str, value: npt.NDArray[Any]) -> dict[str, Any]:
    """Name, shape, dtype and range of one output."""
    some = value.size > 0
    return {
        "name": name,
        "shape": list(value.shape),
        "dtype": str(value.dtype),
        "min": float(value.min()) if some else None,
        "max": float(value.max()) if some else None,
        "argmax": int(value.argmax()) if some else None,
    }


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a .npz file; InputError where it is missing, damaged or holds objects."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            if isinstance(data, np.ndarray):
                raise InputError(f"{path} holds one bare array; --input wants a .npz by input name")
            return {name: data[name] for name in data.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path} as .npz: {error}") from error


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Write `arrays` under exactly this name (NumPy alone would add an ending)."""
    import numpy as np

    try:
        with path.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
