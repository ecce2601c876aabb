"""`fold_preprocessing`: the model takes the picture as it comes out of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import dtype_of, main_of, shape_of
from lepton_tvm.model import Model, Step, TensorInfo
from lepton_tvm.passes.graph.fold_preprocess import FoldPreprocess

__all__ = ["fold_preprocessing"]


def fold_preprocessing(
    model: Model,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    scale: float = 1.0,
    layout: str = "NHWC",
    input: str | None = None,
) -> Model:
    """A model that takes uint8 pixels and computes `(pixel * scale - mean) / std` itself.

    `mean` and `std` are one number or one per channel, in units of `pixel * scale`; `layout` is the
    order of the new input, `input` its name where the model has several. What can be folded into
    the first convolution without a difference is folded; the report says what was not. Do this
    before `quantize`, whose calibration pictures are then uint8 too.

    Raises InputError for a quantized model, an unknown input, one that is no float picture, or
    constants that do not fit its channels.
    """
    if any(step.name == "quantize" for step in model.recipe):
        raise InputError(
            f"model '{model.name}' is quantized already; fold preprocessing into the float model"
        )
    fold = FoldPreprocess(mean=mean, std=std, scale=scale, layout=layout, input=input)
    module, report = fold(model.module)
    options: dict[str, Any] = {
        "mean": fold.mean, "std": fold.std, "scale": scale, "layout": layout, "input": input,
    }  # fmt: skip
    inputs = tuple(TensorInfo(p.name, shape_of(p), dtype_of(p)) for p in main_of(module).params)
    named = tuple(
        TensorInfo(old.name, new.shape, new.dtype)
        for old, new in zip(model.inputs, inputs, strict=True)
    )
    return model.derive(
        module, Step("fold_preprocessing", options, (report.to_json(),)), inputs=named
    )
