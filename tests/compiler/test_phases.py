"""The lists of phases: their names, what a hook sees, and how often a model is lowered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tvm
from tvm import relax, tirx

from lepton_tvm.compiler import pipeline
from lepton_tvm.compiler.compile import compile
from lepton_tvm.compiler.fused_kernels import kernel_calls, kernel_hash, ops_of_calls
from lepton_tvm.compiler.phase import Phase, run_phases, watched
from lepton_tvm.errors import ArtifactError, CompileError, InputError
from lepton_tvm.kernels.kernel_plan import PlansByOp
from lepton_tvm.model import Model
from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning.tasks import Tasks
from tests.support.graphs import graph, noise
from tests.support.networks import model_of

NATIVE = parse_target("native")


def small() -> tvm.IRModule:
    return graph(lambda x: relax.op.nn.relu(relax.op.matmul(x, noise(32, 16))), x=(4, 32))


@pytest.mark.parametrize(
    ("phases", "target"),
    [
        (pipeline.cpu_phases, "x86:avx2"),
        (pipeline.cpu_phases, "arm:neon"),
        (pipeline.cuda_phases, "cuda:sm_80"),
    ],
)
def test_every_phase_has_a_name_of_its_own(
    phases: Callable[[pipeline.Options], tuple[Phase, ...]], target: str
) -> None:
    names = [phase.name for phase in phases(pipeline.Options(parse_target(target)))]
    assert len(set(names)) == len(names) > 50
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)
    assert names[:2] == ["lower-int8", "lower-kernels"]


def test_a_hook_sees_every_phase_in_order() -> None:
    seen: list[tuple[int, str]] = []
    kinds: list[type] = []

    def hook(index: int, name: str, module: tvm.IRModule) -> None:
        seen.append((index, name))
        kinds.append(type(module))

    with watched(hook):
        pipeline.build(small(), NATIVE)
    wanted = [phase.name for phase in pipeline.cpu_phases(pipeline.Options(NATIVE))]
    assert seen == list(enumerate(wanted, 1))
    assert set(kinds) == {tvm.IRModule}
    pipeline.fuse(small(), NATIVE)
    assert len(seen) == len(wanted), "the hook outlived its block"


def test_what_a_hook_raises_stops_the_compiler() -> None:
    def hook(index: int, name: str, module: tvm.IRModule) -> None:
        if name == "vectorize":
            raise KeyError(name)

    with watched(hook), pytest.raises(KeyError, match="vectorize"):
        pipeline.build(small(), NATIVE)


def test_a_part_of_a_list_keeps_its_numbers() -> None:
    phases = [Phase(name, lambda mod: mod) for name in ("a", "b", "c")]
    seen: list[tuple[int, str]] = []
    with watched(lambda index, name, module: seen.append((index, name))):
        run_phases(phases, small(), after="a", through="b")
    assert seen == [(2, "b")]
    with pytest.raises(CompileError, match="0 phases are called 'd', exactly one must be"):
        run_phases(phases, small(), through="d")


def _reads_what_is_not_there(mod: tvm.IRModule) -> tvm.IRModule:
    """`main` returns a variable that nothing binds."""
    mod = mod.clone()
    main = mod["main"]
    lost = relax.Var("lost", main.ret_ty)
    mod["main"] = relax.Function(
        main.params, relax.SeqExpr(main.body.blocks, lost), main.ret_ty, main.is_pure
    )
    return mod


def _loses_a_loop(mod: tvm.IRModule) -> tvm.IRModule:
    """A loop nest without its loop, whose variable is still read."""
    mod = mod.clone()
    mod["nest"] = tirx.PrimFunc([], tirx.Evaluate(tirx.Var("i", "int32")))
    return mod


@pytest.mark.parametrize("breaks", [_reads_what_is_not_there, _loses_a_loop])
def test_a_phase_that_breaks_the_module_is_caught(
    breaks: Callable[[tvm.IRModule], tvm.IRModule],
) -> None:
    whole = Phase("whole", lambda mod: mod)
    run_phases([whole], small())
    with pytest.raises(AssertionError, match="ill-formed after phase 2, breaks: "):
        run_phases([whole, Phase("breaks", breaks)], small())


@pytest.fixture
def lowerings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every time that a model is lowered."""
    made: list[str] = []
    real = LowerKernels.__call__

    def counted(self: LowerKernels, mod: tvm.IRModule) -> Any:
        made.append(str(self.target))
        return real(self, mod)

    monkeypatch.setattr(LowerKernels, "__call__", counted)
    return made


