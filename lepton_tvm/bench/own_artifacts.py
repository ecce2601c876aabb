"""This compiler's artifacts for a benchmark: one for each scheme that the model can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tvm.bench.engines import OURS
from lepton_tvm.data import as_samples
from lepton_tvm.errors import InputError
from lepton_tvm.measure.timing_inputs import random_inputs, read_arrays, write_arrays
from lepton_tvm.model import Model
from lepton_tvm.targets import Target

if TYPE_CHECKING:
    from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["compile_schemes", "write_calibration"]

_RANDOM_SAMPLES = 8
_MOST_CALIBRATION = 128


def write_calibration(model: Model, spec: Any, folder: Path, seed: int, report: list[str]) -> None:
    """One file a sample, so that no engine need hold them all."""
    folder.mkdir()
    samples: Iterator[Mapping[str, Any]]
    if spec is None:
        report.append(
            f"int8 was calibrated with {_RANDOM_SAMPLES} random inputs (seed {seed}): "
            "good for timing, not for accuracy"
        )
        samples = (random_inputs(model.inputs, seed + 1 + i) for i in range(_RANDOM_SAMPLES))
    else:
        samples = iter(as_samples(spec, model.inputs))
    for index, sample in enumerate(islice(samples, _MOST_CALIBRATION)):
        write_arrays(folder / f"{index:06d}.npz", sample)


def compile_schemes(
    model: Model,
    schemes: Sequence[Scheme],
    target: Target,
    scratch: Path,
    report: list[str],
    say: Callable[[str], None],
) -> dict[str, Path]:
    """Precision -> artifact, for those that the model can have."""
    from lepton_tvm.compiler.compile import compile as compile_model
    from lepton_tvm.compression.quantize import quantization_notes

    paths = {}
    for scheme in schemes:
        precision = scheme.name
        say(f"compiling {precision}")
        try:
            variant = _variant(model, scheme, scratch / "calibration", target)
        except InputError as e:
            # The data was checked when it was written, so this is about the model.
            report.append(f"left out: engine {OURS} ({precision}): {e}")
            continue
        report.extend(f"{OURS} {precision}: {note}" for note in quantization_notes(variant))
        paths[precision] = scratch / f"{precision}.so"
        compile_model(variant, target=target, output=paths[precision], db=False)
    return paths


def _variant(model: Model, scheme: Scheme, calibration: Path, target: Target) -> Model:
    from lepton_tvm.compression.quantize import quantize

    if not scheme.method:
        return model
    samples = _Stored(sorted(calibration.glob("*.npz"))) if scheme.is_calibrated else None
    return quantize(model, samples, method=scheme.method, target=target)


class _Stored:
    """Calibration files as samples that can be read again and are not held."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (read_arrays(str(f)) for f in self._files)
