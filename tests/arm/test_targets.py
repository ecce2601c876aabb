"""ARM targets by name, what the code generator may use for each, and errors without the tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from lepton_tvm.artifact.writer import find_compiler
from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.errors import ArtifactError, TargetError
from lepton_tvm.kernels.dot import is_exact
from lepton_tvm.kernels.kernel_plan import conv_plans, product_plans
from lepton_tvm.kernels.register_tile import ranked_tiles, row_candidates
from lepton_tvm.runtime.loader import check_machine
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.targets.arm import CPUS, LEVELS, best_level
from tests.arm.cases import Case, _conv, _mmla_conv, cases
from tests.support.conv2d_cases import WINDOWS, case
from tools.arm_cost import hot_block, multiply_adds

NAMES = [*LEVELS, *CPUS]
# LLVM's name of an instruction that only the level with the flag may use
EXTENSIONS = {"dotprod": "asimddp", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve", "lse": "atomics",
              "fullfp16": "asimdhp", "sha3": "sha3", "rdm": "asimdrdm", "jsconv": "jscvt",
              "complxnum": "fcma", "rcpc": "lrcpc", "flagm": "flagm"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_read_back_and_allows_no_more_than_its_features(name: str) -> None:
    target = parse_target(f"arm:{name}")
    assert str(target) == f"arm:{name}"
    assert parse_target(str(target)) == target
    assert (target.family, target.arch) == ("arm", "aarch64")
    assert target.level.lanes == 4
    enabled = set(tvm.target.codegen.llvm_get_cpu_features(target.tvm))
    assert {flag for llvm, flag in EXTENSIONS.items() if llvm in enabled} <= set(target.features)
    assert ("dotprod" in enabled) == ("asimddp" in target.features)


def test_processors_have_the_figures_of_their_level() -> None:
    for cpu, level in CPUS.items():
        made, plain = (parse_target(f"arm:{n}").level for n in (cpu, level))
        assert (made.flags, made.dot4, made.offset) == (plain.flags, plain.dot4, plain.offset)


def test_an_unknown_name_is_told_with_the_choices() -> None:
    with pytest.raises(TargetError, match=r"'cortex-m4' in .*arm:neon, .*arm:cortex-a76, "):
        parse_target("arm:cortex-m4")
    with pytest.raises(TargetError, match=r"builds for native, x86, .*, arm, arm:neon"):
        parse_target("mips")


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({"fp", "asimd"}, "neon"),
        ({"fp", "asimd", "asimddp", "atomics"}, "dotprod"),
        ({"fp", "asimd", "i8mm"}, "neon"),
        ({"fp", "asimd", "asimddp", "i8mm", "sve", "bf16"}, "i8mm"),
    ],
)
def test_native_takes_the_best_level_of_the_flags(flags: set[str], level: str) -> None:
    assert best_level(frozenset(flags)).name == level


def test_without_neon_there_is_no_native_target() -> None:
    with pytest.raises(TargetError, match=r"shows no asimd \(NEON\); name a target .* arm:neon"):
        best_level(frozenset({"fp"}))


def test_an_artifact_is_refused_by_architecture_and_by_feature() -> None:
    manifest = {
        "arch": "aarch64", "cpu_features": ["asimd", "asimddp"], "target": "arm:cortex-a76",
        "isa": "cortex-a76",
    }  # fmt: skip
    flags = frozenset({"fp", "asimd"})
    with pytest.raises(TargetError, match=r"built for arm:cortex-a76 .* lacks asimddp; compile"):
        check_machine(manifest, "a.so", flags=flags, arch="aarch64")
    check_machine(manifest, "a.so", flags=flags | {"asimddp"}, arch="aarch64")
    with pytest.raises(TargetError, match=r"a\.so was built for aarch64, the device is x86_64"):
        check_machine(manifest, "a.so", flags=flags | {"asimddp"}, arch="x86_64")


def test_a_missing_cross_compiler_is_told_with_debian_s_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LEPTON_TVM_CROSS_CC", raising=False)
    wanted = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    with pytest.raises(ArtifactError, match=wanted):
        find_compiler(cross="aarch64-linux-gnu-gcc")
    monkeypatch.setenv("LEPTON_TVM_CROSS_CC", "my-gcc")
    with pytest.raises(ArtifactError, match=r"looked for my-gcc in PATH.*LEPTON_TVM_CROSS_CC"):
        find_compiler(cross="aarch64-linux-gnu-gcc")


def test_only_two_neighbouring_weights_of_minus_128_leave_16_bits() -> None:
    neon, dotprod = LEVELS["neon"], LEVELS["dotprod"]
    packed = np.full((1, 2, 4, 4), -127, np.int8)
    packed[0, 0, 0] = (-128, -127, 127, -128)
    assert is_exact(packed, 4, neon)
    packed[0, 1, 3] = (0, 0, -128, -128)
    assert not is_exact(packed, 4, neon)
    assert is_exact(packed, 2, neon)
    assert is_exact(packed, 4, dotprod)


@pytest.mark.parametrize(
    ("level", "kernel", "instructions"),
    [
        ("neon", "matmul__1__37__64_1000_4", {"smull", "sadalp"}),
        ("dotprod", "matmul__1__37__64_1000_4", {"sdot"}),
        ("i8mm", "matmul__1__37__64_1000_4", {"sudot"}),
        ("i8mm", "matrix__1__37__64_1000", {"usmmla"}),
    ],
)
def test_the_innermost_loop_of_a_product_stays_in_registers(
    level: str, kernel: str, instructions: set[str]
) -> None:
    target = parse_target(f"arm:{level}")
    loop = _innermost(next(c for c in cases(target) if c.name.startswith(kernel)), target)
    assert instructions <= set(re.findall(r"^(\w+)", loop, re.M))
    assert "[sp" not in loop
    assert len(re.findall(r"^mov\tv\d+\.16b", loop, re.M)) <= 1  # whole registers


@pytest.mark.parametrize("size", [(1, 28, 56, 64, 64), (1, 14, 14, 256, 256)])
def test_3x3_filters_take_half_the_instructions_with_the_matrix_instruction(
    size: tuple[int, ...],
) -> None:
    """Products per instruction of the innermost loop; a table of them is in docs/arm.md."""
    target = parse_target("arm:i8mm")
    plain = _innermost(_conv(target, "3x3 same", size, 4, 1, 0, 0), target)
    matrix = _innermost(_mmla_conv(target, "3x3 same", size, 0), target)
    assert matrix.count("usmmla") >= 14
    assert "[sp" not in matrix
    assert not re.search(r"^(mov|dup|ins|zip\d)\tv", matrix, re.M)
    assert _products(matrix) > 1.4 * _products(plain)


def _products(loop: str) -> float:
    """Multiply-adds for each instruction."""
    return multiply_adds(loop) / len(loop.splitlines())


def test_convolutions_take_the_matrix_instruction_where_it_multiplies_less() -> None:
    i8mm = LEVELS["i8mm"]

    def matrix(size: tuple[int, ...], window: str = "3x3 same") -> list[bool]:
        shape, _ = case(window, size, i8mm, 4, 1)
        tiles = ranked_tiles(shape.out_width, shape.out_channels, i8mm, 4)
        plans = conv_plans(shape, tiles, i8mm, 1, winograd=True, mmla=True)
        assert len({tuple(p.decisions.items()) for p in plans}) == len(plans)
        return [p.mmla for p in plans]

    for size in ((1, 56, 56, 64, 64), (1, 14, 14, 256, 256)):
        for window in WINDOWS:
            assert matrix(size, window)[0]
            assert not all(matrix(size, window))  # a search may take either
    assert matrix((2, 9, 7, 12, 10))[0]
    assert not any(matrix((1, 112, 112, 3, 32)))  # one word of 4 or of 8: as many instructions
    assert not any(matrix((1, 56, 1, 64, 64)))  # no two pixels in a line
    copied = matrix((1, 24, 24, 12, 4), "1x3 stride 1x2")  # what is saved is lost by the copy
    assert any(copied)
    assert not copied[0]


def test_the_matrix_instruction_is_the_default_where_it_takes_fewer_instructions() -> None:
    i8mm = LEVELS["i8mm"]

    def matrix(rows: int, depth: int, columns: int) -> list[bool]:
        tiles = ranked_tiles(rows, columns, i8mm, 4)
        return [p.mmla for p in product_plans(rows, depth, columns, tiles, i8mm)]

    assert not any(matrix(1, 64, 1000))
    for shape in ((2, 64, 1000), (49, 320, 1280), (3136, 24, 96), (49, 12, 128)):
        assert matrix(*shape)[0]
        assert not all(matrix(*shape))  # a search may take either
    for shape in ((3136, 4, 96), (3136, 12, 8)):  # a depth that only usmmla must copy
        assert not matrix(*shape)[0]
        assert any(matrix(*shape))
    made = product_plans(2, 64, 1000, ranked_tiles(2, 1000, i8mm, 4), i8mm)
    assert len({tuple(p.decisions.items()) for p in made}) == len(made)
    assert made[0].decisions["matrix"] == 1
    assert all(p.tile.rows % 2 == 0 for p in made if p.mmla)


def test_tiles_leave_room_for_the_halves_of_weights() -> None:
    neon: Any = LEVELS["neon"]
    assert row_candidates(99, 4, neon, 4)[-1] == 3
    assert row_candidates(99, 4, LEVELS["dotprod"], 4)[-1] == 4
    assert row_candidates(99, 5, LEVELS["dotprod"], 4)[-1] == 3


def _innermost(made: Case, target: Target) -> str:
    module = tvm.IRModule({made.name: made.func})
    built = build_kernels(module, target)
    code, loops = hot_block(built.mod.inspect_source("asm"))
    assert loops
    return code
