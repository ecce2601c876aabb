"""Whole models for x86:amx: the answers of x86:vnni bit for bit, and what artifacts say and refuse.

Where the machine has no AMX its instructions are emulated (tests/support/isa_emulator.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm import runtime
from lepton_tvm.compiler import pipeline
from lepton_tvm.compiler.compile import compile
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.demo.assets import calibration, model_path
from lepton_tvm.errors import TargetError
from lepton_tvm.frontend import load_model
from lepton_tvm.ir.graph import Array
from lepton_tvm.model import Model
from lepton_tvm.runtime import loader
from lepton_tvm.targets import ISAS, cpu_flags
from tests import zoo
from tests.support import isa_emulator as emulator
from tests.support.kernels import needs


@pytest.fixture
def _tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("amx")
    if emulator.emulated("amx"):
        monkeypatch.setattr(loader, "cpu_flags", lambda: cpu_flags() | set(ISAS["amx"].flags))


def answers(model: Model, target: str, folder: Path, inputs: Array, threads: int = 1) -> Array:
    path = folder / f"{target.replace(':', '_')}.so"
    artifact = compile(model, target=target, output=path, db=False)
    kernels = [k for k in artifact.manifest["kernels"] if k["macs"]]
    with_tiles = [k["name"] for k in kernels if k["schedule"] == "x86.amx"]
    assert [k["name"] for k in kernels if k["isa"] == "amx"] == with_tiles
    assert [k["name"] for k in kernels if k["instruction"].startswith("tdp")] == with_tiles
    assert bool(with_tiles) == (target == "x86:amx")
    net = runtime.load(path, threads=threads)
    return np.concatenate([net(x[None]) for x in inputs])


@pytest.fixture(scope="module")
def demo() -> tuple[Model, Array]:
    samples = calibration()
    return quantize(load_model(model_path()), samples), samples["input"][:3]


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_demos_network_answers_as_with_vnni(
    threads: int, demo: tuple[Model, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_TVM_CORES", str(threads))
    model, pictures = demo
    want = answers(model, "x86:vnni", tmp_path, pictures, threads)
    got = answers(model, "x86:amx", tmp_path, pictures, threads)
    np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("_tiles")
def test_a_real_network_answers_as_with_vnni(tmp_path: Path) -> None:
    lines, _ = zoo.rotated_text(12, seed=1)
    model = load_model(zoo.path("ppocr_cls"), shapes={"x": (1, 3, 48, 192)})
    model = quantize(model, lines[:8])
    want = answers(model, "x86:vnni", tmp_path, lines[8:])
    np.testing.assert_array_equal(answers(model, "x86:amx", tmp_path, lines[8:]), want)


@pytest.mark.usefixtures("_tiles")
def test_bfloat16_answers_as_with_vectors_but_for_rounding(tmp_path: Path) -> None:
    model = quantize(load_model(model_path()), method="bfloat16")
    pictures = calibration()["input"][:3]
    want = answers(model, "x86:bf16", tmp_path, pictures)
    before = emulator.count("dot_bf16") if emulator.emulated("amx") else 0
    got = answers(model, "x86:amx", tmp_path, pictures)
    # sums in another order, rounded to 8 bits between the layers
    np.testing.assert_allclose(got, want, rtol=0, atol=np.abs(want).max() * 2.0**-6)
    assert not emulator.emulated("amx") or emulator.count("dot_bf16") > before


@pytest.mark.usefixtures("_tiles")
def test_an_epilogue_larger_than_the_product_answers_as_with_vnni() -> None:
    """A scale per channel, computed for a batch and multiplied in the same kernel."""
    rng = np.random.default_rng(0)
    x = relax.Var("x", relax.TensorType((32, 1, 1, 96), "uint8"))
    y = relax.Var("y", relax.TensorType((32, 5, 7, 384), "int32"))
    weight = relax.const(rng.integers(-127, 128, (1, 1, 96, 384)).astype("int8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y]):
        with builder.dataflow():
            sums = builder.emit(
                relax.op.nn.conv2d(
                    x, weight, data_layout="NHWC", kernel_layout="HWIO", out_dtype="int32"
                )
            )
            made = builder.emit_output(relax.op.multiply(sums, y))
        builder.emit_func_output(made)
    inputs = [
        tvm.runtime.tensor(rng.integers(0, 256, (32, 1, 1, 96)).astype("uint8")),
        tvm.runtime.tensor(rng.integers(-9, 9, (32, 5, 7, 384)).astype("int32")),
    ]
    answers = []
    for target in ("x86:vnni", "x86:amx"):
        built = pipeline.build(builder.get(), target)
        assert [k.isa for k in built.kernels] == ["vnni"]
        machine = relax.VirtualMachine(built.executable, tvm.cpu())
        answers.append(machine["main"](*inputs).numpy())
    np.testing.assert_array_equal(answers[1], answers[0])


def test_an_artifact_for_amx_is_refused_by_a_cpu_without(
    demo: tuple[Model, Array], tmp_path: Path
) -> None:
    artifact = compile(demo[0], target="x86:amx", output=tmp_path / "m.so", db=False)
    without = frozenset(ISAS["bf16"].flags)
    with pytest.raises(TargetError, match=r"x86:amx.*lacks amx_bf16, amx_int8, amx_tile"):
        loader.check_machine(artifact.manifest, "m.so", flags=without)
    loader.check_machine(artifact.manifest, "m.so", flags=without | set(ISAS["amx"].flags))


_REFUSED = """
import numpy as np, sys
from lepton_tvm import runtime
from lepton_tvm.runtime import loader
from lepton_tvm.targets import ISAS
from tests.support import isa_emulator as emulator
assert emulator.library().emulator_answer_permission(1) == 0
loader.cpu_flags = lambda: frozenset(ISAS["amx"].flags)
net = runtime.load(sys.argv[1])
for _ in range(2):
    try:
        net(np.load(sys.argv[2]))
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.usefixtures("_tiles")
def test_a_system_that_refuses_tiles_is_an_error_of_the_call(
    demo: tuple[Model, Array], tmp_path: Path
) -> None:
    model, pictures = demo
    compile(model, target="x86:amx", output=tmp_path / "m.so", db=False)
    np.save(tmp_path / "x.npy", pictures[:1])
    command = [sys.executable, "-c", _REFUSED, str(tmp_path / "m.so"), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("this process may not use AMX tiles: Linux refused") == 2
