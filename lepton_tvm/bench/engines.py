"""The engines a benchmark can run. Imported by the parent and by each engine's own process."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lepton_tvm.measure.timing_inputs import read_arrays
from lepton_tvm.targets import ISAS, cpu_flags, native_level

__all__ = ["ENGINES", "OURS", "Job", "Loaded", "Peer"]

OURS = "lepton_tvm"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """What one process shall run, and on which CPUs.

    `model` and `inputs` are files, `calibration` and `scratch` folders. `max_isa` is the level that
    a peer is limited to (a name of `ISAS`); `profile` asks for the times of single kernels.
    """

    engine: str
    precision: str
    model: str
    inputs: str
    calibration: str
    threads: int
    scratch: str
    cpus: tuple[int, ...]
    max_isa: str | None = None
    profile: bool = False

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Loaded:
    """A model ready to run: seconds of one run, mean of n; and what the engine says of itself.

    Where a profile was asked for, `calls` names the calls of a run and `profile` gives the mean
    seconds of a run and of each call.
    """

    run: Callable[[int], float]
    version: str
    isa: str
    calls: tuple[str, ...] = ()
    profile: Callable[[int], tuple[float, list[float]]] | None = None


@dataclass(frozen=True)
class Peer:
    """An engine: the module it needs, how it loads a job, and what it has of our schemes.

    `lacks` answers why it does not run a precision on this machine, None where it does. `isa_limit`
    makes the environment variables that keep it to an instruction-set level, None where it has no
    such switch.
    """

    module: str
    load: Callable[[Job], Loaded]
    lacks: Callable[[str], str | None] = lambda _precision: None
    isa_limit: Callable[[str], dict[str, str]] | None = None


def calibration_samples(job: Job) -> Iterator[dict[str, Array]]:
    """The samples that the parent wrote, one file each, in order."""
    for path in sorted(Path(job.calibration).glob("*.npz")):
        yield read_arrays(str(path))


def _timed(call: Callable[[], Any]) -> Callable[[int], float]:
    def run(number: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(number):
            call()
        return (time.perf_counter_ns() - start) / number / 1e9

    return run


def _dispatching(job: Job) -> str:
    """What an engine that picks kernels at run time can use here."""
    return f"auto (up to {job.max_isa or native_level().name})"


def _load_lepton(job: Job) -> Loaded:
    from lepton_tvm import runtime
    from lepton_tvm.runtime.call_times import CallProfiler

    feed = read_arrays(job.inputs)
    if job.profile:
        profiler = CallProfiler(job.model, feed, job.threads)
        return Loaded(
            lambda n: profiler.run(n)[0], "", "", calls=profiler.names, profile=profiler.run
        )
    net = runtime.load(job.model, threads=job.threads)
    versions = net.manifest["versions"]
    version = f"{versions.get('lepton_tvm') or 'checkout'} (tvm {versions.get('tvm')})"
    return Loaded(net.timer(feed), version, net.manifest["isa"])


def _load_onnxruntime(job: Job) -> Loaded:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    path = _onnx_int8(job) if job.precision == "int8" else job.model
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = read_arrays(job.inputs)
    return Loaded(_timed(lambda: session.run(None, feed)), ort.__version__, _dispatching(job))


def _onnx_int8(job: Job) -> str:
    """The model with Q/DQ: u8 activations, s8 weights, per channel (ONNX Runtime's own tool)."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = calibration_samples(job)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.samples, None)

    prepared = str(Path(job.scratch) / "prepared.onnx")
    quantized = str(Path(job.scratch) / "quantized.onnx")
    q.quant_pre_process(job.model, prepared, skip_symbolic_shape=True)
    q.quantize_static(
        prepared,
        quantized,
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        # Without VNNI its kernels add byte products in 16 bits, which 8-bit weights overflow.
        reduce_range=not (native_level().dot4 or native_level().offset),
    )
    return quantized


def _load_openvino(job: Job) -> Loaded:
    import openvino as ov

    core = ov.Core()
    feed = read_arrays(job.inputs)
    model = core.read_model(job.model)
    model.reshape({name: list(a.shape) for name, a in feed.items()})
    if job.precision == "int8":
        import nncf  # type: ignore[import-untyped]

        model = nncf.quantize(model, nncf.Dataset(list(calibration_samples(job))))
    config = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if job.precision == "bfloat16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": True,
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()
    for name, array in feed.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=False))
    return Loaded(_timed(request.infer), ov.__version__.split("-")[0], _dispatching(job))


def _onnxruntime_lacks(precision: str) -> str | None:
    if precision == "bfloat16":
        return "ONNX Runtime has no bfloat16 convolutions or products for x86 CPUs"
    return None


def _openvino_lacks(precision: str) -> str | None:
    if precision == "bfloat16" and cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16")):
        return "OpenVINO computes in bfloat16 only on CPUs with AVX512-BF16 or AMX"
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        return (
            "OpenVINO quantizes with nncf, which is not installed; pip install 'lepton-tvm[peers]'"
        )
    return None


#: What oneDNN, which OpenVINO computes with, calls the levels; kernels of OpenVINO's own stay free.
_ONEDNN = {
    "sse": "SSE41",
    "avx2": "AVX2",
    "avxvnni": "AVX2_VNNI",
    "avx512": "AVX512_CORE",
    "vnni": "AVX512_CORE_VNNI",
    "bf16": "AVX512_CORE_BF16",
    "amx": "AVX512_CORE_AMX",
}


def _openvino_limit(isa: str) -> dict[str, str]:
    return {"ONEDNN_MAX_CPU_ISA": _ONEDNN[ISAS[isa].name]}


#: Engines by name. The first is ours; the rest can be named in `against`.
ENGINES: dict[str, Peer] = {
    OURS: Peer("tvm", _load_lepton),
    "onnxruntime": Peer("onnxruntime", _load_onnxruntime, _onnxruntime_lacks),
    "openvino": Peer("openvino", _load_openvino, _openvino_lacks, _openvino_limit),
}
