"""`lepton-tvm compile`: one model file in, one `.so` out, recorded in the database."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_tvm.cli.model_options import (
    Calib,
    Calibrator,
    ModelFile,
    Prune,
    Quantize,
    SoFile,
    WeightBits,
    Winograd,
    check_options,
    prepared_model,
)
from lepton_tvm.cli.options import Db, Json, Shapes, Target
from lepton_tvm.cli.session import Output, command, progress
from lepton_tvm.targets import parse_target

__all__ = ["register"]

Tuned = Annotated[
    bool,
    typer.Option(
        "--tuned/--zero-trials",
        help="Use the schedules that `tune` found on this machine, or only analytical ones.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "compile")
    def compile_model(
        model: ModelFile,
        output: SoFile = None,
        shape: Shapes = None,
        target: Target = "native",
        prune: Prune = None,
        quantize: Quantize = None,
        calib: Calib = None,
        calibrator: Calibrator = "minmax",
        weight_bits: WeightBits = None,
        winograd: Winograd = True,
        tuned: Tuned = True,
        db: Db = None,
        as_json: Json = False,
    ) -> Output:
        """Prune and quantize a model as asked, compile it to one .so and record it."""
        goal = parse_target(target)
        steps = check_options(prune, quantize, calib, weight_bits)
        with progress(f"loading {model}") as say:
            from lepton_tvm.compiler import compile as build
            from lepton_tvm.quantization import quantization_notes

            made = prepared_model(
                model, goal, say, shape=shape, steps=steps, quantize=quantize, calib=calib,
                calibrator=calibrator, weight_bits=weight_bits,
            )  # fmt: skip
            say(f"compiling for {goal}")
            so = output or model.with_suffix(".so")
            artifact = build(made, target=goal, output=so, winograd=winograd, tuned=tuned, db=db)
            notes = quantization_notes(made)
        result = {**artifact.to_json(), "notes": list(notes)}
        return Output(result, "\n".join((str(artifact), *notes)))
