"""Where samples come from: iterables, stacked arrays, files, functions."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tvm.data.samples import FORMS, Array, Samples, batch_of, quoted
from lepton_tvm.errors import InputError
from lepton_tvm.model import TensorInfo

__all__ = ["as_samples"]


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
        raise InputError(f"no data was given; {FORMS}")
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
        raise InputError(f"cannot read data from {type(spec).__name__}; {FORMS}")
    once = iter(spec) is spec
    length = len(spec) if isinstance(spec, Sized) else None
    if length == 0:
        raise InputError(f"the data holds no samples; {FORMS}")

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
        raise InputError(f"the data function returned {type(first[0]).__name__}; {FORMS}")
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
        raise InputError(f"cannot read data from {text!r}: not a .npz file; {FORMS}")
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
        raise InputError(f"the data holds no samples; {FORMS}")
    batch = batch_of(inputs)
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
        raise InputError(f"the data holds no samples (0 rows in {quoted(arrays)}); {FORMS}")
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
        f"with the inputs {quoted(t.name for t in inputs)}"
    )


def _single(inputs: Sequence[TensorInfo]) -> TensorInfo:
    if len(inputs) != 1:
        raise InputError(
            f"a bare array fits models with one input only; this one takes "
            f"{quoted(t.name for t in inputs)}: give a dict"
        )
    return inputs[0]


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__array__")


def _is_plain_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Iterable)
