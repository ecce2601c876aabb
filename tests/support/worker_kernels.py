"""Small kernels to build, and libraries in C that behave badly."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import te

from lepton_tvm.artifact.writer import find_compiler
from lepton_tvm.kernels.matmul import MatmulShape, matmul
from lepton_tvm.kernels.register_tile import choose_tile
from lepton_tvm.targets import parse_target
from lepton_tvm.workers import Argument, BuildRequest

Array = npt.NDArray[Any]

_C = """
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int32_t __tvm_ffi_main(void *self, void *args, int32_t count, void *result) {{
  {body}
  return 0;
}}
"""


def module_of(inputs: Sequence[te.Tensor], output: te.Tensor) -> str:
    """The unscheduled function of a tensor expression, as builders take it."""
    return str(tvm.ir.save_json(tvm.IRModule({"main": te.create_prim_func([*inputs, output])})))


def line(shape: tuple[int, ...], dtype: str, factor: int = 2, terms: int = 1) -> str:
    """y = factor x + 1, with so many terms of zero added."""
    x = te.placeholder(shape, dtype, "x")

    def value(*at: Any) -> Any:
        total = x(*at) * tvm.tirx.const(factor, dtype) + tvm.tirx.const(1, dtype)
        for _ in range(terms - 1):
            total = total + x(*at) - x(*at)
        return total

    return module_of([x], te.compute(shape, value, "y"))


def product(rows: int, depth: int, columns: int) -> str:
    """A float32 product with weights packed as the matmul template has them."""
    tile = choose_tile(rows, columns, parse_target("native").level, 1)
    shape = MatmulShape((rows,), depth, columns, 1, tile.rows, tile.channels)
    packed = (shape.blocks, shape.depth_padded, shape.block)
    x, w = te.placeholder((rows, depth), name="x"), te.placeholder(packed, name="w")
    return module_of([x, w], matmul(x, w, shape, tile))


def request(name: str, module: str, **decisions: int) -> BuildRequest:
    """A request for this machine."""
    target = parse_target("native")
    return BuildRequest(name, module, str(target), target.cores, decisions)


def argument(folder: Path, name: str, array: Array) -> Argument:
    """An input in a file."""
    array.tofile(folder / name)
    return Argument(array.shape, str(array.dtype), str(folder / name))


def output(shape: tuple[int, ...], dtype: str) -> Argument:
    """An output."""
    return Argument(shape, dtype, None)


def library(folder: Path, name: str, body: str) -> str:
    """A kernel whose C code is `body`, as a shared library."""
    source, path = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(_C.format(body=body))
    subprocess.run(
        [find_compiler(), "-shared", "-fPIC", "-O0", "-o", str(path), str(source)], check=True
    )
    return str(path)


def numbers(shape: tuple[int, ...], dtype: str) -> Array:
    """Small whole numbers, so that every dtype holds what is computed of them."""
    return np.random.default_rng(3).integers(0, 9, shape).astype(dtype)
