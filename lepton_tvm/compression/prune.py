"""Making a float model smaller: zeros by magnitude, or whole channels removed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_tvm.compiler import pipeline
from lepton_tvm.compression.calibrate import Executor
from lepton_tvm.data import Samples, as_samples
from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import Array, bindings_of, main_of, with_named_outputs
from lepton_tvm.model import Model, Step
from lepton_tvm.passes.prune.channels.groups import find_groups
from lepton_tvm.passes.prune.channels.importance import group_importance
from lepton_tvm.passes.prune.channels.labels import Flow
from lepton_tvm.passes.prune.channels.moments import Moments, Reader, find_readers
from lepton_tvm.passes.prune.channels.propagate import propagate
from lepton_tvm.passes.prune.channels.prune_channels import PruneChannels
from lepton_tvm.passes.prune.channels.reconstruct import repair, repair_cost
from lepton_tvm.passes.prune.channels.shrink import kernels
from lepton_tvm.passes.prune.prune_magnitude import PruneMagnitude

__all__ = ["METHODS", "compress"]


def compress(
    model: Model,
    *,
    method: str,
    threshold: float | None = None,
    sparsity: float | None = None,
    ratio: float | None = None,
    scope: str | None = None,
    round_to: int | None = None,
    norm: str | None = None,
    skip: Sequence[str] | None = None,
    calibration: Any = None,
    executor: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Model:
    """A smaller float model; `.report` lists each change, each skipped layer and the reason.

    `method="magnitude"`: the smallest weights become zero. Give `threshold` (every |w| below it) or
    `sparsity` (fraction of zeros to reach), `scope` "global" (default) or "layer", and `skip`,
    names of layers to leave alone. Shapes stay, so dense kernels do not get faster.

    `method="channels"`: whole channels leave and the graph shrinks. `ratio` is the fraction to
    remove, of all channels that may go, ranked together (`scope="global"`, default), or of every
    dependency group (`"group"`); widths kept are multiples of `round_to` (default 8). Without
    `calibration` the channels with the smallest weights go (`norm` "l2", default, or "l1"). With
    `calibration` (unlabelled inputs, in every form that `lepton_tvm.data.as_samples` reads) the
    channels go that the others replace best. The layers that read them are refitted, which keeps
    much of the accuracy without training. `executor` replaces the compiler that runs the float
    model; `progress` is called with the number of finished samples.

    `method="pruning"` is the old name of "magnitude" and gives a `DeprecationWarning`.

    Nothing is random. Raises `InputError` for an unknown method, options that do not belong to it,
    a model that is quantized already, and weights or data that are NaN or infinite.
    """
    if not isinstance(model, Model):
        raise InputError(f"compress takes a Model (see load_model), found {type(model).__name__}")
    method = _known_method(method)
    if model.is_quantized:
        raise InputError(
            f"model '{model.name}' is quantized already; compress the float model first, "
            "then quantize the result"
        )
    chosen = METHODS[method]
    given = {
        "threshold": threshold,
        "sparsity": sparsity,
        "ratio": ratio,
        "scope": scope,
        "round_to": round_to,
        "norm": norm,
        "skip": skip,
        "calibration": calibration,
        "executor": executor,
        "progress": progress,
    }
    given = {name: value for name, value in given.items() if value is not None}
    foreign = sorted(set(given) - set(chosen.options))
    if foreign:
        raise InputError(
            f"method '{method}' does not take {', '.join(foreign)}; "
            f"it takes {', '.join(chosen.options)}"
        )
    return chosen.apply(model, given)


def _known_method(name: str) -> str:
    """The present name of a method; an old one gives a warning at the caller of `compress`."""
    if name in _OLD_NAMES:
        text = f"method={name!r} is an old name: write method={_OLD_NAMES[name]!r}"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
        return _OLD_NAMES[name]
    if name not in METHODS:
        raise InputError(f"unknown compression method '{name}'; known: {', '.join(METHODS)}")
    return name


@dataclass(frozen=True)
class _Method:
    options: tuple[str, ...]
    apply: Callable[[Model, dict[str, Any]], Model]


def _magnitude(model: Model, given: dict[str, Any]) -> Model:
    if ("threshold" in given) == ("sparsity" in given):
        raise InputError(
            "method 'magnitude' needs exactly one of threshold= (absolute value below which a "
            "weight becomes zero) and sparsity= (fraction of zeros to reach)"
        )
    skip = tuple(given.get("skip", ()))
    unknown = sorted(set(skip) - {b.var.name for b in bindings_of(main_of(model.module))})
    if unknown:
        raise InputError(f"skip names {unknown}, but the model has no such layers")
    options = {**given, "skip": skip}
    module, report = PruneMagnitude(**options)(model.module)
    step = Step(
        "compress", {"method": "magnitude", **options, "skip": list(skip)}, (report.to_json(),)
    )
    return model.derive(module, step)


def _channels(model: Model, given: dict[str, Any]) -> Model:
    if "ratio" not in given:
        raise InputError("method 'channels' needs ratio=, the fraction of channels to remove")
    names = ("ratio", "scope", "round_to", "norm")
    pruning = PruneChannels(**{name: given[name] for name in names if name in given})
    options = {"method": "channels", **{name: getattr(pruning, name) for name in names}}
    if "calibration" not in given:
        for name in ("executor", "progress"):
            if name in given:
                raise InputError(f"{name}= is used with calibration= only")
        module, report = pruning(model.module)
        return model.derive(module, Step("compress", options, (report.to_json(),)))
    samples = as_samples(given["calibration"], model.inputs)
    executor: Executor = given.get("executor", pipeline.executor)
    return _with_data(model, pruning, samples, executor, given.get("progress"), options)


METHODS: dict[str, _Method] = {
    "magnitude": _Method(("threshold", "sparsity", "scope", "skip"), _magnitude),
    "channels": _Method(
        ("ratio", "scope", "round_to", "norm", "calibration", "executor", "progress"), _channels
    ),
}
"""Name -> options and function of every compression method."""

_OLD_NAMES = {"pruning": "magnitude"}


def _with_data(
    model: Model,
    pruning: PruneChannels,
    samples: Samples,
    executor: Executor,
    progress: Callable[[int], None] | None,
    options: dict[str, Any],
) -> Model:
    """Channel pruning with selection and repair from what the layers really read."""
    flow = propagate(model.module)
    arrays = kernels(model.module, flow)
    seen = _watch(model, _worth_watching(model, flow), samples, executor, progress)
    scores = {}
    by_weight = []
    for group in find_groups(flow):
        cost = None if group.reason else repair_cost(seen, arrays, group)
        if cost is None and group.reason is None:
            by_weight.append(group.name)
        scores[group.name] = (
            group_importance(flow, arrays, group, pruning.norm) if cost is None else cost
        )
    plan = pruning.plan(model.module, flow, scores)
    repaired = {r.weight.var: repair(r, m, arrays[r.weight.var], plan.removed) for r, m in seen}
    done = {var: both for var, both in repaired.items() if both is not None}
    module, report = pruning.apply(
        model.module,
        plan,
        {var: both[0] for var, both in done.items()},
        {var: both[1] for var, both in done.items()},
    )
    refit = {
        "name": "refit-channels",
        "changed": len(done),
        "refitted": [var.name for var in done],
        "ranked_by_weight_only": by_weight,
    }
    step = Step("compress", {**options, "samples": samples.length}, (report.to_json(), refit))
    return model.derive(module, step, calibration_sha256=samples.fingerprint)


def _worth_watching(model: Model, flow: Flow) -> tuple[Reader, ...]:
    """The layers that read a channel which may go."""
    open_roots = [g.roots for g in find_groups(flow) if g.reason is None]
    roots = np.concatenate([np.empty(0, dtype=np.int64), *open_roots])
    readers = find_readers(model.module, flow)
    return tuple(r for r in readers if np.isin(r.columns, roots).any())


def _watch(
    model: Model,
    readers: Sequence[Reader],
    samples: Samples,
    executor: Executor,
    progress: Callable[[int], None] | None,
) -> list[tuple[Reader, Moments]]:
    """Run the float model once over the samples and gather the moments of every reader."""
    seen = [(reader, Moments(len(reader.columns))) for reader in readers]
    names = list(dict.fromkeys(reader.data for reader in readers))
    if not names:
        return []
    run = executor(with_named_outputs(model.module, names))
    order = [p.name for p in main_of(model.module).params]
    for done, sample in enumerate(samples, start=1):
        arrays = dict(zip(names, run([sample[n] for n in order]), strict=True))
        _refuse_infinite(arrays)
        for reader, moments in seen:
            moments.add(reader.rows(arrays[reader.data]))
        if progress is not None:
            progress(done)
    return seen


def _refuse_infinite(arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(
                f"the float model computes NaN or infinity at '{name}' on a calibration sample; "
                "check the weights and the scale of the input data"
            )
