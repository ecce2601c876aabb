"""Samples of a model, checked one by one as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.model import TensorInfo

__all__ = ["FORMS", "LABEL", "Array", "Sample", "Samples", "batch_of", "quoted"]

Array = npt.NDArray[Any]
Sample = dict[str, Array]

#: The key under which labels travel beside the inputs.
LABEL = "label"
#: What data may be given as, for messages.
FORMS = (
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
                raise InputError(f"sample {index}: some samples have a '{LABEL}', others do not")
            for name in sorted(sample):
                _update(digest, name, sample[name])
            if label is not None:
                labels.append(label)
                _update(digest, LABEL, label)
            count += 1
            yield sample, label
        if not count:
            raise InputError(f"the data holds no samples; {FORMS}")
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
                f"sample {index} has {quoted(row)}, the model takes {quoted(names)}"
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
        batch = batch_of(self.inputs)
        if label.dtype.kind not in "iub" or label.size != batch:
            raise InputError(
                f"sample {index}: '{LABEL}' must hold {batch} class number(s), "
                f"found {label.dtype} of shape {list(label.shape)}"
            )
        return label.reshape(-1).astype(np.int64)


def batch_of(inputs: Sequence[TensorInfo]) -> int:
    """The model's own first dimension (1 for scalar inputs)."""
    return next((t.shape[0] for t in inputs if t.shape), 1)


def quoted(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(f"'{n}'" for n in sorted(names)) or "nothing"


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


def _update(digest: Any, name: str, array: Array) -> None:
    digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
    digest.update(np.ascontiguousarray(array).data)
