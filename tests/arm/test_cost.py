"""tools/arm_cost.py: what it counts, what it takes for hot, and what it says without LLVM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lepton_tvm.demo.assets import model_path
from lepton_tvm.frontend import load_model
from tools import arm_cost

_ASSEMBLY = """
main:
\tfmla\tv9.4s, v1.4s, v2.4s          // one product before the loop
.LBB0_1:                                // %loop
\tldr\tq2, [x1], #16
\tfmla\tv0.4s, v1.4s, v2.s[1]
\tsdot\tv3.4s, v1.16b, v2.4b[0]
\tcmp\tx1, x2
\tb.ne\t.LBB0_1
\tstr\tq0, [x3]
.LBB0_2:
\tfmla\tv0.4s, v1.4s, v2.4s
\tret
"""


def test_the_hot_block_is_the_loop_that_multiplies_most() -> None:
    code, loops = arm_cost.hot_block(_ASSEMBLY)
    assert loops
    assert [line.split()[0] for line in code.splitlines()] == ["ldr", "fmla", "sdot", "cmp"]
    straight, loops = arm_cost.hot_block(_ASSEMBLY.replace("b.ne\t.LBB0_1", "b.ne\t.LBB0_9"))
    assert not loops
    assert straight.splitlines()[-1].startswith("str")


def test_the_epilogue_is_the_block_that_stores_most() -> None:
    spills = "\n".join(["\tstr\tq1, [sp, #16]"] * 9)
    code = arm_cost.store_block(_ASSEMBLY.replace("\tcmp", f"{spills}\n\tcmp"))
    assert code == "str\tq0, [x3]"
    lines = (
        "stp\tq0, q1, [x1]", "stur\td2, [x1, #3]", "strb\tw3, [x2]", "str\ts1, [x2]",
        "st1\t{ v0.h }[1], [x3]",
        "st2\t{ v0.4s, v1.4s }, [x3]", "str\tx9, [sp, #8]", "ldr\tq0, [x1]",
    )  # fmt: skip
    stores = "\n".join(lines)
    assert arm_cost.stored_bytes(stores) == 32 + 8 + 1 + 4 + 2 + 32


@pytest.mark.parametrize(
    ("line", "products"),
    [
        ("fmla\tv0.4s, v1.4s, v2.s[3]", 4),
        ("fmla\tv0.2s, v1.2s, v2.2s", 2),
        ("fmadd\ts0, s1, s2, s3", 1),
        ("sudot\tv0.4s, v1.16b, v2.4b[0]", 16),
        ("usdot\tv0.2s, v1.8b, v2.8b", 8),
        ("usmmla\tv0.4s, v1.16b, v2.16b", 32),
        ("smull2\tv0.8h, v1.16b, v2.16b", 8),
        ("smull\tv0.4s, v1.4h, v2.4h", 4),
        ("sadalp\tv0.4s, v1.8h", 0),
        ("fmul\tv0.4s, v1.4s, v2.4s", 0),
    ],
)
def test_multiply_adds_of_instructions(line: str, products: int) -> None:
    assert arm_cost.multiply_adds(f"\t{line}\n") == products


def test_without_the_analyser_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["arm_cost.py", str(model_path()), "--cpu", "cortex-a53"])
    assert arm_cost.main() == 1
    assert "apt-get install llvm-19" in capsys.readouterr().err
    old = tmp_path / "llvm-mca"
    old.write_text("#!/bin/sh\necho 'Debian LLVM version 14.0.6'\n")
    old.chmod(0o755)
    with pytest.raises(arm_cost.Missing, match="LLVM 19 or newer"):
        arm_cost.analyser()


def test_kernels_are_held_against_the_peak_of_the_same_model() -> None:
    try:
        peaks = arm_cost.peaks("cortex-a76")
    except arm_cost.Missing as reason:
        pytest.skip(str(reason))
    assert peaks["fmla"] == pytest.approx(8, rel=0.05)  # two units of four lanes
    assert peaks["sdot"] == pytest.approx(32, rel=0.05)
    made = arm_cost.costs(load_model(model_path()), "cortex-a76")
    assert {c.instruction for c in made} == {"fmla"}
    assert all(0 < c.rate <= 1.02 * c.peak for c in made)
    assert 0.3 < arm_cost.whole(made) <= 1
