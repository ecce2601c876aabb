"""The schedule version: what leaves it as it is, and what changes it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import lepton_tvm
from lepton_tvm.compiler.schedule_version import GROUPS, group_of, schedule_versions
from lepton_tvm.targets import FAMILIES

_SOURCE = Path(lepton_tvm.__file__).parent
_CONV2D = "schedules/cpu/conv2d.py"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's source, to be edited."""
    ignored = shutil.ignore_patterns("__pycache__", "*.npz", "*.onnx")
    return Path(shutil.copytree(_SOURCE, tmp_path / "lepton_tvm", ignore=ignored))


def versions(package: Path) -> dict[str, Mapping[str, str]]:
    schedule_versions.cache_clear()
    return {family: schedule_versions(family, package) for family in FAMILIES}


def changed(before: dict[str, Mapping[str, str]], package: Path) -> set[str]:
    """`family.group` of every version that is another one now."""
    after = versions(package)
    return {
        f"{family}.{group}"
        for family, groups in before.items()
        for group, version in groups.items()
        if after[family][group] != version
    }


def edit(package: Path, file: str, old: str, new: str) -> None:
    path = package / file
    text = path.read_text()
    assert old in text, f"{file} has no {old!r}: choose another place for this test"
    path.write_text(text.replace(old, new, 1))


def test_a_copy_has_the_versions_of_the_original(package: Path) -> None:
    found = versions(package)
    assert found == versions(_SOURCE)
    every = [version for groups in found.values() for version in groups.values()]
    assert len(set(every)) == len(FAMILIES) * len(GROUPS)
    assert {len(version) for version in every} == {12}


def test_text_does_not_count(package: Path) -> None:
    before = versions(package)
    for path in [*package.rglob("schedules/**/*.py"), *package.rglob("passes/**/*.py")]:
        lines = path.read_text().splitlines()
        first = next((i for i, x in enumerate(lines) if x.startswith("from __future__")), 1)
        path.write_text("\n".join(['"""Another docstring."""', *lines[first:], "# a comment", ""]))
    edit(package, "schedules/apply.py", "there are no schedules for", "nobody has schedules for")
    edit(package, _CONV2D, "(sch: Schedule", "(sch : 'Schedule'")
    assert changed(before, package) == set()


def test_a_moved_and_renamed_file_does_not_count(package: Path) -> None:
    before = versions(package)
    (package / "elsewhere").mkdir()
    (package / "elsewhere/__init__.py").touch()
    (package / _CONV2D).rename(package / "elsewhere/other_name.py")
    for path in package.rglob("*.py"):
        text = path.read_text()
        moved = text.replace("lepton_tvm.schedules.cpu.conv2d ", "lepton_tvm.elsewhere.other_name ")
        path.write_text(moved)
    assert changed(before, package) == set()


def test_a_new_kernel_beside_the_old_ones_does_not_count(package: Path) -> None:
    before = versions(package)
    (package / "schedules/cpu/recurrent.py").write_text(
        "from lepton_tvm.schedules.cpu.anchor import find_anchor\n\n\n"
        "class Recurrent:\n"
        "    groups: tuple[str, ...] = ('recurrent',)\n\n"
        "    def apply(self, func, target, choices):\n"
        "        return find_anchor(func, 'recurrent')\n"
    )
    for family in ("x86", "arm"):
        edit(
            package,
            f"schedules/{family}/__init__.py",
            "from lepton_tvm.schedules.cpu.rows",
            "from lepton_tvm.schedules.cpu.recurrent import Recurrent\n"
            "from lepton_tvm.schedules.cpu.rows",
        )
        edit(
            package,
            f"schedules/{family}/__init__.py",
            "RULES: tuple[ScheduleRule, ...] = (\n",
            "RULES: tuple[ScheduleRule, ...] = (\n    Recurrent(),\n",
        )
    assert changed(before, package) == set()


def test_a_new_operator_or_precision_does_not_count(package: Path) -> None:
    before = versions(package)
    edit(
        package,
        "ir/ops.py",
        '_elementwise("relax.abs"),',
        '_elementwise("relax.abs"),\n    _elementwise("relax.new"),',
    )
    edit(
        package,
        "ir/precisions.py",
        "#: Name -> row.\nPRECISIONS: dict[str, Precision] = {p.name: p for p in (",
        'HALF = Precision("half", "float16", "float16", "float32")\n'
        "PRECISIONS: dict[str, Precision] = {p.name: p for p in (HALF, ",
    )
    assert changed(before, package) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        (_CONV2D, "choices.pick(", "choices.pick (0, ", {"x86.conv2d", "arm.conv2d"}),
        (
            "schedules/cpu/anchor.py", "(1, 2, 4, 8)", "(1, 2, 4, 16)",
            {"x86.conv2d", "x86.matmul", "arm.conv2d", "arm.matmul"},
        ),
        (
            "schedules/cpu/rows.py", "new_schedule(func)", "new_schedule(func or func)",
            {"x86.plain", "arm.plain"},
        ),
        ("schedules/x86/amx.py", "_SHARES = 4", "_SHARES = 8", {"x86.conv2d", "x86.matmul"}),
        (
            "schedules/cuda/gemm_simt.py", "choices.pick(", "choices.pick(0, ",
            {"cuda.conv2d", "cuda.matmul"},
        ),
        ("targets/arm.py", '"opt-level": 2', '"opt-level": 3', {f"arm.{g}" for g in GROUPS}),
    ],
)  # fmt: skip
def test_a_changed_statement_or_constant_counts_where_it_is_reached(
    package: Path, file: str, old: str, new: str, expected: set[str]
) -> None:
    before = versions(package)
    edit(package, file, old, new)
    assert changed(before, package) == expected


def test_what_is_done_after_a_schedule_counts_for_all_kernels(package: Path) -> None:
    before = versions(package)
    edit(package, "passes/loops/expand_math.py", "def _", "_UNREAD = 1\n\n\ndef _")
    assert changed(before, package) == set()  # a constant that nothing reads
    edit(package, "passes/loops/round_once.py", "opt_level=0", "opt_level=1")
    assert changed(before, package) == {f"{f}.{g}" for f in ("x86", "arm") for g in GROUPS}


def test_loop_nests_and_plans_of_other_lowerings_count(package: Path) -> None:
    before = versions(package)
    edit(
        package,
        "kernels/winograd.py",
        "shape.groups * shape.group",
        "shape.group * shape.groups",
    )
    assert changed(before, package) == {"x86.conv2d", "arm.conv2d"}


def test_groups_are_read_from_names() -> None:
    names = ("conv2d_int8_4", "depthwise_conv2d_0", "matmul_bf16_1", "add_relu_2", "conv2do")
    assert [group_of(name) for name in names] == ["conv2d", "conv2d", "matmul", "plain", "plain"]
