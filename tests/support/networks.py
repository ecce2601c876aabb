"""Small networks in canonical form, a way to run them, and the zero-masked oracle of pruning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir.graph import Array, Expr, bindings_of, const_array, constant, main_of, rewrite
from lepton_tvm.model import Model, TensorInfo
from lepton_tvm.passes.prune.channels.labels import Flow, Ints


class Net:
    """Writes a canonical `main` with seeded random weights; every op is named `<op>_<n>`."""

    def __init__(self, shape: tuple[int, ...] = (1, 6, 6, 8), seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.bb = relax.BlockBuilder()
        self.x = relax.Var("x", relax.TensorType(shape, "float32"))
        self.count: dict[str, int] = {}

    def array(self, *shape: int) -> Array:
        """Normal values that keep activations near 1."""
        fan_in = max(1, int(np.prod(shape[:-1])))
        return np.float32((2.0 / fan_in) ** 0.5) * self.rng.standard_normal(shape, "float32")

    def emit(self, op: str, expr: Expr) -> Expr:
        number = self.count.get(op, 0)
        self.count[op] = number + 1
        return self.bb.emit(expr, name_hint=f"{op}_{number}")

    def channels(self, x: Expr) -> int:
        return int(x.ty.shape[-1])

    def conv(
        self, x: Expr, out: int, size: int = 3, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> Expr:
        kernel = self.array(size, size, self.channels(x) // groups, out)
        made = self.emit(
            "conv2d",
            relax.op.nn.conv2d(
                x,
                relax.const(kernel),
                strides=stride,
                padding=size // 2,
                groups=groups,
                data_layout="NHWC",
                kernel_layout="HWIO",
                out_layout="NHWC",
            ),
        )
        return self.bias(made) if bias else made

    def bias(self, x: Expr) -> Expr:
        shape = (1,) * (len(x.ty.shape) - 1) + (self.channels(x),)
        return self.op("add", x, relax.const(self.rng.standard_normal(shape).astype("float32")))

    def dense(self, x: Expr, out: int) -> Expr:
        weight = relax.const(self.array(self.channels(x), out))
        made = self.emit("matmul", relax.op.matmul(x, weight))
        shift = relax.const(self.rng.standard_normal(out).astype("float32"))
        return self.op("add", made, shift)

    def op(self, name: str, *args: Any, **options: Any) -> Expr:
        scope = relax.op.nn if hasattr(relax.op.nn, name) else relax.op
        return self.emit(name, getattr(scope, name)(*args, **options))

    def gate(self, x: Expr, squeeze: int) -> Expr:
        """Squeeze-and-excite."""
        pooled = self.op("mean", x, axis=[1, 2], keepdims=True)
        hidden = self.op("relu", self.conv(pooled, squeeze, 1))
        return self.op("multiply", x, self.op("sigmoid", self.conv(hidden, self.channels(x), 1)))

    def head(self, x: Expr, classes: int = 5) -> Expr:
        pooled = self.op("mean", x, axis=[1, 2], keepdims=False)
        return self.dense(pooled, classes)


def build(
    make: Callable[[Net, Expr], Expr], shape: tuple[int, ...] = (1, 6, 6, 8), seed: int = 0
) -> tvm.IRModule:
    """The module whose `main` is `make(net, x)`."""
    net = Net(shape, seed)
    with net.bb.function("main", [net.x]):
        with net.bb.dataflow():
            out = net.bb.emit_output(make(net, net.x))
        net.bb.emit_func_output(out)
    return net.bb.get()


def model_of(mod: tvm.IRModule, name: str = "net") -> Model:
    """`mod` as a `Model`."""
    func = main_of(mod)
    inputs = tuple(TensorInfo(p.name, _shape(p), "float32") for p in func.params)
    return Model(mod, inputs, (TensorInfo("y", _shape(func.body), "float32"),), name, "0" * 64)


def _shape(expr: Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


def run(mod: tvm.IRModule, x: Array) -> Array:
    """Compile with TVM's stock CPU pipeline and run once."""
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    result: Array = machine["main"](tvm.runtime.tensor(x)).numpy()
    return result


def image(mod: tvm.IRModule, seed: int = 1) -> Array:
    """A random input of the right shape."""
    shape = _shape(main_of(mod).params[0])
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def masked(mod: tvm.IRModule, flow: Flow, removed: Ints) -> tvm.IRModule:
    """`mod` at full size with every kernel zeroed where it makes or reads a removed channel.

    What a shrunk network must equal, found without the code that shrinks.
    """

    def visit(_: Any, var: Expr, value: Expr) -> Expr | None:
        if not any(w.var.same_as(var) for w in flow.weights):
            return None
        array = const_array(value.args[1])
        assert array is not None
        array = array.copy()
        for position, axis in enumerate(flow.constants[var, 1]):
            if axis is not None:
                gone = np.isin(flow.atoms.roots(axis), removed)
                np.moveaxis(array, position, 0)[gone] = 0
        return tvm.ir.Call(value.op, [value.args[0], constant(array)], value.attrs, value.ty_args)

    return rewrite(mod, visit)[0]


def shapes(mod: tvm.IRModule) -> dict[str, tuple[int, ...]]:
    """Result name -> shape."""
    return {b.var.name: _shape(b.var) for b in bindings_of(main_of(mod))}
