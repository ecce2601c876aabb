"""`lepton-tvm bench`: this model beside other engines, float and int8, timed in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_tvm.cli.options import Json, Shapes, Target, Threads, parse_shapes
from lepton_tvm.cli.session import Output, command, progress

__all__ = ["register"]

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
        with progress(f"reading {model}") as say:
            from lepton_tvm.bench import bench as run

            result = run(
                model,
                against=engine_names(against),
                threads=threads,
                shapes=parse_shapes(shape),
                target=target,
                calibration=calib,
                progress=say,
            )
        return Output(result.to_json(), result)


def engine_names(text: str) -> tuple[str, ...]:
    """`onnxruntime, openvino` -> the names, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
