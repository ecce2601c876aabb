"""`Resize` and `Upsample` of every operator set, brought to the one form that TVM reads rightly."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.values import constant_of, shape_of

__all__ = ["resize", "upsample"]


def upsample(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Upsample` (opset 9) is `Resize` with `asymmetric` coordinates."""
    return resize(bb, [inputs[0], inputs[1]], attrs, 10)


def resize(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Resize` with constant scales or sizes, by TVM's converter with static sizes of full rank.

    TVM steps by the ratio of the sizes, ONNX by the scale that is given. The two are one only where
    scale times size is whole, so others are refused, as is antialiasing, which TVM does not have.
    """
    x = inputs[0]
    shape = shape_of(x)
    attrs = dict(attrs)
    if attrs.get("antialias"):
        raise ModelError("Resize with antialias is not supported")
    if opset == 10:
        attrs["coordinate_transformation_mode"] = b"asymmetric"
        attrs["nearest_mode"] = b"floor"
        inputs = [x, None, inputs[1]]
    given = list(inputs[:4])
    given += [None] * (4 - len(given))
    roi = constant_of(given[1]) if given[1] is not None else None
    mode = attrs.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"tf_crop_and_resize":
        if roi is None:
            raise ModelError("Resize with tf_crop_and_resize needs a constant region")
        if "axes" in attrs:
            raise ModelError("Resize with tf_crop_and_resize and axes is not supported")
    else:
        roi = None
    if mode == b"half_pixel_symmetric":
        attrs["coordinate_transformation_mode"] = b"half_pixel"
    axes = [axis % len(shape) for axis in attrs.pop("axes", range(len(shape)))]
    sizes = _sizes(given, shape, axes, attrs)
    if sizes[:2] != shape[:2]:
        raise ModelError(f"Resize changes batch or channels, {shape} to {sizes}; only 2-D resizing")
    if sizes == shape and mode != b"tf_crop_and_resize":
        return x
    region = None if roi is None else relax.const(roi, "float32")
    ready = onnx_frontend.onnx_input([x, region, None, relax.const(np.array(sizes), "int64")])
    converter = onnx_frontend.Resize.get_converter(max(opset, 18))
    return converter(bb, ready, attrs, [{}, {}])


def _sizes(given: list[Any], shape: list[int], axes: list[int], attrs: dict[str, Any]) -> list[int]:
    """The output shape, from scales or from sizes (with the policy for the aspect ratio)."""
    sizes = list(shape)
    wanted = constant_of(given[3]) if given[3] is not None else None
    if wanted is not None and wanted.size:
        targets = _kept_aspect(wanted, shape, axes, attrs.pop("keep_aspect_ratio_policy", b""))
        for axis, size in zip(axes, targets, strict=True):
            sizes[axis] = size
        return sizes
    scales = constant_of(given[2]) if given[2] is not None else None
    if scales is None or not scales.size:
        raise ModelError("Resize needs constant scales or sizes")
    for axis, scale in zip(axes, scales, strict=True):
        exact = float(scale) * shape[axis]
        # float32 scales such as 1/3 are off by one part in 10^7.
        if abs(exact - round(exact)) > 1e-5 * max(exact, 1.0) or round(exact) < 1:
            raise ModelError(
                f"Resize by {float(scale):g} of {shape[axis]} does not give a whole number; "
                "export the model with sizes instead of scales"
            )
        sizes[axis] = round(exact)
    return sizes


def _kept_aspect(
    wanted: np.ndarray[Any, Any], shape: list[int], axes: list[int], policy: bytes
) -> list[int]:
    if policy in (b"", b"stretch"):
        return [int(size) for size in wanted]
    ratios = [int(size) / shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    scale = min(ratios) if policy == b"not_larger" else max(ratios)
    return [int(scale * shape[axis] + 0.5) for axis in axes]
