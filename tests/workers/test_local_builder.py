"""The builder: what is built, what a bad request costs, and what is left when it ends."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tvm import te

from lepton_tvm.errors import InputError, TrialError
from lepton_tvm.ir.bfloat16 import narrowed
from lepton_tvm.workers import BuildRequest, Built, ParallelBuilder, kernel_build
from lepton_tvm.workers.kernel_build import try_build
from tests.support.worker_kernels import line, module_of, product, request


def by_id(answers: Any) -> dict[str, Built]:
    return {answer.id: answer for answer in answers}


def test_every_request_is_answered_once(builder: ParallelBuilder) -> None:
    requests = [request(f"k{i}", line((3, i + 1), "float32")) for i in range(7)]
    answers = list(builder.build(requests))
    assert sorted(a.id for a in answers) == sorted(r.id for r in requests)
    assert all(a.state == "ok" and a.error is None and a.seconds > 0 for a in answers)
    paths = [Path(a.path or "") for a in answers]
    assert len(set(paths)) == len(paths)
    assert all(p.is_file() and p.parent == builder.folder for p in paths)


def test_a_template_tells_what_it_asked_and_its_trace_builds_the_same(
    builder: ParallelBuilder,
) -> None:
    module = product(8, 48, 80)
    (first,) = builder.build([request("first", module)])
    assert first.state == "ok", first.error
    assert first.asked, "the template offers no choice"
    assert first.decisions == {}
    name, (choices, default) = next(iter(first.asked.items()))
    other = next(c for c in choices if c != default)
    asked = request("other", module, **{name: other, "unknown": 1})
    replayed = dataclasses.replace(asked, id="replayed", decisions=None, trace=first.trace)
    answers = by_id(builder.build([asked, replayed]))
    assert answers["other"].decisions == {name: other}
    assert answers["other"].trace != first.trace
    assert answers["replayed"].state == "ok", answers["replayed"].error


def test_a_builder_knows_how_bfloat16_is_rounded(builder: ParallelBuilder) -> None:
    """The op for it is ours; the workers have lowered no model that would have made it known."""
    x = te.placeholder((64,), "float32", "x")
    module = module_of([x], te.compute((64,), lambda i: narrowed(x[i]), "y"))
    asked = dataclasses.replace(request("rounds", module), target="x86:bf16")
    (built,) = builder.build([asked])
    assert built.state == "ok", built.error


def test_no_requests_no_answers(builder: ParallelBuilder) -> None:
    assert list(builder.build([])) == []


def test_what_cannot_be_built_fails_alone(builder: ParallelBuilder) -> None:
    good = request("good", line((5,), "int32"))
    broken = dataclasses.replace(good, id="module", module="{}")
    trace = dataclasses.replace(good, id="trace", decisions=None, trace=[["?"]])
    target = dataclasses.replace(good, id="target", target="x86:unknown")
    answers = by_id(builder.build([broken, trace, good, target]))
    assert [answers[i].state for i in ("module", "trace", "good", "target")] == [
        "failed", "failed", "ok", "failed",
    ]  # fmt: skip
    assert "the trace cannot be replayed" in (answers["trace"].error or "")
    assert "unknown instruction set 'unknown'" in (answers["target"].error or "")
    assert answers["module"].error
    assert all(a.reason is None for a in answers.values())


def test_without_template_and_trace_the_default_is_built(builder: ParallelBuilder) -> None:
    plain = dataclasses.replace(request("plain", line((4, 6), "int8")), decisions=None)
    (answer,) = builder.build([plain])
    assert answer.state == "ok", answer.error


def test_a_killed_worker_costs_its_request_only(builder: ParallelBuilder) -> None:
    list(builder.build([request(str(i), line((2,), "int32")) for i in range(2)]))
    pids = [desk.worker.pid for desk in builder._desks]
    assert len(pids) == 2
    # It stands still, so that it is killed in the middle of a build for certain.
    os.kill(pids[0], signal.SIGSTOP)
    killer = threading.Timer(1.0, os.kill, (pids[0], signal.SIGKILL))
    killer.start()
    requests = [request(f"k{i}", line((i + 1,), "int32")) for i in range(6)]
    answers = by_id(builder.build(requests))
    killer.join()
    states = [answers[r.id].state for r in requests]
    assert sorted(states) == ["crashed"] + ["ok"] * 5
    (crashed,) = [a for a in answers.values() if a.state == "crashed"]
    assert "killed by SIGKILL" in (crashed.error or "")


def test_a_build_without_end_costs_its_time_only() -> None:
    with ParallelBuilder(2, timeout_s=4.0) as builder:
        list(builder.build([request(str(i), line((2,), "int32")) for i in range(2)]))
        os.kill(builder._desks[0].worker.pid, signal.SIGSTOP)
        start = time.monotonic()
        answers = list(builder.build([request(f"k{i}", line((3,), "int32")) for i in range(4)]))
        assert time.monotonic() - start >= 4.0
    assert sorted(a.state for a in answers) == ["ok", "ok", "ok", "timeout"]
    assert "building took more than 4 s" in {a.error for a in answers}


def test_a_killed_zygote_is_replaced(builder: ParallelBuilder) -> None:
    first = [request("a", line((2,), "int32"))]
    assert [a.state for a in builder.build(first)] == ["ok"]
    before = builder._zygote.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert [a.state for a in builder.build(first)] == ["ok"]
    assert builder._zygote.pid != before


def test_a_zygote_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with (
        ParallelBuilder(1, folder=tmp_path) as builder,
        pytest.raises(TrialError, match="does not start: exit status 1"),
    ):
        list(builder.build([request("a", line((2,), "int32"))]))


def test_leaving_early_ends_the_builds(builder: ParallelBuilder) -> None:
    answers = builder.build([request(f"k{i}", line((i + 1,), "int32")) for i in range(5)])
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert all(desk.request is None for desk in builder._desks)
    assert [a.state for a in builder.build([request("z", line((9,), "int32"))])] == ["ok"]


def test_closing_removes_files_and_processes(tmp_path: Path) -> None:
    builder = ParallelBuilder(1, folder=tmp_path)
    (answer,) = builder.build([request("a", line((2,), "int32"))])
    pids = [builder._desks[0].worker.pid, builder._zygote.pid]
    assert answer.path is not None
    assert Path(answer.path).is_file()
    builder.close()
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_bad_numbers_of_workers_are_refused() -> None:
    with pytest.raises(InputError, match="a builder needs workers and time"):
        ParallelBuilder(0)


@pytest.fixture
def small() -> BuildRequest:
    return request("small", line((2,), "int32"))


def test_no_compiler_is_told_as_such(
    small: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_TVM_CC", "no-such-compiler")
    answer = try_build(small, tmp_path / "k.so")
    assert (answer.state, answer.reason) == ("failed", "no-compiler")
    assert "install gcc" in (answer.error or "")


def test_a_full_disk_is_told_as_such(
    small: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_build, "link_kernel", full)
    answer = try_build(small, tmp_path / "k.so")
    assert (answer.state, answer.reason) == ("failed", "disk-full")
    assert str(tmp_path) in (answer.error or "")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_of_a_full_disk_is_told_as_such(
    builder: ParallelBuilder, small: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_tvm.workers.local_builder.is_full", lambda folder: True)
    assert [a.state for a in builder.build([small])] == ["ok"]
    for desk in builder._desks:
        os.kill(desk.worker.pid, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (desk.worker.pid, signal.SIGKILL)).start()
    (answer,) = builder.build([small])
    assert (answer.state, answer.reason) == ("failed", "disk-full")


def test_a_missing_folder_is_told_as_such(small: BuildRequest, tmp_path: Path) -> None:
    answer = try_build(small, tmp_path / "gone" / "k.so")
    assert (answer.state, answer.reason) == ("failed", "scratch-gone")


def test_a_removed_folder_is_made_again(builder: ParallelBuilder, small: BuildRequest) -> None:
    shutil.rmtree(builder.folder)
    assert [a.state for a in builder.build([small])] == ["ok"]
    assert (builder.folder / "owner.lock").is_file()
