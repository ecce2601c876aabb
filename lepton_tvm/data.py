"""Reading calibration and evaluation data, in every form that the API and the CLI take."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.model import TensorInfo

__all__ = ["LABEL", "Samples", "as_samples"]

Array = npt.NDArray[Any]
Sample = dict[str, Array]

#: The key under which labels travel beside the inputs.
LABEL = "label"

_FORMS = (
    "give an iterable of dicts (input name -> array), one dict of stacked arrays, a .npz file of "
    "the same, or 'package.module:function' that returns one of these"
)


class Samples:
    """Checked samples: iterating gives one dict (input name -> array of the model's shape) each.

    A list, dict, file or function can be iterated again and again; a generator only once, and a
    second pass is an `InputError`. Nothing but the sample at hand is held, beyond what the caller
    or the file holds. `labels` and `fingerprint` are known after one whole pass and make one
    themselves where they can.
    """

    def __init__(
        self,
        rows: Callable[[], Iterator[Mapping[str, Any]]],
        inputs: Sequence[TensorInfo],
        *,
        need_labels: bool = False,
        once: bool = False,
        length: int | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.length = length
        self._rows = rows
        self._need_labels = need_labels
        self._once = once
        self._used = False
        self._labels: Array | None = None
        self._fingerprint: str | None = None

    def __iter__(self) -> Iterator[Sample]:
        for sample, _ in self.labelled():
            yield sample

    def labelled(self) -> Iterator[tuple[Sample, Array | None]]:
        """Pairs of a sample and its labels, an int64 array with one label per row, or None."""
        if self._once and self._used:
            raise InputError(
                "the samples come from a generator, which can be read only once; "
                "give a list, a .npz file, or 'package.module:function' instead"
            )
        self._used = True
        digest, count = hashlib.sha256(), 0
        labels: list[Array] = []
        for index, row in enumerate(self._rows()):
            sample = self._checked(index, row)
            label = self._label(index, row)
            if (label is None) != (not labels) and count:
                raise InputError(f"sample {index}: some samples have a '{LABEL}' and some have not")
            for name in sorted(sample):
                _update(digest, name, sample[name])
            if label is not None:
                labels.append(label)
                _update(digest, LABEL, label)
            count += 1
            yield sample, label
        if not count:
            raise InputError(f"the data holds no samples; {_FORMS}")
        self.length = count
        self._labels = np.concatenate(labels) if labels else None
        self._fingerprint = digest.hexdigest()

    @property
    def labels(self) -> Array | None:
        """All labels in order, int64 [rows], or None where the data has none."""
        self._pass_once()
        return self._labels

    @property
    def fingerprint(self) -> str:
        """sha256 of the content: names, dtypes, shapes and values, in order, after conversion."""
        self._pass_once()
        assert self._fingerprint is not None
        return self._fingerprint

    def _pass_once(self) -> None:
        if self._fingerprint is None:
            for _ in self.labelled():
                pass

    def _checked(self, index: int, row: Mapping[str, Any]) -> Sample:
        names = {t.name for t in self.inputs}
        unknown = sorted(set(row) - names - {LABEL})
        missing = sorted(names - set(row))
        if unknown or missing:
            raise InputError(
                f"sample {index} has {_names(row)}, the model takes {_names(names)}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; unknown: {', '.join(unknown)}" if unknown else "")
            )
        return {t.name: _convert(f"sample {index}", t, row[t.name]) for t in self.inputs}

    def _label(self, index: int, row: Mapping[str, Any]) -> Array | None:
        if LABEL in {t.name for t in self.inputs} or LABEL not in row:
            if self._need_labels:
                raise InputError(
                    f"sample {index} has no labels; put class numbers under the key '{LABEL}'"
                )
            return None
        label = np.asarray(row[LABEL])
        batch = _batch(self.inputs)
        if label.dtype.kind not in "iub" or label.size != batch:
            raise InputError(
                f"sample {index}: '{LABEL}' must hold {batch} class number(s), "
                f"found {label.dtype} of shape {list(label.shape)}"
            )
        return label.reshape(-1).astype(np.int64)


def as_samples(spec: Any, inputs: Sequence[TensorInfo], *, need_labels: bool = False) -> Samples:
    """Read `spec` as samples of a model with these `inputs`.

    Forms: an iterable of dicts (input name -> array of the model's shape); one dict of stacked
    arrays (sample i is rows i*b to (i+1)*b, where b is the model's own first dimension); a path of
    a `.npz` file of the same; `"package.module:function"`, called without arguments; for a model
    with one input also bare arrays. Labels stand under the key `label`.

    Floats of another width are converted, integers only where every value fits; other dtypes, wrong
    names or shapes, NaN, infinity and empty data are an `InputError` that names sample and input.
    """
    if spec is None:
        raise InputError(f"no data was given; {_FORMS}")
    if isinstance(spec, Samples):
        return spec
    if isinstance(spec, str | os.PathLike):
        spec = _from_text(os.fspath(spec))
    if _is_plain_function(spec):
        return _from_function(spec, inputs, need_labels)
    if _is_array(spec):
        spec = {_single(inputs).name: spec}
    if isinstance(spec, Mapping):
        return _stacked(spec, inputs, need_labels)
    if not isinstance(spec, Iterable):
        raise InputError(f"cannot read data from {type(spec).__name__}; {_FORMS}")
    once = iter(spec) is spec
    length = len(spec) if isinstance(spec, Sized) else None
    if length == 0:
        raise InputError(f"the data holds no samples; {_FORMS}")

    def rows() -> Iterator[Mapping[str, Any]]:
        for index, row in enumerate(spec):
            yield _as_row(index, row, inputs)

    return Samples(rows, inputs, need_labels=need_labels, once=once, length=length)


def _from_function(
    function: Callable[[], Any], inputs: Sequence[TensorInfo], need_labels: bool
) -> Samples:
    """Samples of what `function` returns; it is called again for every pass."""
    first = [_call(function)]

    def rows() -> Iterator[Mapping[str, Any]]:
        made = first.pop() if first else _call(function)
        return as_samples(made, inputs)._rows()

    if not first or first[0] is None or _is_plain_function(first[0]):
        raise InputError(f"the data function returned {type(first[0]).__name__}; {_FORMS}")
    if isinstance(first[0], str | os.PathLike):
        return as_samples(first[0], inputs, need_labels=need_labels)
    return Samples(rows, inputs, need_labels=need_labels)


def _call(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except InputError:
        raise
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise InputError(
            f"the data function {name} failed with {type(error).__name__}: {error}"
        ) from error


def _from_text(text: str) -> Any:
    if text.endswith(".npz"):
        return _read_npz(Path(text))
    module_name, colon, function_name = text.partition(":")
    if not colon or not function_name.isidentifier():
        raise InputError(f"cannot read data from {text!r}: not a .npz file; {_FORMS}")
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"cannot import {module_name!r} of the data function {text!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"module {module_name!r} has no function {function_name!r}")
    return function


def _read_npz(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"data file '{path}' does not exist")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise InputError(
            f"cannot read '{path}' as a .npz file of plain arrays: {error}; "
            "write it with numpy.savez(path, input_name=array, ...)"
        ) from error


def _stacked(
    stacked: Mapping[str, Any], inputs: Sequence[TensorInfo], need_labels: bool
) -> Samples:
    arrays = {str(name): np.asarray(value) for name, value in stacked.items()}
    if not arrays:
        raise InputError(f"the data holds no samples; {_FORMS}")
    batch = _batch(inputs)
    counts = {}
    for name, array in arrays.items():
        if array.ndim == 0:
            raise InputError(f"'{name}' is a single number, not a stack of samples")
        counts[name] = array.shape[0]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"'{n}' {c}" for n, c in counts.items())
        raise InputError(f"stacked arrays differ in their number of rows: {listed}")
    total = next(iter(counts.values()))
    if total == 0:
        raise InputError(f"the data holds no samples (0 rows in {_names(arrays)}); {_FORMS}")
    if total % batch:
        raise InputError(
            f"{total} rows cannot be cut into samples of {batch} rows, the model's first dimension"
        )

    def rows() -> Iterator[Mapping[str, Any]]:
        for start in range(0, total, batch):
            yield {n: a[start : start + batch] for n, a in arrays.items()}

    return Samples(rows, inputs, need_labels=need_labels, length=total // batch)


def _as_row(index: int, row: Any, inputs: Sequence[TensorInfo]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if _is_array(row) and len(inputs) == 1:
        return {inputs[0].name: row}
    raise InputError(
        f"sample {index} is of type {type(row).__name__}, not a dict of input name -> array "
        f"with the inputs {_names(t.name for t in inputs)}"
    )


def _convert(where: str, info: TensorInfo, value: Any) -> Array:
    array = np.asarray(value)
    wanted = np.dtype(info.dtype)
    if tuple(array.shape) != info.shape:
        raise InputError(
            f"{where}: '{info.name}' has shape {list(array.shape)}, the model takes "
            f"{list(info.shape)}"
        )
    both_integer = array.dtype.kind in "iu" and wanted.kind in "iu"
    alike = both_integer or array.dtype.kind == wanted.kind
    if not alike or not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(
            f"{where}: '{info.name}' has dtype {array.dtype}, the model takes {wanted}; "
            f"convert it with .astype('{wanted}') if that is what you mean"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where}: '{info.name}' holds NaN or infinite values")
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(array, dtype=wanted).reshape(info.shape)
    if made.dtype.kind == "f" and not np.isfinite(made).all():
        raise InputError(f"{where}: '{info.name}' holds values too large for {wanted}")
    if made.dtype.kind in "iu" and array.dtype != wanted and not np.array_equal(made, array):
        raise InputError(f"{where}: '{info.name}' holds values that do not fit {wanted}")
    return made


def _batch(inputs: Sequence[TensorInfo]) -> int:
    """The model's own first dimension (1 for scalar inputs)."""
    return next((t.shape[0] for t in inputs if t.shape), 1)


def _single(inputs: Sequence[TensorInfo]) -> TensorInfo:
    if len(inputs) != 1:
        raise InputError(
            f"a bare array fits models with one input only; this one takes "
            f"{_names(t.name for t in inputs)}: give a dict"
        )
    return inputs[0]


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__array__")


def _is_plain_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Iterable)


def _update(digest: Any, name: str, array: Array) -> None:
    digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
    digest.update(np.ascontiguousarray(array).data)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{n}'" for n in sorted(names)) or "nothing"
