"""The options that `compile` and `tune` share: the model, its compression and its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_tvm.cli.options import (
    Db,
    Shapes,
    Target,
    current_methods,
    parse_prune,
    parse_shapes,
)
from lepton_tvm.errors import InputError

if TYPE_CHECKING:
    from lepton_tvm import targets
    from lepton_tvm.model import Model
    from lepton_tvm.passes.quantize.config import QuantizeConfig
    from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["ModelOptions"]

_WEIGHT_BITS = {"auto": None, "8": 8, "7": 7}

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .lepton file.")]
SoFile = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write the result here.", show_default="MODEL.so"
    ),
]
Prune = Annotated[
    list[str] | None,
    typer.Option(
        "--prune",
        metavar="METHOD:VALUE",
        help="Zero half of the weights (magnitude:0.5), or remove 30 % of the channels "
        "(channels:0.3); repeatable.",
        callback=current_methods,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="PRECISION",
        help="Quantize to int8 (needs --calib) or bfloat16 (bf16 for short).",
        show_default="float32",
    ),
]
Calibrator = Annotated[
    str,
    typer.Option(
        "--calibrator", metavar="NAME", help="Choose int8 ranges by minmax, percentile or mse."
    ),
]
WeightBits = Annotated[
    str,
    typer.Option(
        "--weight-bits",
        metavar="auto|8|7",
        help="Store int8 weights in 8 or 7 bits. auto: 8, with a smaller range if the target has "
        "no VNNI, where the full range is slower.",
    ),
]
Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Calibrate int8 or channel pruning with inputs: a .npz or module:function.",
    ),
]
Winograd = Annotated[
    bool,
    typer.Option(
        "--winograd/--no-winograd",
        help="Use Winograd's method for float 3x3 convolutions where it is faster.",
    ),
]
TunedThreads = Annotated[
    int,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Tune for, or use schedules tuned for, exactly N threads.",
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
    weight_bits: WeightBits = "auto"
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
        if self.weight_bits not in _WEIGHT_BITS:
            raise InputError(
                f"--weight-bits {self.weight_bits!r} is not known: the choices are auto, 8 and 7"
            )
        if self.weight_bits != "auto" and not calibrated:
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
        config = config_for(goal, _WEIGHT_BITS[self.weight_bits], calibrator=self.calibrator)
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
