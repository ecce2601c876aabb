"""Products of bytes summed in 16 bits: taken where they are exact, refused one step beyond."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compiler.pipeline import build
from lepton_tvm.ir.graph import Array, constant
from lepton_tvm.kernels.dot import LARGEST_SUM, dot_candidates, in_words, is_exact, largest_sums
from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels
from lepton_tvm.targets import ISAS, parse_target
from tests.support.kernels import needs

NO_VNNI = [isa.name for isa in ISAS.values() if not isa.dot4]
SIGNS = [(1, 1, 1, 1), (-1, -1, -1, -1), (1, 1, -1, -1), (1, -1, 1, -1)]


def product(x: Array, w: Array) -> tvm.IRModule:
    """A module that multiplies uint8 `x` by the constant int8 `w`."""
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(x.shape, "uint8"))
    with builder.function("main", [data]):
        with builder.dataflow():
            made = builder.emit_output(relax.op.matmul(data, constant(w), out_dtype="int32"))
        builder.emit_func_output(made)
    return builder.get()


def dot_of(mod: tvm.IRModule, isa: str) -> int:
    lowered, _ = LowerKernels(parse_target(f"x86:{isa}"))(mod)
    text = lowered.script()
    return int(text.split('"lepton.dot": ')[1].split(",")[0])


def answer(mod: tvm.IRModule, isa: str, x: Array) -> Array:
    machine = relax.VirtualMachine(build(mod, f"x86:{isa}").executable, tvm.cpu())
    made: Array = machine["main"](tvm.runtime.tensor(x)).numpy()
    return made


@pytest.mark.parametrize("isa", NO_VNNI)
@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("dot", [4, 8, 16])
def test_weights_at_the_limit_are_exact_and_one_more_falls_back(
    dot: int, signs: tuple[int, ...], isa: str
) -> None:
    """All activations 255: the worst case. `dot` products a lane, half of them in each sum."""
    needs(isa)
    limit = LARGEST_SUM * 2 // dot
    w = np.tile(np.array(signs), 16)[:, None] * np.full((64, 24), limit)
    # where signs alternate the largest sums are of half as many weights
    w = (w if signs != (1, -1, 1, -1) else np.clip(w * 2, -127, 127)).astype("int8")
    x = np.full((5, 64), 255, "uint8")
    assert dot_of(product(x, w), isa) == dot
    np.testing.assert_array_equal(answer(product(x, w), isa, x), x.astype(int) @ w.astype(int))
    if np.abs(w).max() == 127:
        return
    w[32, 7] += signs[0]
    mod = product(x, w)
    assert dot_of(mod, isa) == {16: 8, 8: 4, 4: 2}[dot]
    np.testing.assert_array_equal(answer(mod, isa, x), x.astype(int) @ w.astype(int))


@pytest.mark.parametrize("isa", NO_VNNI)
def test_full_range_weights_keep_16_bit_factors(isa: str) -> None:
    needs(isa)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 40)).astype("uint8")
    w = rng.integers(-127, 128, (40, 33)).astype("int8")
    mod = product(x, w)
    assert dot_of(mod, isa) == 2
    np.testing.assert_array_equal(answer(mod, isa, x), x.astype(int) @ w.astype(int))


def test_vnni_adds_in_32_bits_whatever_the_weights() -> None:
    w = np.full((64, 16), 127, "int8")
    for isa in (i for i in ISAS.values() if i.dot4):
        assert dot_candidates("int8", 64, isa) == (4,)
        assert is_exact(in_words(w, 0), 4, isa)


def test_several_words_only_where_they_divide_the_depth() -> None:
    avx2 = ISAS["avx2"]
    assert dot_candidates("int8", 64, avx2) == (16, 8, 4, 2)
    assert dot_candidates("int8", 24, avx2) == (8, 4, 2)
    assert dot_candidates("int8", 3, avx2) == (4, 2)
    assert dot_candidates("float32", 64, avx2) == (1,)


def test_largest_sums_takes_each_sign_by_itself() -> None:
    w = np.array([[60, 60, -100, 100], [1, 2, 3, -40]], "int8")[:, None, :]  # words, lanes, 4
    assert largest_sums(w, 1).tolist() == [120.0]
    assert largest_sums(w, 2).tolist() == [140.0]  # 60 + 60 + 1 + 2 < 100 + 3 | 100 + 40
