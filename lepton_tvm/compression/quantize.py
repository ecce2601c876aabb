"""Post-training quantization of a model: int8 by calibration and Q/DQ pairs, or bfloat16."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lepton_tvm.compression.calibrate import Executor, Range, collect_ranges
from lepton_tvm.data import as_samples
from lepton_tvm.errors import InputError
from lepton_tvm.ir import graph as g
from lepton_tvm.kernels.dot import has_narrow_sums
from lepton_tvm.model import Model, Step
from lepton_tvm.passes.base import PassReport
from lepton_tvm.passes.quantize.annotate import annotate
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.insert_qdq import InsertQDQ
from lepton_tvm.passes.quantize.plan import Plan
from lepton_tvm.passes.quantize.qparams import PIXELS, QParams, activation_qparams
from lepton_tvm.passes.quantize.schemes import INT8, SCHEMES, Scheme
from lepton_tvm.passes.quantize.split_to_slices import SplitToSlices
from lepton_tvm.passes.quantize.to_bfloat16 import ToBfloat16
from lepton_tvm.targets import Target, parse_target

__all__ = [
    "METHODS",
    "QuantizeConfig",
    "config_for",
    "quantization_notes",
    "quantize",
    "quantize_model",
]

#: Name of a method -> its scheme: its own name, the spellings of --quantize, and its older name.
METHODS: dict[str, Scheme] = {
    **{s.name: s for s in SCHEMES.values() if s.method},
    **{name: s for s in SCHEMES.values() if s.method for name in (*s.spellings, s.method)},
}
_DEFAULT_BITS = 8


@dataclass(frozen=True)
class _Asked:
    """The arguments of `quantize` beside the model and its method."""

    calibration: Any
    bit_width: int
    config: QuantizeConfig | None
    target: str | Target | None
    progress: Callable[[int], None] | None
    executor: Executor | None


def quantize(
    model: Model,
    calibration: Any = None,
    *,
    method: str = "int8",
    bit_width: int = _DEFAULT_BITS,
    config: QuantizeConfig | None = None,
    target: str | Target | None = None,
    progress: Callable[[int], None] | None = None,
    executor: Executor | None = None,
) -> Model:
    """Quantize `model` after training: to int8 with ranges from `calibration`, or to bfloat16.

    `method="bfloat16"` (or "bf16") needs no data and takes no further options: convolutions and
    products read bfloat16 (8 bits of precision, float32's range) and sum in float32; inputs and
    outputs stay float32. It compiles for targets that have bfloat16 instructions.

    `method="int8"` is also called "uniform". `calibration` is anything that
    `lepton_tvm.data.as_samples` reads; it is read once, streaming. The result holds
    quantize/dequantize pairs; compiling it lowers them to integer kernels. `progress` is called
    with the number of finished samples; `executor` replaces the compiler that runs the float model.
    `bit_width` is 8, or 7 for weights in -63..63. Where `target` has no VNNI, 8-bit weights are
    scaled so that its faster kernels for bytes are exact (`QuantizeConfig.sum_bits`); a `config`
    is taken as it is.

    The report (`model.report`) says what is quantized and, op by op, what is not and why.

    Raises `InputError` for missing, empty or wrong calibration data, an unsupported `method` or
    `bit_width`, options of another method, a model that is quantized already, or one in which
    nothing can be quantized.
    """
    if method not in METHODS:
        raise InputError(f"unknown quantization method {method!r}; known: {', '.join(METHODS)}")
    if model.is_quantized:
        raise InputError(f"model '{model.name}' is quantized already; start from the float model")
    scheme = METHODS[method]
    asked = _Asked(calibration, bit_width, config, target, progress, executor)
    return _WRITERS[scheme.writer](model, scheme, asked)


def _calibrated(model: Model, scheme: Scheme, asked: _Asked) -> Model:
    """The model with quantize/dequantize pairs, whose ranges the calibration data give."""
    weight_bits = None if asked.bit_width == _DEFAULT_BITS else asked.bit_width
    config = asked.config or config_for(asked.target, weight_bits)
    if asked.calibration is None:
        raise InputError(
            "quantize needs calibration data: some 32 typical inputs, without labels, as in "
            "quantize(model, calibration={'input': array})"
        )
    samples = as_samples(asked.calibration, model.inputs)
    module, slices = SplitToSlices()(model.module)
    sliced = dataclasses.replace(model, module=module)
    plan = annotate(module, config)
    if not plan.anchors:
        raise InputError(
            f"nothing in model '{model.name}' can be quantized: {_reasons(plan.report)}"
        )
    data_of = _data_of_anchors(sliced, plan)
    ranges = collect_ranges(
        sliced,
        samples,
        method=config.calibrator,
        percentile=config.percentile,
        tensors=list(dict.fromkeys((*plan.measured, *data_of.values()))),
        executor=asked.executor,
        progress=asked.progress,
    )
    insert = InsertQDQ(
        plan,
        {t: _params(plan, t, ranges[t]) for t in plan.measured},
        _means(data_of, ranges) if config.bias_correction else {},
        config,
    )
    module, inserted = insert(module)
    step = Step(
        "quantize",
        {"method": scheme.method, "samples": samples.length, **config.to_json()},
        (
            slices.to_json(),
            plan.report.to_json(),
            _ranges_report(plan, ranges),
            inserted.to_json(),
        ),
    )
    return model.derive(module, step, calibration_sha256=samples.fingerprint, precision=scheme.name)


def _rounded(model: Model, scheme: Scheme, asked: _Asked) -> Model:
    """The model with operands rounded to the scheme's float type, which needs no data."""
    if asked.calibration is not None or asked.config is not None:
        raise InputError(
            f"method {scheme.method!r} takes no calibration data and no config: leave them out"
        )
    if asked.bit_width not in (_DEFAULT_BITS, *scheme.weight_bits):
        raise InputError(
            f"bit_width={asked.bit_width!r} is not a choice of method {scheme.method!r}: "
            "leave it out"
        )
    module, slices = SplitToSlices()(model.module)
    module, report = ToBfloat16()(module)
    if not report.changed:
        raise InputError(
            f"nothing in model '{model.name}' can compute in {scheme.name}: {_reasons(report)}"
        )
    step = Step("quantize", {"method": scheme.method}, (slices.to_json(), report.to_json()))
    return model.derive(module, step, precision=scheme.name)


# Pass -> what is done around it, for the schemes that it writes.
_WRITERS: dict[str, Callable[[Model, Scheme, _Asked], Model]] = {
    InsertQDQ.name: _calibrated,
    ToBfloat16.name: _rounded,
}


def quantize_model(
    model: Model, calibration: Any = None, bit_width: int = _DEFAULT_BITS, **options: Any
) -> Model:
    """The short form of `quantize`: the same call with `bit_width` by position."""
    return quantize(model, calibration, bit_width=bit_width, **options)


def config_for(
    target: str | Target | None = None,
    weight_bits: int | Literal["auto"] | None = None,
    **options: Any,
) -> QuantizeConfig:
    """Options for a model that will be compiled for `target` (None: any machine).

    `weight_bits` is 8, 7, or "auto" (None means the same). On targets without VNNI, full 8-bit
    weights need kernels that multiply 16-bit factors, which are slower. There "auto" scales the
    weights so that 16 bits hold their sums.
    """
    if weight_bits == "auto":
        weight_bits = None
    level = None if target is None else parse_target(target).level
    narrow = weight_bits is None and level is not None and has_narrow_sums(level)
    wide_bits, narrow_bits = INT8.sum_bits
    return QuantizeConfig(
        weight_bits=weight_bits or INT8.weight_bits[0],
        sum_bits=narrow_bits if narrow else wide_bits,
        **options,
    )


def quantization_notes(model: Model) -> tuple[str, ...]:
    """What the last quantization says of the weights; empty for a float model."""
    reports = next((s.reports for s in reversed(model.recipe) if s.name == "quantize"), ())
    return tuple(n for r in reports if r["name"] == InsertQDQ.name for n in r["notes"])


def _data_of_anchors(model: Model, plan: Plan) -> dict[str, str]:
    """Anchor name -> name of the tensor it reads."""
    wanted = set(plan.anchors)
    made = g.definitions(g.main_of(model.module))
    return {v.name: call.args[0].name for v, call in made.items() if v.name in wanted}


def _params(plan: Plan, tensor: str, found: Range) -> QParams:
    return PIXELS if tensor in plan.pixels else activation_qparams(found.low, found.high)


def _means(data_of: dict[str, str], ranges: dict[str, Range]) -> dict[str, Any]:
    return {anchor: ranges[data].channel_mean for anchor, data in data_of.items()}


def _ranges_report(plan: Plan, ranges: dict[str, Range]) -> dict[str, Any]:
    """The measured ranges, in the shape of a pass report."""
    measured = {t: ranges[t].to_json() for t in plan.measured}
    return {"name": "calibrate", "changed": len(measured), "ranges": measured}


def _reasons(report: PassReport) -> str:
    listed = [f"'{s.name}' ({s.op}): {s.reason}" for s in report.skipped[:3]]
    more = len(report.skipped) - len(listed)
    return "; ".join(listed) + (f"; and {more} more" if more > 0 else "") or "it has no ops"
