"""What `compile` and `tune` have in common: the model, what is done to it first, and for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_tvm.cli.options import Db, Shapes, Target, parse_prune, parse_shapes
from lepton_tvm.errors import InputError

if TYPE_CHECKING:
    from lepton_tvm import targets
    from lepton_tvm.model import Model
    from lepton_tvm.passes.quantize.config import QuantizeConfig
    from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["ModelOptions"]

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .lepton file.")]
SoFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Where to write it; default MODEL.so."),
]
Prune = Annotated[
    list[str] | None,
    typer.Option(
        "--prune",
        metavar="METHOD:VALUE",
        help="pruning:0.5 zeroes half of the weights, channels:0.3 removes 30 % of the channels; "
        "may be repeated.",
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="PRECISION",
        help="int8, which needs --calib, or bf16 (bfloat16), which needs x86:bf16 or x86:amx.",
    ),
]
Calibrator = Annotated[
    str, typer.Option("--calibrator", metavar="NAME", help="minmax, percentile or mse.")
]
WeightBits = Annotated[
    int | None,
    typer.Option(
        "--weight-bits",
        metavar="N",
        help="8 or 7. Default: 8, limited where the target has no VNNI so that 16 bits hold its "
        "sums; 8 forces the full range, which is slower there.",
    ),
]
Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="A .npz or module:function of typical inputs, for int8 and for channel pruning.",
    ),
]
Winograd = Annotated[
    bool,
    typer.Option(
        "--winograd/--no-winograd",
        help="Let float 3x3 convolutions use Winograd's method where it is faster; it rounds a "
        "little more and stores larger weights.",
    ),
]
TunedThreads = Annotated[
    int,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Threads that will run it: schedules are tuned for, and used for, just that number.",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """The options that `compile` and `tune` share: which model, what is done to it, for what."""

    model: ModelFile
    output: SoFile = None
    shape: Shapes = None
    target: Target = "native"
    prune: Prune = None
    quantize: Quantize = None
    calib: Calib = None
    calibrator: Calibrator = "minmax"
    weight_bits: WeightBits = None
    winograd: Winograd = True
    threads: TunedThreads = 1
    db: Db = None

    @property
    def so(self) -> Path:
        """Where the result is written."""
        return self.output or self.model.with_suffix(".so")

    def check(self) -> list[dict[str, Any]]:
        """The pruning steps asked for. Raises InputError for options that do not fit together."""
        steps = [parse_prune(text) for text in self.prune or ()]
        scheme = self._scheme()
        calibrated = scheme is not None and scheme.is_calibrated
        if calibrated and self.calib is None:
            raise InputError(
                f"--quantize {self.quantize} needs --calib DATA: a .npz file or "
                "package.module:function with some real inputs, labels are not needed"
            )
        if self.weight_bits is not None and not calibrated:
            raise InputError(f"--weight-bits is only used with --quantize {_calibrated_names()}")
        channels = any(step["method"] == "channels" for step in steps)
        if self.calib and not calibrated and not channels:
            raise InputError(
                f"--calib is only used with --quantize {_calibrated_names()} or "
                "--prune channels:VALUE"
            )
        return steps

    def prepared(self, goal: targets.Target, say: Callable[[str], None]) -> Model:
        """The model, pruned and quantized as asked for the target `goal`; `say` hears each step."""
        from lepton_tvm.compression.quantize import config_for
        from lepton_tvm.frontend import load_model

        made = load_model(self.model, shapes=parse_shapes(self.shape))
        made = _pruned(made, self.check(), self.calib, say)
        scheme = self._scheme()
        if scheme is None:
            return made
        config = config_for(goal, self.weight_bits, calibrator=self.calibrator)
        return _quantized(made, scheme, self.calib, config, say)

    def _scheme(self) -> Scheme | None:
        """What --quantize asks for. Raises InputError for an unknown spelling."""
        if self.quantize is None:
            return None
        known = _schemes()
        found = next((s for s in known if self.quantize in s.spellings), None)
        if found is None:
            choices = " and ".join(s.spellings[0] for s in known)
            raise InputError(
                f"--quantize {self.quantize!r} is not known: the choices are {choices}"
            )
        return found


def _schemes() -> list[Scheme]:
    """The schemes that --quantize can ask for."""
    from lepton_tvm.passes.quantize.schemes import SCHEMES

    return [scheme for scheme in SCHEMES.values() if scheme.spellings]


def _calibrated_names() -> str:
    return " or ".join(s.spellings[0] for s in _schemes() if s.is_calibrated)


def _pruned(
    model: Model, steps: list[dict[str, Any]], calib: str | None, say: Callable[[str], None]
) -> Model:
    """The model pruned; `steps` holds arguments of `compress`, data goes to those that use it."""
    from lepton_tvm.compression.prune import compress

    for step in steps:
        say(f"pruning: {step['method']}")
        data: dict[str, Any] = (
            {"calibration": calib} if calib and step["method"] == "channels" else {}
        )
        model = compress(model, **step, **data)
    return model


def _quantized(
    model: Model,
    scheme: Scheme,
    calib: str | None,
    config: QuantizeConfig,
    say: Callable[[str], None],
) -> Model:
    """The model in `scheme`, with ranges from `calib` where it needs them."""
    from lepton_tvm.compression.quantize import quantize

    if not scheme.is_calibrated:
        say(f"rounding to {scheme.name}")
        return quantize(model, method=scheme.method)
    say("calibrating and quantizing")
    return quantize(model, calib, method=scheme.method, config=config)