def _tuned(
    model: Model, decide: Callable[[PlansByOp, int | None], Mapping[str, int] | None]
) -> Any:
    """What a look-up in the records of a search answers: `decide` for the op of each kernel."""
    seen = PlansByOp()
    fused = pipeline.fuse(model.module, NATIVE, plans=seen).module
    ops = ops_of_calls(fused, seen.weights)
    assert sum(op is not None for op in ops) > 5
    calls = zip(kernel_calls(fused), ops, strict=True)
    return {kernel_hash(fused[name]): decide(seen, op) for (name, _), op in calls}.get


def _plan(index: int) -> Callable[[PlansByOp, int | None], Mapping[str, int] | None]:
    return lambda seen, op: None if op is None else seen.candidates[op][index].decisions


@pytest.mark.parametrize(
    ("decide", "times"),
    [
        (lambda seen, op: None, 1),
        (lambda seen, op: {"unroll_depth": 2}, 1),
        (lambda seen, op: {"tile_rows": 3, "tile_lanes": 5, "tile_vectors": 7}, 1),
        (_plan(0), 1),
        (_plan(1), 2),
    ],
    ids=["nothing tuned", "schedules", "plans of old", "the default plans", "other plans"],
)
def test_a_model_is_lowered_again_only_for_other_plans(
    model: Model, lowerings: list[str], decide: Any, times: int
) -> None:
    tuned = _tuned(model, decide)
    lowerings.clear()
    made = pipeline.lower(model.module, NATIVE, tuned=tuned)
    assert len(lowerings) == times
    plain = pipeline.lower(model.module, NATIVE)
    shapes = [[k.input_shapes for k in one.kernels] for one in (made, plain)]
    assert (shapes[0] != shapes[1]) == (times == 2)


def test_the_tasks_of_a_model_come_from_one_lowering(
    model: Model, lowerings: list[str], tmp_path: Path
) -> None:
    tasks = Tasks(model, NATIVE, tmp_path)
    assert len(lowerings) == 1
    assert any(len(task.plans) > 1 for task in tasks.all.values())


def test_a_dump_shows_every_phase_and_changes_nothing(tmp_path: Path) -> None:
    model = model_of(small())
    plain = compile(model, output=tmp_path / "a.so", db=False)
    heard: list[str] = []
    dumped = compile(
        model, output=tmp_path / "b.so", db=False, dump=tmp_path / "new/dump",
        progress=heard.append,
    )  # fmt: skip
    assert dumped.sha256 == plain.sha256
    files = sorted((tmp_path / "new/dump").iterdir())
    assert [f.name for f in files] == [f"{i:02d}-{name}.py" for i, name in enumerate(heard, 1)]
    texts = {f.name.partition("-")[2]: f.read_text() for f in files}
    assert "R.matmul(" in texts["lower-int8.py"]
    assert "lepton.kernel" in texts["name-kernels.py"]
    assert "T.sblock" not in texts["lower-intrinsics.py"]
    assert max(map(len, texts.values())) < 100_000, "constants are to be left out"


def test_a_dump_goes_to_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, output = model_of(small()), tmp_path / "x.so"
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match=r"cannot dump to .*: the folder is not empty; name a new"):
        compile(model, output=output, db=False, dump=tmp_path)
    with pytest.raises(InputError, match=r"cannot dump to .*kept\.txt: it is a file; name a fol"):
        compile(model, output=output, db=False, dump=tmp_path / "kept.txt")
    with pytest.raises(InputError, match=r"cannot dump to .*: .* cannot be written; name another"):
        compile(model, output=output, db=False, dump=tmp_path / "kept.txt" / "below")
    assert not output.exists()

    def full(self: Path, *_text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ArtifactError, match=r"cannot write .*01-lower-int8\.py: No space left"):
        compile(model, output=output, db=False, dump=tmp_path / "full")
