"""Models and kernels compiled for GPUs for real, by NVIDIA's compiler; nothing is run here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, te

import lepton_tvm as lt
from lepton_tvm.artifact import device_code, nvrtc, read_manifest
from lepton_tvm.artifact.cubin import cubins
from lepton_tvm.artifact.nvrtc import compile_binary
from lepton_tvm.compiler import build_cuda, pipeline
from lepton_tvm.compiler.phase import watched
from lepton_tvm.demo.assets import model_path
from lepton_tvm.errors import ArtifactError, CompileError, TargetError
from lepton_tvm.kernels.gemm import GemmShape, gemm
from lepton_tvm.schedules.apply import apply_schedules
from lepton_tvm.targets import parse_target
from lepton_tvm.targets.cuda import gpu_of
from lepton_tvm.workers.kernel_build import build_kernel
from lepton_tvm.workers.trial_requests import BuildRequest
from tests.gpu.machine_code import FFMA, HMMA, IMMA, opcodes
from tests.support.command_line import Lepton
from tests.support.graphs import graph, noise
from tests.support.well_formed import WellFormed

ARCHS = "cuda:sm_80+sm_90"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = lt.load_model(model_path())
    pictures = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)
    quantized = lt.quantize(model, calibration={model.inputs[0].name: pictures})
    path = tmp_path_factory.mktemp("gpu") / "int8.so"
    lt.compile(quantized, target=ARCHS, output=path, db=False)
    return path


def test_machine_code_for_both_architectures_is_in_the_artifact(artifact: Path) -> None:
    found = {cubin.arch: cubin.kernels for cubin in cubins(artifact.read_bytes())}
    assert sorted(found) == ["sm_80", "sm_90"]
    products = [k for k in read_manifest(artifact)["kernels"] if k["instruction"] == "mma s8"]
    assert len(products) >= 8
    for kernels in found.values():
        for product in products:
            name = f"{product['name']}_kernel"
            found_there = opcodes(kernels[name])
            assert found_there[IMMA] > 0, (name, found_there)
            assert found_there[HMMA] == 0


def test_every_phase_for_gpus_is_seen_and_well_formed() -> None:
    module = graph(lambda x: relax.op.nn.relu(relax.op.matmul(x, noise(32, 16))), x=(4, 32))
    target = parse_target("cuda:sm_80")
    names: list[str] = []
    with watched(WellFormed(), lambda index, name, module: names.append(name)):
        pipeline.build(module, target)
    assert names == [p.name for p in pipeline.cuda_phases(pipeline.Options(target))]


def test_every_kernel_keeps_the_limits_of_a_launch(artifact: Path) -> None:
    gpu = gpu_of(parse_target(ARCHS))
    for cubin in cubins(artifact.read_bytes()):
        assert cubin.kernels
        for name, kernel in cubin.kernels.items():
            assert 0 < kernel.threads <= gpu.threads, (name, kernel)
            assert 0 < kernel.block_registers <= gpu.block_registers, (name, kernel)
            assert kernel.shared_bytes <= gpu.shared_bytes, (name, kernel)
            assert kernel.local_bytes == 0, (name, kernel)


def test_figures_of_machine_code_are_read() -> None:
    source = """extern "C" __global__ void __launch_bounds__(96, 1) f(float* p, int n) {
        __shared__ float s[96]; float a[64];
        for (int i = 0; i < 64; ++i) a[i] = p[i * n];
        for (int i = 0; i < n; ++i) a[(i * i) % 64] += a[i % 64];
        s[threadIdx.x] = a[n % 64]; __syncthreads(); p[threadIdx.x] = s[95 - threadIdx.x]; }"""
    for arch in ("sm_75", "sm_90", "sm_120"):
        (cubin,) = cubins(compile_binary(source, [arch]))
        kernel = cubin.kernels["f"]
        assert (cubin.arch, kernel.threads, kernel.shared_bytes) == (arch, 96, 96 * 4)
        assert kernel.local_bytes == 64 * 4
        assert 8 <= kernel.registers <= 255


def test_manifest_and_inspect_tell_gpus_and_instructions(artifact: Path, lepton: Lepton) -> None:
    manifest = read_manifest(artifact)
    assert manifest["target"] == ARCHS
    assert manifest["gpu"] == {"archs": ["sm_80", "sm_90"], "capability": 80}
    assert {k["schedule"] for k in manifest["kernels"]} <= {
        "cuda.tensor_product", "cuda.thread_product", "cuda.reduction", "cuda.elementwise"
    }  # fmt: skip
    shown = lepton("inspect", str(artifact)).out
    assert "compute capability 8.0 or newer" in shown
    assert "mma s8" in shown
    told = lepton("inspect", str(artifact), "--json").json["machine_code"]
    assert sorted(told) == ["sm_80", "sm_90"]
    name = f"{manifest['kernels'][0]['name']}_kernel"
    assert set(told["sm_80"][name]) == {"threads", "registers", "shared_bytes", "local_bytes"}


def test_one_kernel_is_built_for_tuning(tmp_path: Path) -> None:
    a, b = te.placeholder((64, 96), name="a"), te.placeholder((64, 96), name="b")
    out = te.compute((64, 96), lambda i, j: a[i, j] * b[i, j] + a[i, j])
    module = tvm.IRModule({"main": te.create_prim_func([a, b, out])})
    request = BuildRequest("x", tvm.ir.save_json(module), "cuda:sm_80", 1, {"threads": 128})
    built = build_kernel(request, tmp_path)
    (cubin,) = cubins(built.read_bytes())
    assert cubin.arch == "sm_80"
    # requantization must round as on CPUs: nothing is fused that does not ask for it
    assert opcodes(cubin.kernels["main_kernel"])[FFMA] == 0


def test_too_much_shared_memory_is_an_error_of_the_build() -> None:
    source = """extern "C" __global__ void f(float* p) {
        __shared__ float s[20000]; s[threadIdx.x] = p[0]; __syncthreads(); p[1] = s[p[2] > 0]; }"""
    with pytest.raises(CompileError, match=r"sm_80.*shared data"):
        compile_binary(source, ["sm_80"])


def test_an_unknown_architecture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"NVRTC [\d.]+ does not build for sm_61; it builds for sm_75, .*sm_90.* name one"
    with pytest.raises(TargetError, match=told):
        compile_binary("", ["sm_61"])


def test_without_a_compiler_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvrtc, "_roots", lambda: ())
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    nvrtc._load.cache_clear()
    nvrtc._nvrtc.cache_clear()
    try:
        with pytest.raises(CompileError, match=r'libnvrtc.so.*pip install "lepton-tvm\[cuda\]"'):
            compile_binary("", ["sm_80"])
        assert nvrtc.compiler_version() is None
    finally:
        nvrtc._load.cache_clear()
        nvrtc._nvrtc.cache_clear()


def test_a_function_that_no_template_takes_is_refused() -> None:
    a = te.placeholder((8,), name="a")
    out = te.compute((8,), lambda i: a[i] + 1.0)
    module = tvm.IRModule({"main": te.create_prim_func([a, out])})
    with pytest.raises(CompileError, match="no template schedules 'main' for cuda:sm_80"):
        build_cuda.build_kernels(module, parse_target("cuda:sm_80"))


def test_a_block_of_too_many_threads_is_refused() -> None:
    a = te.placeholder((4096,), name="a")
    func = te.create_prim_func([a, te.compute((4096,), lambda i: a[i] + 1.0, name="b")])
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    outer, inner = sch.split(sch.get_loops(sch.get_sblock("b"))[0], [None, 2048])
    sch.bind(outer, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    with pytest.raises(CompileError, match="2048 threads a block, cuda:sm_80 has 1024"):
        build_cuda.build_kernels(sch.mod, parse_target("cuda:sm_80"))


@pytest.mark.parametrize(("tag", "most"), [("blockIdx.y", 65535), ("blockIdx.z", 65535)])
def test_a_grid_that_is_too_large_is_refused(tag: str, most: int) -> None:
    a = te.placeholder((70_000, 32), name="a")
    func = te.create_prim_func([a, te.compute(a.shape, lambda i, j: a[i, j] + 1.0, name="b")])
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    outer, inner = sch.get_loops(sch.get_sblock("b"))
    sch.bind(outer, tag)
    sch.bind(inner, "threadIdx.x")
    assert build_cuda.launches(sch.mod["main"]) == [{tag: 70_000, "threadIdx.x": 32}]
    with pytest.raises(CompileError, match=f"a {tag} of 70000, cuda:sm_80 has {most}"):
        build_cuda.build_kernels(sch.mod, parse_target("cuda:sm_80"))


def test_a_batch_of_many_matrices_keeps_within_the_grid() -> None:
    shape = GemmShape((70_000,), (16,), 16, 16, 16, "float32", 4, (0, 1, 2))
    a, b = (te.placeholder((70_000, 16, 16), name=name) for name in "ab")
    out = gemm(
        shape,
        lambda batch, m, k: a[(*batch, m, k)],
        lambda batch, n, k: b[(*batch, n, k)],
        columns_padded=False,
    )
    module = tvm.IRModule({"main": te.create_prim_func([a, b, out])})
    goal = parse_target("cuda:sm_80")
    module, (applied,) = apply_schedules(module, goal)
    assert applied.rule == "cuda.thread_product", applied
    (extents,) = build_cuda.launches(module["main"])
    assert extents["blockIdx.x"] % 70_000 == 0
    assert "blockIdx.z" not in extents
    build_cuda.build_kernels(module, goal)


def test_sums_of_products_are_fused_and_nothing_else() -> None:
    a, b = te.placeholder((32, 33), name="a"), te.placeholder((33, 32), name="b")
    k = te.reduce_axis((0, 33), "k")
    product = te.compute((32, 32), lambda i, j: te.sum(a[i, k] * b[k, j], axis=[k]))
    out = te.compute((32, 32), lambda i, j: product[i, j] * 3.0 + a[i, j])
    module = tvm.IRModule({"main": te.create_prim_func([a, b, out])})
    goal = parse_target("cuda:sm_80")
    module, _ = apply_schedules(module, goal)
    kept: list[str] = []

    def compiled(source: str, archs: Any) -> bytes:
        kept.append(source)
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_cuda, "compile_binary", compiled)
        build_cuda.build_kernels(module, goal)
    (source,) = kept
    assert source.count("__fmaf_rn") == 1
    assert "* 0x1.8p+1f" in source


def test_foreign_imports_are_not_touched() -> None:
    blob = b"\x10" + b"\0" * 23
    with pytest.raises(ArtifactError, match="0 CUDA modules"):
        device_code.with_machine_code(blob, "source", b"code")
