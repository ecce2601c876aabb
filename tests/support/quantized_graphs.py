"""Small canonical graphs for the tests of quantization, and integer oracles in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from lepton_tvm.ir import graph as g
from lepton_tvm.model import Model, TensorInfo

Array = npt.NDArray[Any]


class Net:
    """Writes a canonical `main` op by op; names are `<op>_<number>` as the frontend gives them."""

    def __init__(self, *shapes: Sequence[int], dtype: str = "float32", seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.params = [
            relax.Var(f"x{i}" if i else "x", relax.TensorType(tuple(s), dtype))
            for i, s in enumerate(shapes)
        ]
        self._builder = relax.BlockBuilder()
        self._count: dict[str, int] = {}

    def build(self, write: Callable[..., Any]) -> tvm.IRModule:
        """`write(net, *params)` returns the output, or a tuple of outputs."""
        with self._builder.function("main", self.params):
            with self._builder.dataflow():
                made = write(self, *self.params)
                made = relax.Tuple(list(made)) if isinstance(made, tuple) else made
                out = self._builder.emit_output(made)
            self._builder.emit_func_output(out)
        return self._builder.get()

    def op(self, call: g.Expr) -> g.Expr:
        """Bind any call."""
        short = g.short_op(call)
        number = self._count.get(short, 0)
        self._count[short] = number + 1
        return self._builder.emit(call, name_hint=f"{short}_{number}")

    def weight(self, *shape: int) -> Array:
        """Seeded normal float32 values."""
        return self.rng.normal(size=shape).astype(np.float32)

    def conv(self, x: g.Expr, channels: int, kernel: int = 1, **attrs: Any) -> g.Expr:
        """conv2d NHWC/HWIO with seeded weights; `weight=` gives them instead."""
        groups = int(attrs.get("groups", 1))
        weight = attrs.pop("weight", None)
        if weight is None:
            weight = self.weight(kernel, kernel, g.shape_of(x)[3] // groups, channels)
        return self.op(
            relax.op.nn.conv2d(
                x, g.constant(weight), data_layout="NHWC", kernel_layout="HWIO", **attrs
            )
        )

    def bias(self, x: g.Expr) -> g.Expr:
        """Add a seeded bias per channel of the last axis."""
        shape = (1,) * (len(g.shape_of(x)) - 1) + (g.shape_of(x)[-1],)
        return self.op(relax.op.add(x, g.constant(self.weight(*shape))))

    def relu(self, x: g.Expr) -> g.Expr:
        """relu."""
        return self.op(relax.op.nn.relu(x))

    def dense(self, x: g.Expr, channels: int) -> g.Expr:
        """matmul with a seeded [K, N] constant."""
        return self.op(relax.op.matmul(x, g.constant(self.weight(g.shape_of(x)[-1], channels))))


def net(
    write: Callable[..., Any], *shapes: Sequence[int], dtype: str = "float32", seed: int = 0
) -> tvm.IRModule:
    """The module that `write` makes, for inputs of these shapes (default [1,8,8,4])."""
    return Net(*(shapes or ((1, 8, 8, 4),)), dtype=dtype, seed=seed).build(write)


def model_of(module: tvm.IRModule, name: str = "small") -> Model:
    """The module as a `Model`."""
    func = g.main_of(module)
    output = g.output_of(func)
    outputs = list(output.fields) if isinstance(output, relax.Tuple) else [output]
    return Model(
        module,
        tuple(TensorInfo(p.name, g.shape_of(p), g.dtype_of(p)) for p in func.params),
        tuple(TensorInfo(f"out{i}", g.shape_of(o), g.dtype_of(o)) for i, o in enumerate(outputs)),
        name,
        "0" * 64,
    )


def ops_of(module: tvm.IRModule) -> list[str]:
    """The ops of `main` in order."""
    return [g.op_name(b.value) for b in g.bindings_of(g.main_of(module))]


def call_named(module: tvm.IRModule, name: str) -> g.Expr:
    """The value of the binding of this name."""
    return next(b.value for b in g.bindings_of(g.main_of(module)) if b.var.name == name)


def int_conv2d(
    q: Array,
    w: Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    zero_point: int = 0,
) -> Array:
    """Exact int64 `sum((q - zero_point) * w)`, NHWC and HWIO; padding is the zero point."""
    top, left, bottom, right = padding
    x = np.pad(q.astype(np.int64) - zero_point, ((0, 0), (top, bottom), (left, right), (0, 0)))
    kh, kw, per_group, out_channels = w.shape
    height = (x.shape[1] - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    width = (x.shape[2] - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    acc = np.zeros((x.shape[0], height, width, out_channels), np.int64)
    per_out = out_channels // groups
    for group in range(groups):
        ins = slice(group * per_group, (group + 1) * per_group)
        outs = slice(group * per_out, (group + 1) * per_out)
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dilation[0], i * dilation[0] + strides[0] * height, strides[0])
                columns = slice(j * dilation[1], j * dilation[1] + strides[1] * width, strides[1])
                taps = x[:, rows, columns, ins][:, :height, :width]
                acc[..., outs] += np.tensordot(taps, w[i, j, :, outs].astype(np.int64), 1)
    return acc
