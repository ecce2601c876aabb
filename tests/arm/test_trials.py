"""Tuning trials on emulated ARM devices: a tracker, two of them, one killed half-way."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.artifact.writer import find_compiler
from lepton_tvm.errors import ArtifactError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.remote_runner import RpcRunner
from lepton_tvm.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.kernels.register_tile import choose_tile
from lepton_tvm.targets import parse_target
from lepton_tvm.workers import Argument, BuildRequest, RunRequest, RunResult
from lepton_tvm.workers.kernel_build import build_kernel
from tests.arm.cases import values
from tests.arm.machine import machine
from tests.support import servers

TARGET, CPU = "arm:cortex-a76", "cortex-a76"
ROWS, DEPTH, COLUMNS = 37, 64, 72


def candidates(folder: Path) -> tuple[list[Path], tuple[Argument, ...]]:
    """An int8 product scheduled in four ways, the zero-trial one first, and its arguments."""
    target = parse_target(TARGET)
    tile = choose_tile(ROWS, COLUMNS, target.level, 4)
    shape = MatmulShape(
        (ROWS,), DEPTH, COLUMNS, 4, tile.rows, tile.channels, offset=target.level.offset
    )
    x, w = values(0, True, (ROWS, DEPTH), (DEPTH, COLUMNS))
    packed = pack_matmul_weight(w, shape)
    ins = [te.placeholder(a.shape, str(a.dtype), n) for a, n in ((x, "x"), (packed, "w"))]
    out = matmul(ins[0], ins[1], shape, tile)
    func = te.create_prim_func([*ins, out])
    module = tvm.ir.save_json(tvm.IRModule({"main": func}))
    made = [
        build_kernel(BuildRequest("k", module, TARGET, 1, decisions), folder)
        for decisions in (
            {},
            {"column_blocks_outermost": 0},
            {"column_blocks_outermost": 1, "prefetch_weights": 0},
            {"column_blocks_outermost": 1, "prefetch_weights": 1},
        )
    ]
    arguments = []
    for name, array in (("x", x), ("w", packed)):
        path = folder / f"{name}.bin"
        array.tofile(path)
        arguments.append(Argument(array.shape, str(array.dtype), str(path)))
    return made, (*arguments, Argument((ROWS, COLUMNS), "int32", None))


def test_32_trials_end_though_one_of_two_devices_is_killed(tmp_path: Path) -> None:
    arm = machine()
    with contextlib.suppress(ArtifactError):
        find_compiler(cross=parse_target(TARGET).cross_compiler)
        made, arguments = candidates(tmp_path)
        _run(arm.environment(CPU), str(arm.python), made, arguments, tmp_path)
        return
    pytest.skip("no compiler links for aarch64 (Debian: apt-get install gcc-aarch64-linux-gnu)")


def _run(
    environment: dict[str, str],
    python: str,
    made: list[Path],
    arguments: tuple[Argument, ...],
    folder: Path,
) -> None:
    requests = [
        RunRequest(
            str(i), str(made[i % len(made)]), arguments, str(made[0]), arguments, budget_s=0.01
        )
        for i in range(32)
    ]
    told: list[str] = []
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(servers.tracker(folder))
        options = ["-m", "lepton_tvm.bench.device_main", "--port", "0", "--key", "arm"]
        options += ["--tracker", tracker.address]
        pair = [
            stack.enter_context(
                servers.started(folder, name, options, python=python, environment=environment)
            )
            for name in ("first", "second")
        ]
        for device in pair:
            device.wait_for("offered")
        runner = RpcRunner(Farm(tracker.address, "arm"), timeout_s=60, wait_s=60, say=told.append)
        stack.callback(runner.close)
        assert runner.machine["arch"] == "aarch64"
        results: list[RunResult] = []
        for result in runner.run(requests):
            results.append(result)
            if len(results) == 12:
                pair[0].kill()
    assert sorted(int(r.id) for r in results) == list(range(32))
    assert {(r.state, r.error) for r in results} == {("ok", None)}
    assert all(len(r.samples_s) == len(r.reference_s) > 0 for r in results)
    assert any(f"device {pair[0].address} was lost" in text for text in told), told
    assert np.isfinite([s for r in results for s in r.samples_s]).all()
