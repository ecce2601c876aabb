"""Kernels of every ARM level on an emulated processor that has no more than that level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from lepton_tvm.artifact.writer import find_compiler, link
from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.errors import ArtifactError
from lepton_tvm.targets import Target, parse_target
from tests.arm.cases import Case, cases
from tests.arm.machine import machine

#: level -> a processor of qemu that has it and, but for `max`, nothing of the next one
PROCESSORS = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "max"}
_DEVICE = Path(__file__).with_name("device.py")


def library(target: Target, made: list[Case], path: Path) -> Path:
    """All kernels in one shared library: one process of the emulator runs them."""
    try:
        compiler = find_compiler(cross=target.cross_compiler)
    except ArtifactError as reason:
        pytest.skip(str(reason))
    module = tvm.IRModule({c.name: c.func for c in made})
    built = build_kernels(module, target)

    def fcompile(output: str, objects: list[str], **_: object) -> None:
        link(compiler, output, objects)

    fcompile.object_format = "o"  # type: ignore[attr-defined]
    built.export_library(str(path), fcompile=fcompile)
    return path


@pytest.mark.parametrize("level", list(PROCESSORS))
def test_kernels_equal_numpy(level: str, tmp_path: Path) -> None:
    device = machine()
    target = parse_target(f"arm:{level}")
    made = list(cases(target))
    assert len({c.name for c in made}) == len(made)
    so = library(target, made, tmp_path / "kernels.so")
    inputs: dict[str, Any] = {f"{c.name}/{i}": a for c in made for i, a in enumerate(c.arguments)}
    np.savez(tmp_path / "in.npz", **inputs)
    outputs = tmp_path / "out.npz"
    done = device.run(PROCESSORS[level], _DEVICE, "kernels", so, tmp_path / "in.npz", outputs)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = np.load(outputs)
    assert set(answers.files) == {c.name for c in made}
    for c in made:
        c.check(answers[c.name])
