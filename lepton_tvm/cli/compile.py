"""`lepton-tvm compile`: one model file in, one `.so` out, recorded in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_tvm.cli.command import Output, command, new_app, progress
from lepton_tvm.cli.model_options import ModelOptions
from lepton_tvm.cli.options import Json

__all__ = ["app"]

app = new_app()

Tuned = Annotated[
    bool,
    typer.Option(
        "--tuned/--zero-trials",
        help="Use schedules found by `tune`, or analytical ones only.",
    ),
]

Hardware = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="ID",
        help="Use schedules tuned on that machine (see `device list`); set LEPTON_TVM_CORES to its "
        "number of cores.",
        show_default="this machine",
    ),
]


Dump = Annotated[
    Path | None,
    typer.Option(
        "--dump",
        metavar="DIR",
        help="Write the module after every phase of the compiler to a new or empty folder.",
    ),
]


@command(
    app,
    "compile",
    example="lepton-tvm compile model.onnx -o model.so --quantize int8 --calib calibration.npz",
)
def compile_model(
    options: ModelOptions,
    tuned: Tuned = True,
    hardware: Hardware = None,
    dump: Dump = None,
    as_json: Json = False,
) -> Output:
    """Prune, quantize and compile a model to one .so, and record it."""
    from lepton_tvm.compiler.dump import check_dump
    from lepton_tvm.targets import parse_target

    goal = parse_target(options.target)
    options.check()
    if dump is not None:
        check_dump(dump)
    with progress(f"loading {options.model}") as say:
        from lepton_tvm.compiler.compile import compile as build
        from lepton_tvm.compression.quantize import quantization_notes

        made = options.prepared(goal, say)
        say(f"compiling for {goal}")
        artifact = build(
            made, target=goal, output=options.so, winograd=options.winograd, tuned=tuned,
            hardware=hardware, threads=options.threads, db=options.db, dump=dump,
        )  # fmt: skip
        notes = quantization_notes(made)
    result = {**artifact.to_json(), "notes": list(notes)}
    return Output(result, "\n".join((str(artifact), *notes)))
