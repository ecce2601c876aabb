"""The engines a benchmark can run. Imported by the parent and by each engine's own process."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.targets import best_isa

__all__ = ["ENGINES", "Job", "Loaded", "Peer"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """What one process shall run, and on which CPUs.

    `model` and `inputs` are files, `calibration` and `scratch` folders.
    """

    engine: str
    precision: str
    model: str
    inputs: str
    calibration: str
    threads: int
    scratch: str
    cpus: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Loaded:
    """A model ready to run: seconds of one run, mean of n; and what the engine says of itself."""

    run: Callable[[int], float]
    version: str
    isa: str


@dataclass(frozen=True)
class Peer:
    """An engine: the module it needs, its precisions, and how it loads a job."""

    module: str
    precisions: tuple[str, ...]
    load: Callable[[Job], Loaded]


def read_arrays(path: str) -> dict[str, Array]:
    """All arrays of a .npz file."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """A .npz file of arrays with any names (`numpy.savez` takes no array called "file")."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array))


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


def _dispatching() -> str:
    """What an engine that picks kernels at run time can use here."""
    return f"auto (up to {best_isa().name})"


def _load_lepton(job: Job) -> Loaded:
    from lepton_tvm import runtime

    net = runtime.load(job.model, threads=job.threads)
    versions = net.manifest["versions"]
    version = f"{versions.get('lepton_tvm') or 'checkout'} (tvm {versions.get('tvm')})"
    return Loaded(net.timer(read_arrays(job.inputs)), version, net.manifest["isa"])


def _load_onnxruntime(job: Job) -> Loaded:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    path = _onnx_int8(job) if job.precision == "int8" else job.model
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = read_arrays(job.inputs)
    return Loaded(_timed(lambda: session.run(None, feed)), ort.__version__, _dispatching())


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
        reduce_range=not best_isa().vnni,
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
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()
    for name, array in feed.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=False))
    return Loaded(_timed(request.infer), ov.__version__.split("-")[0], _dispatching())


#: Engines by name. The first is ours; the rest can be named in `against`.
ENGINES: dict[str, Peer] = {
    "lepton_tvm": Peer("tvm", ("float32", "int8"), _load_lepton),
    "onnxruntime": Peer("onnxruntime", ("float32", "int8"), _load_onnxruntime),
    "openvino": Peer("openvino", ("float32", "int8"), _load_openvino),
}
