"""A whole network on three emulated processors, through our device server: the host's answers.

Everything runs over RPC as on real hardware: the artifact is brought to the device, checked there
against its hash and its manifest, and loaded by the runtime.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton_tvm import runtime
from lepton_tvm.artifact.writer import find_compiler
from lepton_tvm.compiler.compile import CompiledArtifact, compile
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.demo.assets import calibration, model_path
from lepton_tvm.errors import ArtifactError, TargetError
from lepton_tvm.farm import DeviceSession
from lepton_tvm.farm.device_artifacts import RemoteArtifacts
from lepton_tvm.frontend import load_model
from lepton_tvm.ir.graph import Array
from lepton_tvm.model import Model
from lepton_tvm.targets import parse_target
from tests import zoo
from tests.arm.machine import machine
from tests.support.servers import Running, started

#: processor of qemu -> target of the code for it
PROCESSORS = {"cortex-a72": "arm:cortex-a72", "cortex-a76": "arm:cortex-a76", "max": "arm:i8mm"}
TARGETS = ["native", *PROCESSORS.values()]
_DEVICE = Path(__file__).with_name("device.py")


@pytest.fixture(scope="module")
def lines() -> Array:
    """Lines of text, half of them upside down; the first eight calibrate."""
    return zoo.rotated_text(12, seed=1)[0]


@pytest.fixture(scope="module")
def models(lines: Array) -> dict[str, Model]:
    """PP-OCR's classifier of text directions, in both precisions."""
    machine()
    with contextlib.suppress(ArtifactError):
        find_compiler(cross=parse_target("arm:neon").cross_compiler)
        model = load_model(zoo.path("ppocr_cls"), shapes={"x": (1, 3, 48, 192)})
        return {"float32": model, "int8": quantize(model, lines[:8])}
    pytest.skip("no compiler links for aarch64 (Debian: apt-get install gcc-aarch64-linux-gnu)")


@pytest.fixture(scope="module")
def artifacts(
    models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], CompiledArtifact]:
    """Both models for this machine and for every processor; Winograd's sums off for the float."""
    folder = tmp_path_factory.mktemp("artifacts")
    return {
        (precision, target): compile(
            model, target=target, output=folder / f"{precision}-{target.replace(':', '-')}.so",
            db=False,
        )
        for precision, model in models.items()
        for target in TARGETS
    }  # fmt: skip


@pytest.fixture(scope="module")
def wanted(artifacts: dict[tuple[str, str], CompiledArtifact], lines: Array) -> dict[str, Array]:
    """The host's answers."""
    answers = {}
    for precision in ("float32", "int8"):
        net = runtime.load(artifacts[precision, "native"].path)
        answers[precision] = np.concatenate([net(x[None]) for x in lines[8:]])
    return answers


@contextlib.contextmanager
def device(cpu: str, folder: Path) -> Iterator[Running]:
    """Our server on the emulated processor."""
    arm = machine()
    options = ["-m", "lepton_tvm.bench.device_main", "--port", "0"]
    with started(
        folder, cpu, options, python=str(arm.python), environment=arm.environment(cpu)
    ) as running:
        yield running


@pytest.mark.parametrize("cpu", list(PROCESSORS))
def test_a_network_answers_as_on_the_host(
    cpu: str,
    artifacts: dict[tuple[str, str], CompiledArtifact],
    wanted: dict[str, Array],
    lines: Array,
    tmp_path: Path,
) -> None:
    own = PROCESSORS[cpu]
    with device(cpu, tmp_path) as server, DeviceSession(server.device) as session:
        place = RemoteArtifacts(session)
        assert place.machine.arch == "aarch64"
        fit = [a for a in artifacts.values() if _fits(a, place)]
        assert {a.manifest["target"] for a in fit} == set(TARGETS[1 : TARGETS.index(own) + 1])
        place.open({a.sha256: a.path for a in fit}, 1)
        for a in fit:
            (output,) = a.manifest["outputs"]
            got = [place.infer(a.sha256, {"x": x[None]})[output["name"]] for x in lines[8:]]
            _check(np.concatenate(got), wanted, a)
        for a in artifacts.values():
            if a not in fit:
                # the device itself refuses, too, before it loads any code
                with pytest.raises(TargetError, match=r"was built for"):
                    place.open({a.sha256: a.path}, 1)


