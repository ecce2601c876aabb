"""`lepton-tvm bench`: this model beside other engines, float and int8, timed in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_tvm.cli.options import Json, Shapes, Target, Threads, parse_shapes
from lepton_tvm.cli.session import Output, command, progress
from lepton_tvm.errors import InputError

__all__ = ["register"]

ENGINES = ("onnxruntime", "openvino")

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.")]
Against = Annotated[
    str,
    typer.Option("--against", metavar="ENGINES", help="onnxruntime, openvino; several by comma."),
]
Calib = Annotated[
    str | None,
    typer.Option("--calib", metavar="DATA", help="Calibration for int8; random inputs if absent."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "bench")
    def bench(
        model: ModelFile,
        against: Against = "onnxruntime",
        threads: Threads = 1,
        shape: Shapes = None,
        target: Target = "native",
        calib: Calib = None,
        as_json: Json = False,
    ) -> Output:
        """Time float and int8 of a model side by side with other engines, in turns."""
        engines = parse_engines(against)
        with progress(f"timing {model}"):
            from lepton_tvm.bench import bench as run

            result = run(
                model,
                against=engines,
                threads=threads,
                shapes=parse_shapes(shape),
                target=target,
                calibration=calib,
            )
        data = result.to_json()
        return Output(data, _table(data))


def parse_engines(text: str) -> tuple[str, ...]:
    """`onnxruntime,openvino` -> the engines' names; InputError for one that is not known."""
    engines = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [e for e in engines if e not in ENGINES]
    if unknown:
        raise InputError(f"--against {unknown[0]!r} is not known: choose of {', '.join(ENGINES)}")
    return engines


def _table(data: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(
        *("engine", "version", "precision", "ISA", "ms", "95 % CI"),
        title=f"{data['model']}, {data['threads']} threads",
    )
    for e in data["engines"]:
        latency = e["latency_ms"]
        low, high = latency["ci95"]
        interval = f"{low:.3f} to {high:.3f}"
        fields = (e["engine"], str(e["version"]), e["precision"], str(e["isa"] or ""))
        table.add_row(*fields, f"{latency['median']:.3f}", interval)
    return table
