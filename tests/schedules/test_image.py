"""First layers that read a padded channels-first image: exact in int8, to rounding in float32."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.kernels.conv2d import ConvShape, pack_conv2d_weight
from lepton_tvm.kernels.image import Image, image_conv2d, pack_image
from lepton_tvm.kernels.register_tile import RegisterTile, choose_tile
from lepton_tvm.schedules.base import Defaults
from lepton_tvm.schedules.x86 import CONV2D, ELEMENTWISE
from lepton_tvm.targets import ISAS, best_isa, parse_target
from tests.support.image_cases import LAYERS, packed_image
from tests.support.kernels import conv2d_reference, needs, operands, run_kernel


def _layer(name: str, isa: str, integer: bool) -> tuple[Image, RegisterTile]:
    n, h, w, c, k, kernel, strides, padding, dilation = LAYERS[name]
    dot = 4 if integer else 1
    shape = ConvShape(
        n, h, w, c, k, kernel, strides, padding, dilation, 1, dot, rows=1, block=1,
        pad_value=200 if integer else 0,
    )  # fmt: skip
    tile = choose_tile(shape.out_width, k, ISAS[isa], dot)
    shape = ConvShape(
        n, h, w, c, k, kernel, strides, padding, dilation, 1, dot, tile.rows, tile.channels,
        pad_value=shape.pad_value,
    )  # fmt: skip
    return Image(shape), tile


CASES = [(isa, False) for isa in ("sse", "avx2", "vnni")] + [
    (name, True) for name, isa in ISAS.items() if isa.dot4
]


@pytest.mark.parametrize(("isa", "integer"), CASES)
@pytest.mark.parametrize("layer", list(LAYERS))
def test_convolution_equals_numpy(layer: str, isa: str, integer: bool) -> None:
    needs(isa)
    image, marks = _layer(layer, isa, integer)
    s = image.conv
    x, w = operands(
        np.random.default_rng(3), integer,
        (s.batch, s.height, s.width, s.channels), (*s.kernel, s.channels, s.out_channels),
    )  # fmt: skip
    got = run_kernel(
        lambda a, b: image_conv2d(a, b, image, marks),
        CONV2D, isa, packed_image(x, image), pack_conv2d_weight(w, s),
    )  # fmt: skip
    want = conv2d_reference(x, w, s)
    np.testing.assert_allclose(got, want, rtol=0, atol=0 if integer else 1e-4)


@pytest.mark.parametrize("integer", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_packing_equals_numpy(layer: str, integer: bool) -> None:
    target = parse_target("native")
    image, _ = _layer(layer, best_isa().name, integer)
    s = image.conv
    x, _ = operands(
        np.random.default_rng(4), integer, (s.batch, s.height, s.width, s.channels), (1, 1)
    )
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    source = te.placeholder(planes.shape, str(x.dtype), "x")
    func = te.create_prim_func([source, pack_image(source, image)])
    sch = ELEMENTWISE.apply(func, target, Defaults())
    assert sch is not None
    built = build_kernels(sch.mod, target)
    want = packed_image(x, image)
    got = tvm.runtime.empty(want.shape, str(want.dtype))
    built["main"](tvm.runtime.tensor(planes), got)
    np.testing.assert_array_equal(got.numpy(), want)
