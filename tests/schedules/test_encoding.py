"""What LLVM makes of int8 kernels: only instructions that a level has, in the encoding it has."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.compiler.pipeline import lower
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.targets import parse_target
from tests.support.quantized_graphs import Net, model_of, net


def _write(n: Net, x: Any) -> Any:
    y = n.relu(n.bias(n.conv(x, 32, 3, padding=1)))
    y = n.relu(n.bias(n.conv(y, 32, 3, padding=1, groups=32)))
    y = n.op(relax.op.mean(n.relu(n.conv(y, 24)), [1, 2]))
    return n.bias(n.dense(y, 5))


def _assembly(isa: str) -> str:
    """The machine code of all kernels of a small int8 network for `isa`."""
    target = parse_target(f"x86:{isa}")
    data = np.random.default_rng(0).normal(size=(4, 8, 8, 8)).astype(np.float32)
    made = quantize(model_of(net(_write, (1, 8, 8, 8))), data, target=target)
    text = []
    for func in lower(made.module, target).module.functions.values():
        if isinstance(func, tvm.tirx.PrimFunc):
            module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
            built = build_kernels(module, target)
            text.append(built.mod.inspect_source("asm"))
    return "\n".join(text)


_AVX512 = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|\{%k[0-7]\}|\{1to\d+\}")


@pytest.mark.parametrize(
    ("isa", "has", "lacks"),
    [
        ("sse", r"\bpmaddubsw\b", r"%ymm|\bv(p|mov|add|mul)\w+\s"),
        ("avx2", r"\bvpmaddubsw\b.*%ymm", r"vpdpbusd"),
        ("avxvnni", r"\{vex\}\s+vpdpbusd\b.*%ymm", r"(?<!\{vex\}\t)vpdpbusd|vpmaddubsw"),
        ("avx512", r"\bvpmaddubsw\b.*%zmm", r"vpdpbusd"),
        ("vnni", r"\bvpdpbusd\b.*%zmm", r"vpmaddubsw|\{vex\}"),
    ],
)
def test_kernels_use_what_the_level_has(isa: str, has: str, lacks: str) -> None:
    code = _assembly(isa)
    assert re.search(has, code)
    assert re.search(lacks, code) is None
    if "512" not in isa and isa != "vnni":
        assert _AVX512.search(code) is None