def _fits(artifact: CompiledArtifact, place: RemoteArtifacts) -> bool:
    try:
        place.check(artifact.manifest, str(artifact.path))
    except TargetError:
        return False
    return True


def _check(got: Array, wanted: dict[str, Array], artifact: CompiledArtifact) -> None:
    precision = artifact.manifest["precision"]
    if precision == "int8":
        np.testing.assert_array_equal(got, wanted[precision])
        return
    # Sums of up to 576 products are rounded in another order where the register tiles differ: each
    # of the 55 layers adds at most 576 * 2^-24 of its largest value; the answers are
    # probabilities, whose slope over the logits is at most a quarter.
    np.testing.assert_allclose(got, wanted[precision], rtol=0, atol=55 * 576 * 2.0**-24 / 4)


def test_a_network_of_matrix_convolutions_answers_as_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet-8: 3x3 filters, strides, shortcuts; on one thread and on two."""
    arm = machine()
    monkeypatch.setenv("LEPTON_TVM_CORES", "2")
    pictures = calibration()
    net = quantize(load_model(model_path()), pictures)
    try:
        made = compile(net, target="arm:i8mm", output=tmp_path / "arm.so", db=False)
    except ArtifactError as reason:
        pytest.skip(str(reason))
    convolutions = [k for k in made.manifest["kernels"] if k["name"].startswith("conv2d")]
    # the first layer has one channel
    assert [k["instruction"] for k in convolutions] == ["usdot"] + ["usmmla"] * 8
    host = compile(net, target="native", output=tmp_path / "host.so", db=False)
    samples = pictures["input"][:4]
    np.save(tmp_path / "in.npy", samples)
    done = arm.run("max", _DEVICE, "model", made.path, tmp_path / "in.npy", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr[-2000:]
    run = runtime.load(host.path)
    wanted = np.concatenate([run(x[None]) for x in samples])
    assert len(np.unique(wanted)) > 10
    for answers in np.load(tmp_path / "out.npz").values():
        np.testing.assert_array_equal(answers, wanted)


def test_what_is_refused_would_have_crashed(
    artifacts: dict[tuple[str, str], CompiledArtifact],
) -> None:
    """The emulated processors really lack what the artifacts of newer ones use."""
    new = artifacts["int8", "arm:cortex-a76"].path
    done = machine().run("cortex-a72", _DEVICE, "unchecked", new)
    assert done.returncode in (-signal.SIGILL, 128 + signal.SIGILL), done.stderr[-500:]
    done = machine().run("cortex-a76", _DEVICE, "unchecked", new)
    assert done.returncode == 0, done.stderr[-2000:]


def test_native_and_doctor_work_on_an_arm_machine() -> None:
    code = "from lepton_tvm.targets import parse_target as p; print(p('native'), p('arm').cores)"
    made = [machine().run(cpu, "-c", code) for cpu in PROCESSORS]
    assert [m.stdout.split()[:1] for m in made] == [["arm:neon"], ["arm:dotprod"], ["arm:i8mm"]]
    told = machine().run("cortex-a76", "-m", "lepton_tvm.cli", "doctor")
    assert "has             neon, dotprod (of neon, dotprod, i8mm)" in told.stdout, told.stderr


def test_artifacts_are_small_libraries_for_arm(
    artifacts: dict[tuple[str, str], CompiledArtifact],
) -> None:
    made = artifacts["int8", "arm:cortex-a76"]
    manifest = made.manifest
    assert (manifest["arch"], manifest["isa"]) == ("aarch64", "cortex-a76")
    assert manifest["cpu_features"] == ["asimd", "asimddp", "fp"]
    kernels = [k for k in manifest["kernels"] if k["macs"]]
    assert {k["precision"] for k in kernels} == {"int8"}
    assert {k["instruction"] for k in kernels} == {"sdot"}
    newest = artifacts["int8", "arm:i8mm"].manifest["kernels"]
    assert {k["instruction"] for k in newest if k["macs"]} == {"usdot", "usmmla"}
    assert not [k["name"] for k in (*newest, *manifest["kernels"]) if k["schedule"] == "default"]
    header = subprocess.run(
        ["readelf", "-h", "-S", str(made.path)], capture_output=True, text=True, check=True
    ).stdout
    assert "AArch64" in header
    assert ".eh_frame" not in header
    with pytest.raises(TargetError, match="was built for aarch64, this machine is x86_64"):
        runtime.load(made.path)
