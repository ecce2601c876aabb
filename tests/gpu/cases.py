"""Single kernels for GPUs against NumPy, run in a process that has a GPU or the emulator.

Functions here are called in a worker process (see `conftest.py`), so they take and return plain
values.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import tvm
from tvm import te, tirx

from lepton_tvm.artifact.writer import export_library, find_compiler
from lepton_tvm.compiler import build_cuda
from lepton_tvm.kernels.gemm import GemmShape, Window, gemm, pack_gemm_weight, window_reader
from lepton_tvm.kernels.window_conv import WindowConv, window_conv
from lepton_tvm.runtime.library import cuda_runtime
from lepton_tvm.schedules.apply import apply_schedules
from lepton_tvm.schedules.base import Decided
from lepton_tvm.targets import parse_target
from tests.gpu import emulator

Array = npt.NDArray[Any]
_TYPES = {"uint8": np.uint8, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Conv:
    """A convolution: `image` NHWC, `channels` out; padding is top, left, bottom, right."""

    image: tuple[int, int, int, int]
    channels: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a kernel answered, what NumPy says, and the rule that scheduled it."""

    got: Array
    want: Array
    rule: str | None


def prepare(emulated: bool) -> None:
    """Called once in the worker."""
    if emulated:
        setattr(build_cuda, "compile_binary", emulator.emulated_binary)  # noqa: B010


def convolution(
    case: Conv, kind: str, target: str, decisions: Mapping[str, int] | None = None
) -> Outcome:
    """A convolution of type `kind` with random values; integers are padded with 7."""
    rng = np.random.default_rng(case.channels)
    pad_value = 7 if kind == "uint8" else 0
    window = Window(case.image, case.kernel, case.strides, case.padding, case.dilation, pad_value)
    depth = case.image[3] // case.groups
    shape = (*case.kernel, depth, case.channels)
    if kind == "uint8":
        x: Array = rng.integers(0, 256, case.image, dtype=np.uint8)
        weight: Array = rng.integers(-127, 128, shape).astype(np.int8)
    else:
        x, weight = (rng.normal(size=s).astype(_TYPES[kind]) for s in (case.image, shape))
    want = _convolved(x, weight, case, window, pad_value)
    total = "int32" if kind == "uint8" else "float32"
    if case.groups > 1:
        grouped = WindowConv(window, case.channels, case.groups)
        a, w = _place(x, "x"), _place(weight, "w")
        out = window_conv(a, w, grouped)
        got, rule = run([a, w], out, [x, weight], total, target, decisions)
        return Outcome(got, want, rule)
    flat = weight.reshape(-1, case.channels)
    made = GemmShape(
        (), window.out, math.prod(window.out), case.channels, len(flat), str(weight.dtype), 16
    )
    packed, correction = pack_gemm_weight(flat, made)
    extra = [] if correction is None else [correction]
    a, w = _place(x, "x"), _place(packed, "w")
    more = [_place(c, "c") for c in extra]
    out = gemm(made, window_reader(a, window), lambda _, n, k: w[n, k], *more)
    # an epilogue that reads another tensor
    b = te.placeholder(made.out, total, name="b")
    done = te.compute(
        made.out, lambda *i: tirx.max(out[i] + b[i], tirx.const(0, total)), name="relu"
    )
    add = np.asarray(rng.integers(-9, 9, made.out), dtype=total)
    got, rule = run([a, w, *more, b], done, [x, packed, *extra, add], total, target, decisions)
    return Outcome(got, np.maximum(want + add, 0), rule)


def attention(batch: tuple[int, ...], rows: int, depth: int, columns: int) -> Outcome:
    """A product of two activations in float32, stored with the heads last but one."""
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(*batch, rows, depth)).astype(np.float32)
    y = rng.normal(size=(*batch, columns, depth)).astype(np.float32)
    ranks = len(batch)
    axes = (*range(ranks - 1), ranks, ranks - 1, ranks + 1)
    shape = GemmShape(batch, (rows,), rows, columns, depth, "float32", 4, axes)
    a, b = _place(x, "x"), _place(y, "y")
    out = gemm(
        shape,
        lambda i, m, k: a[(*i, m, k)],
        lambda i, n, k: b[(*i, n, k)],
        columns_padded=False,
    )
    want = np.transpose(x.astype(np.float64) @ np.swapaxes(y, -1, -2), (*axes,))
    got, rule = run([a, b], out, [x, y], "float32", "cuda:sm_80", None)
    return Outcome(got, want, rule)


