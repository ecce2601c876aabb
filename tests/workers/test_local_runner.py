"""The runner: numbers are checked, times are taken in turns, and a bad kernel costs one trial."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lepton_tvm.errors import InputError
from lepton_tvm.measure.machine import this_machine
from lepton_tvm.workers import LocalRunner, ParallelBuilder, RunRequest
from lepton_tvm.workers.number_check import difference
from tests.support.worker_kernels import argument, library, line, numbers, output, request

SHAPES = [(1,), (7,), (3, 5, 11), (1, 1, 1000), (129, 33)]


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32"])
def test_odd_shapes_agree_and_are_timed(
    builder: ParallelBuilder, runner: LocalRunner, tmp_path: Path, dtype: str
) -> None:
    requests = []
    for index, shape in enumerate(SHAPES):
        requests += [
            request(f"{index}-{terms}", line(shape, dtype, terms=terms)) for terms in (1, 2)
        ]
    paths = {a.id: a.path or a.error or "" for a in builder.build(requests)}
    for index, shape in enumerate(SHAPES):
        arguments = (
            argument(tmp_path, str(index), numbers(shape, dtype)),
            output(shape, dtype),
        )
        (result,) = runner.run(
            [RunRequest("r", paths[f"{index}-2"], arguments, paths[f"{index}-1"], arguments)]
        )
        assert result.state == "ok", result.error
        assert len(result.samples_s) == len(result.reference_s) > 0
        assert min(result.samples_s + result.reference_s) > 0


def test_kernels_run_on_the_threads_that_are_asked_for(
    builder: ParallelBuilder, runner: LocalRunner, tmp_path: Path
) -> None:
    shape = (64, 1 << 10)
    big = dataclasses.replace(request("big", line(shape, "float32")), cores=2)
    (built,) = builder.build([big])
    assert built.path is not None, built.error
    arguments = (argument(tmp_path, "x", numbers(shape, "float32")), output(shape, "float32"))
    asked = RunRequest("r", built.path, arguments, built.path, arguments)
    for threads in (1, 2):
        (result,) = runner.run([dataclasses.replace(asked, threads=threads)])
        assert result.state == "ok", result.error


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 imports from the working folder"
)
def test_files_in_the_working_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    kernel = library(tmp_path, "kernel", "")
    with LocalRunner() as runner:
        (result,) = runner.run([RunRequest("r", kernel, (output((1,), "int8"),))])
    assert result.state == "ok", result.error


def test_bfloat16_arguments_are_carried_bit_for_bit(runner: LocalRunner, tmp_path: Path) -> None:
    # Copies its input: an argument is a tag and a tensor, whose data stands behind its head.
    copy = library(tmp_path, "copy", "void ***a = args; memcpy(a[3][3], a[1][3], 6);")
    values = np.array([1.5, np.nan, -2.0], ml_dtypes.bfloat16)
    arguments = (argument(tmp_path, "x", values), output((3,), "bfloat16"))
    (result,) = runner.run([RunRequest("r", copy, arguments, copy, arguments)])
    assert result.state == "ok", result.error


def test_constants_lie_elsewhere_in_every_call_and_inputs_do_not(
    runner: LocalRunner, tmp_path: Path
) -> None:
    """Or the weights would lie in the caches, where those of a whole model do not."""
    picky = library(
        tmp_path,
        "picky",
        "static void *w, *x; void ***a = args;"
        "if (w == a[3][3] || (x && x != a[1][3])) abort(); x = a[1][3]; w = a[3][3];",
    )
    values = numbers((64,), "float32")
    x, weights = argument(tmp_path, "x", values), argument(tmp_path, "w", values)
    own = dataclasses.replace(weights, constant=True)
    asked = RunRequest("r", picky, (x, own, output((1,), "int8")), model_constants=4096)
    (result,) = runner.run([asked])
    assert result.state == "ok", result.error
    for spoiled in (
        dataclasses.replace(asked, model_constants=0),
        dataclasses.replace(asked, arguments=(x, weights, output((1,), "int8"))),
    ):
        (result,) = runner.run([spoiled])
        assert result.state == "crashed"


def test_wrong_numbers_are_found(
    builder: ParallelBuilder, runner: LocalRunner, tmp_path: Path
) -> None:
    built = builder.build([request(str(f), line((4, 3), "int32", factor=f)) for f in (2, 3)])
    paths = {a.id: a.path or "" for a in built}
    x = argument(tmp_path, "x", np.arange(12, dtype="int32").reshape(4, 3))
    arguments = (x, output((4, 3), "int32"))
    (result,) = runner.run([RunRequest("r", paths["3"], arguments, paths["2"], arguments)])
    assert result.state == "wrong"
    assert result.samples_s == ()
    assert result.error == (
        "11 of 12 values differ; the first at [0, 1]: 4, the reference has 3 (first call)"
    )


@pytest.mark.parametrize(
    ("body", "state", "told"),
    [
        ("*(volatile int *)8 = 1;", "crashed", "killed by SIGSEGV"),
        ("abort();", "crashed", "killed by SIGABRT"),
        ("_exit(7);", "crashed", "ended with exit status 7"),
        ("for (;;) pause();", "timeout", "running took more than 3 s"),
        ("for (;;) {}", "timeout", "running took more than 3 s"),
        ("for (;;) *(volatile char *)malloc(1 << 26) = 1;", "crashed", "killed by SIGSEGV"),
        ("", "wrong", "values differ"),
    ],
)  # fmt: skip
def test_a_bad_kernel_costs_one_trial(
    impatient: LocalRunner,
    builder: ParallelBuilder,
    tmp_path: Path,
    body: str,
    state: str,
    told: str,
) -> None:
    (good,) = builder.build([request("good", line((3,), "float32"))])
    arguments = (argument(tmp_path, "x", numbers((3,), "float32")), output((3,), "float32"))
    bad = library(tmp_path, "bad", body)
    assert good.path is not None
    start = time.monotonic()
    results = list(
        impatient.run(
            [
                RunRequest("bad", bad, arguments, good.path, arguments),
                RunRequest("good", good.path, arguments, good.path, arguments),
            ]
        )
    )
    assert [(r.id, r.state) for r in results] == [("bad", state), ("good", "ok")], results
    assert told in (results[0].error or "")
    assert time.monotonic() - start < 30


@pytest.fixture(scope="module")
def impatient() -> Iterator[LocalRunner]:
    with LocalRunner(timeout_s=3.0) as made:
        yield made


def test_what_cannot_be_loaded_fails(runner: LocalRunner, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    arguments = (output((1,), "int8"),)
    missing, text = runner.run(
        [RunRequest(n, str(tmp_path / f"{n}.so"), arguments) for n in ("missing", "text")]
    )
    assert missing.state == text.state == "failed"
    assert missing.reason == "scratch-gone"
    assert text.reason is None
    assert "missing.so was removed" in (missing.error or "")


def test_an_argument_of_the_wrong_size_fails(
    builder: ParallelBuilder, runner: LocalRunner, tmp_path: Path
) -> None:
    (built,) = builder.build([request("a", line((4,), "int32"))])
    short = argument(tmp_path, "x", numbers((3,), "int32"))
    arguments = (short.__class__((4,), "int32", short.path), output((4,), "int32"))
    (result,) = runner.run([RunRequest("r", built.path or "", arguments)])
    assert result.state == "failed"
    assert "holds 12 bytes, not 16" in (result.error or "")


def test_times_are_for_this_machine(runner: LocalRunner) -> None:
    assert runner.hardware == this_machine().fingerprint


def test_a_runner_needs_time() -> None:
    with pytest.raises(InputError, match="a runner needs time"):
        LocalRunner(timeout_s=0)


def test_integers_must_be_equal() -> None:
    want = np.array([[1, 2], [3, 4]], np.int8)
    assert difference(want, want, 1.0) is None
    assert difference(want + 1, want, 1.0) == (
        "4 of 4 values differ; the first at [0, 0]: 2, the reference has 1"
    )
    assert "is int16[2, 2] where int8[2, 2] is due" in str(
        difference(want.astype(np.int16), want, 1.0)
    )


def test_floats_may_differ_by_the_tolerance() -> None:
    want = np.array([100.0, 0.0, np.nan, np.inf], np.float32)
    near = np.array([100.0, 0.009, np.nan, np.inf], np.float32)
    assert difference(near, want, 1e-4) is None
    assert "1 of 4 values differ" in str(difference(near, want, 1e-5))
    for index in range(4):
        for value in (np.nan, np.inf, -np.inf):
            got = want.copy()
            got[index] = value
            same = np.array_equal(got, want, equal_nan=True)
            assert (difference(got, want, 1e-4) is None) == same
