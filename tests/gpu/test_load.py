"""Artifacts for GPUs where there is no GPU, or an older one; and what the targets say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_tvm import runtime
from lepton_tvm.artifact.container import pack
from lepton_tvm.artifact.manifest import Manifest
from lepton_tvm.cli.findings import examine
from lepton_tvm.errors import LeptonError, TargetError
from lepton_tvm.measure import this_machine
from lepton_tvm.runtime import loader
from lepton_tvm.targets import cuda, host_arch, parse_target
from lepton_tvm.targets.driver import Device, Devices, gpus

NONE = Devices((), "this machine has no NVIDIA driver (libcuda.so.1 was not found)")
TURING = Devices((Device("Tesla T4", 75, 13000),))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """Whole by its hash and manifest; its code would end the process if it were loaded."""
    manifest = Manifest(
        name="m", precision="float32", inputs=[],
        outputs=[{"name": "y", "shape": [1], "dtype": "float32"}],
        target="cuda:sm_80+sm_90", isa="sm_80+sm_90", cpu_features=[], source_sha256="0" * 64,
        arch=host_arch(), gpu={"archs": ["sm_80", "sm_90"], "capability": 80},
    )  # fmt: skip
    code = b"\x7fELF, but nothing more"
    path = tmp_path / "gpu.so"
    path.write_bytes(code + pack(code, manifest.to_json()))
    return path


def test_without_a_gpu_nothing_is_loaded(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "gpus", lambda: NONE)
    monkeypatch.setattr(loader, "ffi", lambda: pytest.fail("code was loaded"))
    with pytest.raises(
        TargetError,
        match=r"compute capability 8\.0 or newer \(CUDA sm_80, sm_90\): this machine has no NVIDIA",
    ):
        runtime.load(artifact)


def test_an_older_gpu_is_refused(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "gpus", lambda: TURING)
    with pytest.raises(TargetError, match=r"Tesla T4, has 7\.5; .*--target cuda:sm_75"):
        runtime.load(artifact)


def test_this_machines_own_answer(artifact: Path) -> None:
    if gpus().devices:
        pytest.skip(f"there is a GPU: {gpus().devices[0]}")
    with pytest.raises(TargetError, match="NVIDIA driver"):
        runtime.load(artifact)


def test_targets_by_name() -> None:
    goal = parse_target("cuda:sm_90+sm_80")
    assert str(goal) == "cuda:sm_80+sm_90"
    assert parse_target(str(goal)).level == goal.level
    gpu = cuda.gpu_of(goal)
    assert (gpu.archs, gpu.capability, gpu.bf16) == (("sm_80", "sm_90"), 80, True)
    assert not cuda.gpu_of(parse_target("cuda:sm_75+sm_80")).bf16
    assert goal.features == ()
    assert goal.cross_compiler is None


@pytest.mark.parametrize("name", ["cuda:sm_99", "cuda:sm_80+", "cuda:sm_80+avx2"])
def test_unknown_architectures(name: str) -> None:
    with pytest.raises(TargetError, match=r"unknown instruction set.*cuda:sm_80"):
        parse_target(name)


def test_the_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpus", lambda: Devices((Device("L40S", 89, 13000),)))
    assert str(parse_target("cuda")) == "cuda:sm_89"
    assert parse_target("cuda:native").is_native
    assert not parse_target("cuda:sm_90").is_native
    monkeypatch.setattr(cuda, "gpus", lambda: NONE)
    with pytest.raises(TargetError, match=r"no GPU to build for: .*; name an architecture.*sm_80"):
        parse_target("cuda")


def test_doctor_and_machine_tell_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_tvm.cli.findings.gpus", lambda: TURING)
    assert examine()["gpus"] == [
        {"name": "Tesla T4", "compute_capability": "7.5", "driver_cuda": "13.0"}
    ]
    machine = this_machine()
    assert machine.to_json()["gpu"] == (str(gpus().devices[0]) if gpus().devices else None)


def test_a_missing_cuda_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from lepton_tvm.runtime import library

    if gpus().devices:
        pytest.skip("TVM's CUDA runtime can be loaded here")
    with pytest.raises(LeptonError, match=r'CUDA runtime.*pip install "lepton-tvm\[cuda\]"'):
        library.cuda_runtime.__wrapped__()