def reduction(name: str, shape: Sequence[int], axes: Sequence[int]) -> Outcome:
    """`sum`, `max` or `softmax` over `axes`; `square_sum` reads an elementwise producer."""
    from tvm import topi

    x = np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)
    a, wide = _place(x, "x"), x.astype(np.float64)
    if name == "softmax":
        powers = np.exp(wide - wide.max(axes[0], keepdims=True))
        out, want = topi.nn.softmax(a, axes[0]), powers / powers.sum(axes[0], keepdims=True)
    elif name == "square_sum":
        out = topi.sum(topi.multiply(a, a), list(axes), True)
        want = (wide * wide).sum(tuple(axes), keepdims=True)
    elif name == "max":
        out, want = topi.max(a, list(axes)), wide.max(tuple(axes))
    else:
        total = topi.sum(a, list(axes))
        out, want = topi.multiply(total, tirx.const(0.5, "float32")), 0.5 * wide.sum(tuple(axes))
    got, rule = run([a], out, [x], "float32", "cuda:sm_80", None)
    return Outcome(got, want, rule)


def elementwise(name: str, shape: Sequence[int]) -> Outcome:
    """`transpose`, `concat` or `gelu` of a tensor."""
    from tvm import topi

    x = np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)
    a = _place(x, "x")
    if name == "transpose":
        out, want = topi.transpose(a), x.T
    elif name == "concat":
        out, want = topi.concatenate([a, topi.negative(a)], axis=-1), np.concatenate([x, -x], -1)
    else:
        out = topi.multiply(a, topi.add(topi.tanh(a), tirx.const(1, "float32")))
        want = x * (np.tanh(x.astype(np.float64)) + 1)
    got, rule = run([a], out, [x], "float32", "cuda:sm_80", None)
    return Outcome(got, np.asarray(want), rule)


def run(
    inputs: Sequence[te.Tensor],
    out: te.Tensor,
    arrays: Sequence[Array],
    dtype: str,
    target: str,
    decisions: Mapping[str, int] | None,
) -> tuple[Array, str | None]:
    """Schedule, build, load and run one kernel; its output and the rule that took it."""
    goal = parse_target(target)
    func = te.create_prim_func([*inputs, out]).with_attr("global_symbol", "main")
    decided = Decided(decisions or {})
    module, (applied,) = apply_schedules(tvm.IRModule({"main": func}), goal, lambda _: decided)
    assert not (decisions and applied.failures), applied.failures
    taken = {name: answer for name, (_, _, answer) in decided.asked.items()}
    assert taken == {**taken, **(decisions or {})}, decided.asked
    executable, code = build_cuda.build_kernels(module, goal)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        export_library(executable, path, find_compiler(), code)
        cuda_runtime()
        loaded = tvm.runtime.load_module(str(path))
        place = tvm.cuda(0)
        result = tvm.runtime.empty([int(d) for d in out.shape], dtype, place)
        loaded["main"](*[tvm.runtime.tensor(a, place) for a in arrays], result)
        return result.numpy(), applied.rule


def _place(array: Array, name: str) -> te.Tensor:
    return te.placeholder(array.shape, str(array.dtype), name=name)


def _convolved(x: Array, weight: Array, case: Conv, window: Window, pad_value: int) -> Array:
    """By its definition, in int64 or float64."""
    wide = np.int64 if x.dtype == np.uint8 else np.float64
    top, left, bottom, right = case.padding
    padded = np.pad(
        x.astype(wide), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad_value
    )
    n, lines, columns = window.out
    out: Array = np.zeros((n, lines, columns, case.channels), wide)
    per, depth = case.channels // case.groups, weight.shape[2]
    for kh in range(case.kernel[0]):
        for kw in range(case.kernel[1]):
            h, w = kh * case.dilation[0], kw * case.dilation[1]
            part = padded[
                :,
                h : h + (lines - 1) * case.strides[0] + 1 : case.strides[0],
                w : w + (columns - 1) * case.strides[1] + 1 : case.strides[1],
            ]
            for g in range(case.groups):
                to = slice(g * per, (g + 1) * per)
                taken = part[..., g * depth : (g + 1) * depth]
                filters: Array = weight[kh, kw, :, to].astype(wide)
                out[..., to] += taken @ filters
    return out
