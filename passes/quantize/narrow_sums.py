"""Weight scales with which the sums of products fit the 16 bits of `vpmaddubsw`."""

from __future__ import annotations

import numpy as np

from lepton_tvm.ir.graph import Array, Expr, op_name, shape_of
from lepton_tvm.kernels.depthwise_int8 import lines_per_word, shifted_words
from lepton_tvm.kernels.dot import LARGEST_SUM, WORD, in_words, largest_sums, words_added
from lepton_tvm.passes.quantize.qparams import quantize_weight

__all__ = ["narrow_scales"]

# Rounding can bring a sum above the limit; scales then grow by this factor until it cannot.
_STEP = 1.0 + 2.0**-9


def narrow_scales(weight: Array, call: Expr, scales: Array, largest: int) -> Array:
    """float32 scales [K], none below `scales`, for the HWIO or [C, K] `weight` of `call`.

    With them no activations can make a 16-bit sum overflow: the weights of one sign that meet in
    one add up to `LARGEST_SUM` at most. Single weights may be as large as `largest`, so less is
    lost than by giving every weight one bit less. (Limiting sums rather than weights is the idea of
    Colbert et al., "A2Q: Accumulator-Aware Quantization", ICCV 2023.)
    """
    words = _words(weight.astype(np.float64), call)
    count = 1 if _is_depthwise(call) else words_added(weight.shape[-2])
    limits = _per_channel(largest_sums(words, count)) / LARGEST_SUM
    made: Array = np.maximum(scales, limits).astype(np.float32)
    open_ = np.arange(len(made))
    while open_.size:
        part = quantize_weight(weight[..., open_], made[open_], weight.ndim - 1, largest)
        sums = _per_channel(largest_sums(_words(part, call), count))
        open_ = open_[sums > LARGEST_SUM]
        made[open_] *= np.float32(_STEP)
    return made


def _words(weight: Array, call: Expr) -> Array:
    """[..., words, K, 4]: along the input channels, or down the rows of a depthwise filter."""
    if _is_depthwise(call):
        stride, dilation = int(call.attrs.strides[0]), int(call.attrs.dilation[0])
        lines = lines_per_word(len(weight), stride, dilation, WORD)
        return shifted_words(weight[:, :, 0, :], lines, stride, WORD)
    return in_words(weight, weight.ndim - 2)


def _per_channel(sums: Array) -> Array:
    made: Array = sums.reshape(-1, sums.shape[-1]).max(axis=0)
    return made


def _is_depthwise(call: Expr) -> bool:
    if op_name(call) != "relax.nn.conv2d":
        return False
    groups = int(call.attrs.groups)
    return groups > 1 and groups == shape_of(call.args[0])[-1] == shape_of(call)[-1]
