"""`lepton-tvm bench`: this model beside other engines, kernel by kernel, and the machine itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_tvm.cli.command import Output, command, new_app, progress, warn
from lepton_tvm.cli.options import FarmOptions, Json, Shapes, Target, Threads, parse_shapes
from lepton_tvm.errors import InputError

__all__ = ["app"]

app = new_app()

ModelFile = Annotated[
    Path | None, typer.Argument(metavar="MODEL", help="An .onnx file; not needed with --peak.")
]
Against = Annotated[
    str,
    typer.Option(
        "--against",
        metavar="ENGINES",
        help="Compare with onnxruntime, openvino (comma-separated) or none.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="LIST",
        help="Time these: float32, bfloat16, int8 (comma-separated).",
        show_default="all of the target",
    ),
]
Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Calibrate int8 with a .npz or module:function.",
        show_default="random inputs",
    ),
]
PeersIsa = Annotated[
    str | None,
    typer.Option(
        "--peers-isa",
        metavar="ISA",
        help="Limit OpenVINO to sse, avx2, ...; ONNX Runtime has no such switch.",
        show_default="no limit",
    ),
]
ProfileFlag = Annotated[
    bool, typer.Option("--profile", help="Time each kernel and show its share of the peak.")
]
PeakFlag = Annotated[
    bool, typer.Option("--peak", help="Measure the peaks of this machine's CPU and memory.")
]


@command(app, "bench", example="lepton-tvm bench model.onnx --against onnxruntime --threads 1")
def bench(
    model: ModelFile = None,
    against: Against = "onnxruntime",
    precision: Precision = None,
    threads: Threads = 1,
    shape: Shapes = None,
    target: Target = "native",
    calib: Calib = None,
    peers_isa: PeersIsa = None,
    profile: ProfileFlag = False,
    peak: PeakFlag = False,
    *,
    farm: FarmOptions,
    as_json: Json = False,
) -> Output:
    """Time a model in this compiler and in other engines, in turns."""
    if model is None:
        if farm.asked:
            raise InputError("--peak measures this machine alone: run it on the device itself")
        return _peaks(peak, threads)
    with progress(f"reading {model}") as say:
        from lepton_tvm.bench import bench as run

        result = run(
            model,
            against=engines(against),
            threads=threads,
            shapes=parse_shapes(shape),
            target=target,
            calibration=calib,
            precisions=None if precision is None else names(precision),
            peers_isa=peers_isa,
            profile=profile,
            peak=peak,
            tracker=farm.tracker,
            key=farm.key,
            progress=say,
        )
    return Output(result.to_json(), result)


def _peaks(asked: bool, threads: int) -> Output:
    """The machine alone."""
    if not asked:
        raise InputError("bench needs a MODEL (an .onnx file), or --peak to measure the machine")
    with progress("loading the compiler") as say:
        from lepton_tvm.measure.peak.measure_peak import measure_peaks

        peaks = measure_peaks((threads,), progress=say)
    data = {"machine": peaks.machine.to_json(), "threads": threads, "peak": peaks.to_json()}
    return Output(data, peaks)


def engines(text: str) -> tuple[str, ...]:
    """The engines of `--against`; `none` means no engine, as "" did in older versions."""
    if not text.strip():
        warn('--against "" is an old spelling: write --against none')
    return () if text.strip() in ("", "none") else names(text)


def names(text: str) -> tuple[str, ...]:
    """`onnxruntime, openvino` -> the names, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
