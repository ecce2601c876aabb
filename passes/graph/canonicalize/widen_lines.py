"""Rules for ops on lines (NCW): each becomes the same op on an image of height 1.

The reshapes around it then move down and vanish where the next such op follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    const_array,
    constant,
    op_name,
    shape_of,
    with_args,
)
from lepton_tvm.ir.ops import named

__all__ = [
    "THROUGH",
    "sink_line_reshape",
    "widen_conv1d",
    "widen_conv1d_transpose",
    "widen_pool1d",
]

#: Ops between two ops of one dimension through which a reshape moves down.
THROUGH = named("line", "through")
# Where it starts.
_SOURCES = named("line", "source")


def sink_line_reshape(g: GraphBuilder, call: Expr) -> Expr | None:
    """add(reshape(x, (n,c,w)), b) -> reshape(add(x, b'), (n,c,w)) for x of shape (n,c,1,w).

    The reshapes around ops of one dimension move down until they meet the next one and vanish; and
    a bias stays next to its convolution. Only where x comes from such an op, by elementwise ops.
    """
    shape = shape_of(call)
    if len(shape) != 3:
        return None
    wide: tuple[int, ...] | None = None
    args = []
    for arg in call.args:
        made = g.value(arg) if isinstance(arg, relax.Var) else arg
        if op_name(made) == "relax.reshape" and _is_line(g, made.args[0]):
            wide = shape_of(made.args[0])
            args.append(made.args[0])
        else:
            args.append(arg)
    if wide is None or (wide[0], wide[1], wide[3]) != shape:
        return None
    for i, arg in enumerate(args):
        array = const_array(arg)
        if array is not None and array.ndim > 0:
            full = array.reshape((1,) * (3 - array.ndim) + array.shape)
            args[i] = constant(full[:, :, None, :])
        elif array is None and isinstance(arg, relax.Var) and shape_of(arg) != wide:
            return None
    made = with_args(call, args)
    return relax.op.reshape(made, shape)


def _is_line(g: GraphBuilder, data: Expr) -> bool:
    """True for [N,C,1,W] that a convolution or pool made, perhaps with elementwise ops since."""
    shape = shape_of(data)
    if len(shape) != 4 or shape[2] != 1:
        return False
    made = g.value(data)
    while op_name(made) in THROUGH and isinstance(made.args[0], relax.Var):
        if made is g.value(made.args[0]):
            return False
        made = g.value(made.args[0])
    return op_name(made) in _SOURCES


def widen_pool1d(g: GraphBuilder, call: Expr) -> Expr | None:
    """max_pool1d, avg_pool1d (NCW) -> reshape, the 2-d pool of height 1, reshape."""
    attrs = call.attrs
    if attrs.layout != "NCW" or attrs.out_layout not in ("NCW", "", None):
        return None
    n, c, w = shape_of(call.args[0])
    left, right = (int(p) for p in attrs.padding)
    two_d = {
        "relax.nn.avg_pool1d": relax.op.nn.avg_pool2d,
        "relax.nn.max_pool1d": relax.op.nn.max_pool2d,
    }
    pool = two_d[op_name(call)](
        relax.op.reshape(call.args[0], (n, c, 1, w)),
        pool_size=[1, int(attrs.pool_size[0])],
        strides=[1, int(attrs.strides[0])],
        padding=[0, left, 0, right],
        dilation=[1, int(attrs.dilation[0])],
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
    )
    return relax.op.reshape(pool, shape_of(call))


def widen_conv1d(g: GraphBuilder, call: Expr) -> Expr | None:
    """conv1d (NCW, constant weight) -> reshape, conv2d of height 1, reshape."""
    return _widened_conv(call, "OIW", relax.op.nn.conv2d)


def widen_conv1d_transpose(g: GraphBuilder, call: Expr) -> Expr | None:
    """conv1d_transpose (NCW, constant weight) -> reshape, conv2d_transpose, reshape."""
    added = [0, int(call.attrs.output_padding[0])]
    return _widened_conv(call, "IOW", relax.op.nn.conv2d_transpose, output_padding=added)


def _widened_conv(
    call: Expr, kernel_layout: str, conv2d: Callable[..., Expr], **options: Any
) -> Expr | None:
    weight = const_array(call.args[1])
    attrs = call.attrs
    if weight is None or attrs.data_layout != "NCW" or attrs.kernel_layout != kernel_layout:
        return None
    if attrs.out_layout not in ("NCW", "", None):
        return None
    n, c, w = shape_of(call.args[0])
    left, right = (int(p) for p in attrs.padding)
    conv = conv2d(
        relax.op.reshape(call.args[0], (n, c, 1, w)),
        constant(weight[:, :, None, :]),
        strides=[1, int(attrs.strides[0])],
        padding=[0, left, 0, right],
        dilation=[1, int(attrs.dilation[0])],
        groups=int(attrs.groups),
        **options,
    )
    return relax.op.reshape(conv, shape_of(call))
