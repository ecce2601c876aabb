from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import Expr, dtype_of, main_of, shape_of
from lepton_tvm.passes.graph.canonical import canonical_passes
from lepton_tvm.passes.graph.fold_preprocess import FoldPreprocess
from tests.support.graphs import assert_close, check_pass, count, graph, named, noise, run, skipped

op = relax.op
SHAPE = (2, 3, 9, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, size=(2, 9, 8, 3)).astype(np.uint8)


def model(padding: Any = 0, groups: int = 1, first: Any = None, **inputs: Any) -> Any:
    """A canonical module: convolution, bias, relu."""

    def body(x: Expr, *others: Expr) -> Expr:
        x = x if first is None else first(x)
        made = op.nn.conv2d(x, noise(6, 3 // groups, 3, 3), padding=padding, groups=groups)
        made = op.nn.relu(op.add(made, noise(1, 6, 1, 1, seed=1)))
        return op.mean(made, [2, 3])

    mod = graph(body, **(inputs or {"x": SHAPE}))
    for p in canonical_passes():
        mod, _ = p(mod)
    return mod


def normalised(p: FoldPreprocess) -> Any:
    """What a caller would have fed to the float model."""
    floats = (PIXELS * p.scale - np.asarray(p.mean)) / np.asarray(p.std)
    return floats.transpose(0, 3, 1, 2).astype(np.float32)


OPTIONS = {
    "one mean": FoldPreprocess(127, 128),
    "one mean between bytes": FoldPreprocess(127.5, 127.5),
    "imagenet": FoldPreprocess([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1 / 255),
    "scale alone": FoldPreprocess(scale=1 / 255),
    "mean alone": FoldPreprocess(mean=[1, 2, 3]),
    "std of each channel": FoldPreprocess(100, [50, 60, 70]),
    "planes": FoldPreprocess(127, 128, layout="NCHW"),
}


@pytest.mark.parametrize("padding", [0, (1, 0, 2, 1)])
@pytest.mark.parametrize("options", OPTIONS)
def test_pixels_in_same_numbers_out(options: str, padding: Any) -> None:
    p = OPTIONS[options]
    before = model(padding)
    after, report = check_pass(p, before)
    (param,) = main_of(after).params
    assert dtype_of(param) == "uint8"
    pixels = PIXELS if p.layout == "NHWC" else PIXELS.transpose(0, 3, 1, 2)
    assert shape_of(param) == pixels.shape
    # the folded sums run over pixels, up to 255 / std times as large as the normalised values
    magnitude = 255 * p.scale / min(np.abs(np.atleast_1d(p.std))) + 1
    assert_close(run(after, pixels), run(before, normalised(p)), terms=int(64 * magnitude))
    assert count(after, "multiply") == 0, "the factor folds always"
    stays = bool(padding) and len(set(np.atleast_1d(p.mean))) > 1
    assert bool(report.skipped) == stays
    assert count(after, "add") == 1 + stays


def test_the_border_is_padded_with_the_mean_as_bytes() -> None:
    after, report = check_pass(FoldPreprocess(127, 128), model(1))
    (pad,) = named(after, "nn.pad")
    assert dtype_of(pad.var) == "uint8"
    assert float(pad.value.attrs.pad_value) == 127
    (conv,) = named(after, "nn.conv2d")
    assert [int(v) for v in conv.value.attrs.padding] == [0, 0, 0, 0]
    assert report.notes == (
        "the factor went into the weight of the first convolution",
        "the mean went into the bias of the first convolution",
    )
    assert conv.var.name == "conv2d_0"


def test_a_mean_that_is_no_byte_pads_floats() -> None:
    after, _ = check_pass(FoldPreprocess(127.5, 128), model(1))
    (pad,) = named(after, "nn.pad")
    assert dtype_of(pad.var) == "float32"


def test_different_means_at_a_zero_border_stay_and_are_reported() -> None:
    _, report = check_pass(FoldPreprocess([1, 2, 3], 2), model(1))
    assert skipped(report) == [
        "the means differ between channels and the first convolution pads with zeros"
    ]


def test_what_does_not_go_straight_into_a_convolution_stays() -> None:
    mod = model(first=op.sigmoid)
    _, report = check_pass(FoldPreprocess(127, 128), mod)
    assert "not straight into a convolution" in skipped(report)[-1]


def test_a_first_convolution_of_a_computed_weight_takes_nothing() -> None:
    mod = graph(lambda x, w: op.nn.conv2d(x, w), x=SHAPE, w=(3, 3, 3, 3))
    for p in canonical_passes():
        mod, _ = p(mod)
    _, report = check_pass(FoldPreprocess(127, 128, input="x"), mod)
    assert skipped(report)[-1] == "the first convolution cannot take a scale and a shift"


def test_an_input_that_is_read_twice_stays_right() -> None:
    def body(x: Expr) -> Expr:
        y = op.nn.conv2d(x, noise(3, 3, 3, 3), padding=1)
        return op.add(y, x)

    mod = graph(body, x=SHAPE)
    for p in canonical_passes():
        mod, _ = p(mod)
    fold = FoldPreprocess(127, 128)
    after, report = check_pass(fold, mod)
    assert_close(run(after, PIXELS), run(mod, normalised(fold)), terms=64)
    assert any("read in 2 places" in reason for reason in skipped(report))


def test_grouped_first_convolution() -> None:
    fold = FoldPreprocess([1, 2, 3], [4, 5, 6])
    mod = model(groups=3)
    after, report = check_pass(fold, mod)
    assert report.skipped == ()
    assert_close(run(after, PIXELS), run(mod, normalised(fold)), terms=64 * 64)


def test_one_of_several_inputs() -> None:
    def body(x: Expr, y: Expr) -> Expr:
        return op.add(op.nn.conv2d(x, noise(3, 3, 1, 1)), y)

    mod = graph(body, x=SHAPE, y=SHAPE)
    for p in canonical_passes():
        mod, _ = p(mod)
    after, _ = check_pass(FoldPreprocess(127, 128, input="x"), mod)
    assert [dtype_of(p) for p in main_of(after).params] == ["uint8", "float32"]
    with pytest.raises(InputError, match=r"several inputs \(x, y\); say which with input="):
        FoldPreprocess(127, 128)(mod)
    with pytest.raises(InputError, match="no input 'z'; it has: x, y"):
        FoldPreprocess(127, 128, input="z")(mod)


def test_bytes_already() -> None:
    after, _ = FoldPreprocess(127, 128)(model())
    _, report = FoldPreprocess(127, 128)(after)
    assert skipped(report) == ["it takes uint8 already"]


def test_inputs_that_are_no_pictures_are_refused() -> None:
    mod = graph(lambda x: op.exp(x), x=(2, 3))
    with pytest.raises(InputError, match=r"'x' is float32\[2, 3\]; .* float picture"):
        FoldPreprocess(127, 128)(mod)
    with pytest.raises(InputError, match="mean has 2 values, input 'x' has 3 channels"):
        FoldPreprocess([1, 2], 128)(model())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0}, "must not be zero"),
        ({"scale": 0}, "must not be zero"),
        ({"mean": [1, float("nan"), 2]}, "must be finite"),
        ({"layout": "HWC"}, "layout is 'HWC'; give one of NHWC, NCHW"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FoldPreprocess(**options)


def test_options_compare_by_value() -> None:
    assert FoldPreprocess([1, 2, 3]) == FoldPreprocess((1.0, 2.0, 3.0))
    assert hash(FoldPreprocess([1, 2, 3])) == hash(FoldPreprocess((1.0, 2.0, 3.0)))
