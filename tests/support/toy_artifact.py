"""Small compiled models, built with TVM's own pipeline, for tests of what comes after compiling."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from lepton_tvm import artifact

SOURCE = "5" * 64
WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
Tensor = tuple[str, tuple[int, ...], str]


def dense(scale: float = 1.0) -> tuple[Any, list[Tensor], list[Tensor]]:
    """relu(x @ W) * scale: x [2, 8] -> y [2, 4]."""
    return _dense(scale), [("x", (2, 8), "float32")], [("y", (2, 4), "float32")]


def large(rows: int, columns: int) -> tuple[Any, list[Tensor], list[Tensor]]:
    """x @ ones: x [1, rows] -> y [1, columns], with a float32 weight of rows x columns."""
    weight = relax.const(np.ones((rows, columns), "float32"))
    x: Tensor = ("x", (1, rows), "float32")
    made = _build([x], lambda x: relax.op.matmul(x, weight))
    return made, [x], [("y", (1, columns), "float32")]


def two_by_two() -> tuple[Any, list[Tensor], list[Tensor]]:
    """a + b and a * b: two inputs and two outputs of [3]."""
    made = _build(
        [("a", (3,), "float32"), ("b", (3,), "float32")],
        lambda a, b: relax.Tuple([relax.op.add(a, b), relax.op.multiply(a, b)]),
    )
    names: list[Tensor] = [("a", (3,), "float32"), ("b", (3,), "float32")]
    return made, names, [("sum", (3,), "float32"), ("product", (3,), "float32")]


def view() -> tuple[Any, list[Tensor], list[Tensor]]:
    """A reshape, whose output may share memory with its input: x [2, 3] -> y [6]."""
    made = _build([("x", (2, 3), "int32")], lambda x: relax.op.reshape(x, (6,)))
    return made, [("x", (2, 3), "int32")], [("y", (6,), "int32")]


def write(
    path: Path,
    model: tuple[Any, Sequence[Tensor], Sequence[Tensor]] | None = None,
    **changes: Any,
) -> str:
    """Save a toy as an artifact; `changes` replace fields of the manifest. Its sha256."""
    executable, inputs, outputs = model or dense()
    fields = {
        "name": "toy",
        "precision": "float32",
        "inputs": [_info(t) for t in inputs],
        "outputs": [_info(t) for t in outputs],
        "target": "x86:avx2",
        "isa": "avx2",
        "cpu_features": [],
        "source_sha256": SOURCE,
        "recipe": [{"name": "load", "options": {}, "reports": []}],
        **changes,
    }
    return artifact.save(executable, path, artifact.Manifest(**fields).to_json())


def _info(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor[0], "shape": tensor[1], "dtype": tensor[2]}


@functools.lru_cache(maxsize=8)
def _dense(scale: float) -> Any:
    def body(x: Any) -> Any:
        y = relax.op.nn.relu(relax.op.matmul(x, relax.const(WEIGHT)))
        return relax.op.multiply(y, relax.const(np.float32(scale)))

    return _build([("x", (2, 8), "float32")], body)


def _build(inputs: Sequence[Tensor], body: Callable[..., Any]) -> Any:
    builder = relax.BlockBuilder()
    params = [relax.Var(n, relax.TensorType(s, d)) for n, s, d in inputs]
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(body(*params)))
        builder.emit_func_output(out)
    target = tvm.target.Target({"kind": "llvm", "mtriple": f"{platform.machine()}-linux-gnu"})
    return tvm.compile(builder.get(), tvm.target.Target(target, host=target))
