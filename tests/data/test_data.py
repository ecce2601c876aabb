"""Every form in which data can be given, and one clear refusal for everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_tvm.data import Samples, as_samples
from lepton_tvm.errors import InputError
from lepton_tvm.model import TensorInfo

ONE = (TensorInfo("x", (2, 3), "float32"),)
TWO = (*ONE, TensorInfo("ids", (2, 1), "int64"))
ROWS = np.arange(18, dtype=np.float32).reshape(6, 3)
IDS = np.arange(6, dtype=np.int64).reshape(6, 1)


def values(samples: Samples) -> list[list[float]]:
    return [s["x"].reshape(-1).tolist() for s in samples]


EXPECTED = [ROWS[i : i + 2].reshape(-1).tolist() for i in (0, 2, 4)]


def returns_rows() -> Any:
    return {"x": ROWS}


def returns_generator() -> Any:
    return ({"x": ROWS[i : i + 2]} for i in (0, 2, 4))


def returns_nothing() -> None:
    return None


def fails() -> None:
    raise KeyError("boom")


@pytest.mark.parametrize(
    "spec",
    [
        ROWS,
        {"x": ROWS},
        {"x": ROWS.tolist()},
        [ROWS[:2], ROWS[2:4], ROWS[4:]],
        [{"x": ROWS[:2]}, {"x": ROWS[2:4]}, {"x": ROWS[4:]}],
        ({"x": ROWS[i : i + 2]} for i in (0, 2, 4)),
        f"{__name__}:returns_rows",
        f"{__name__}:returns_generator",
        returns_generator,
        {"x": ROWS.astype(np.float64)},
        {"x": ROWS.astype(np.float16)},
    ],
    ids=[
        "array", "dict", "dict of lists", "list of arrays", "list of dicts", "generator",
        "name of a function", "name of a generator", "function", "float64", "float16",
    ],
)  # fmt: skip
def test_every_form_gives_the_same_samples(spec: Any) -> None:
    samples = as_samples(spec, ONE)
    assert values(samples) == EXPECTED
    assert samples.length == 3
    assert samples.fingerprint == as_samples(ROWS, ONE).fingerprint


def test_npz_file(tmp_path: Path) -> None:
    file = tmp_path / "calib.npz"
    np.savez(file, x=ROWS, ids=IDS)
    for spec in (file, str(file)):
        samples = as_samples(spec, TWO)
        assert [s["ids"].reshape(-1).tolist() for s in samples] == [[0, 1], [2, 3], [4, 5]]
        assert values(samples) == EXPECTED


def test_functions_and_lists_can_be_read_again() -> None:
    for spec in (returns_generator, [ROWS[:2]], ROWS):
        samples = as_samples(spec, ONE)
        assert values(samples) == values(samples)


def test_a_generator_is_read_once_and_says_so() -> None:
    samples = as_samples(iter([ROWS[:2]]), ONE)
    assert values(samples) == EXPECTED[:1]
    assert len(samples.fingerprint) == 64
    with pytest.raises(InputError, match="a generator, which can be read only once"):
        values(samples)


def test_samples_come_one_at_a_time() -> None:
    taken = []

    def endless() -> Iterator[Any]:
        for i in range(10**9):
            taken.append(i)
            yield {"x": ROWS[:2]}

    stream = iter(as_samples(endless(), ONE))
    next(stream)
    assert taken == [0]


def test_samples_pass_through_unchanged() -> None:
    samples = as_samples(ROWS, ONE)
    assert as_samples(samples, ONE) is samples


def test_labels_travel_beside_the_inputs() -> None:
    samples = as_samples({"x": ROWS, "label": np.arange(6)}, ONE, need_labels=True)
    pairs = [np.asarray(label).tolist() for _, label in samples.labelled()]
    assert pairs == [[0, 1], [2, 3], [4, 5]]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert all(set(s) == {"x"} for s in samples)
    assert samples.fingerprint != as_samples(ROWS, ONE).fingerprint


def test_no_labels_is_none() -> None:
    assert as_samples(ROWS, ONE).labels is None


@pytest.mark.parametrize(
    ("changed", "differs"),
    [(ROWS + 1, True), (ROWS[:4], True), (ROWS.astype(np.float64), False), (ROWS[::-1], True)],
    ids=["other values", "fewer rows", "wider type", "other order"],
)
def test_the_fingerprint_is_of_the_content(changed: Any, differs: bool) -> None:
    made = as_samples(changed, ONE).fingerprint
    assert (made != as_samples(ROWS, ONE).fingerprint) is differs


def test_int32_widens_and_values_that_do_not_fit_are_refused() -> None:
    info = (TensorInfo("ids", (1,), "int32"),)
    made = next(iter(as_samples(np.array([7], np.int64), info)))
    assert made["ids"].dtype == np.int32
    with pytest.raises(InputError, match="'ids' holds values that do not fit int32"):
        values(as_samples(np.array([2**40]), info))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "no data was given"),
        ([], "the data holds no samples"),
        (iter(()), "the data holds no samples"),
        ({}, "the data holds no samples"),
        (np.zeros((0, 3), np.float32), r"no samples \(0 rows in 'x'\)"),
        (ROWS[:5], "5 rows cannot be cut into samples of 2 rows"),
        ({"y": ROWS}, "sample 0 has 'y', the model takes 'x'; missing: x; unknown: y"),
        ({"x": ROWS, "y": ROWS}, "unknown: y"),
        ({"x": ROWS, "label": np.arange(3)}, "differ in their number of rows: 'x' 6, 'label' 3"),
        ({"x": np.float32(1)}, "'x' is a single number"),
        ([{"x": ROWS}], r"sample 0: 'x' has shape \[6, 3\], the model takes \[2, 3\]"),
        ([ROWS[:2], ROWS[:1]], r"sample 1: 'x' has shape \[1, 3\]"),
        ({"x": ROWS.astype(np.uint8)}, "uint8, the model takes float32; convert it with .astype"),
        ({"x": ROWS.astype(np.complex64)}, "dtype complex64"),
        ({"x": ROWS.astype(str)}, "dtype <U"),
        ({"x": np.full((2, 3), np.nan)}, "sample 0: 'x' holds NaN or infinite values"),
        ({"x": np.full((2, 3), np.inf)}, "NaN or infinite"),
        ({"x": np.full((2, 3), 1e300)}, "too large for float32"),
        ([1, 2], "sample 0 is of type int, not a dict of input name -> array with the inputs 'x'"),
        (7, "cannot read data from int"),
        ("nothing.txt", "not a .npz file"),
        ("nothing.npz", "data file 'nothing.npz' does not exist"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        (f"{__name__}:no_such", "has no function 'no_such'"),
        (f"{__name__}:returns_nothing", "the data function returned NoneType"),
        (f"{__name__}:fails", "the data function fails failed with KeyError: 'boom'"),
    ],
    ids=[
        "nothing",
        "empty list",
        "empty iterator",
        "empty dict",
        "no rows",
        "rows left over",
        "another input",
        "one input too many",
        "rows differ",
        "single number",
        "wrong rows in a list",
        "wrong rows later",
        "integers",
        "complex",
        "text",
        "NaN",
        "infinite",
        "too large",
        "numbers in a list",
        "a number",
        "another file type",
        "no such file",
        "no such module",
        "no such function",
        "function returns nothing",
        "function fails",
    ],
)
def test_bad_data_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        values(as_samples(spec, ONE))


def test_labels_are_checked() -> None:
    with pytest.raises(InputError, match="has no labels; put class numbers under the key 'label'"):
        values(as_samples(ROWS, ONE, need_labels=True))
    with pytest.raises(InputError, match="must hold 2 class number"):
        values(as_samples([{"x": ROWS[:2], "label": 1}], ONE))
    with pytest.raises(InputError, match="must hold 2 class number"):
        values(as_samples([{"x": ROWS[:2], "label": [0.5, 1.5]}], ONE))
    mixed = [{"x": ROWS[:2]}, {"x": ROWS[:2], "label": [1, 2]}]
    with pytest.raises(InputError, match="some samples have a 'label', others do not"):
        values(as_samples(mixed, ONE))


def test_a_bare_array_needs_a_single_input() -> None:
    with pytest.raises(InputError, match="this one takes 'ids', 'x': give a dict"):
        as_samples(ROWS, TWO)


def test_an_input_named_label_is_an_input() -> None:
    samples = as_samples({"label": ROWS}, (TensorInfo("label", (2, 3), "float32"),))
    assert [set(s) for s in samples] == [{"label"}] * 3
    assert samples.labels is None


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"PK\x03\x04 cut off"])
def test_a_broken_npz_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.npz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"cannot read '{file}' as a .npz file")):
        as_samples(file, ONE)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    file = tmp_path / "objects.npz"
    np.savez(file, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="plain arrays"):
        as_samples(file, ONE)


def test_a_function_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import numpy\n\ndef rows():\n    return numpy.ones((2, 3), 'float32')\n"
    (tmp_path / "lepton_calib_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert values(as_samples("lepton_calib_test:rows", ONE)) == [[1.0] * 6]
