"""Networks whose channels can be followed: one for each way in which they meet and part."""

from __future__ import annotations

from tvm import relax

from lepton_tvm.ir.graph import Expr
from tests.support.networks import Net


def chain(n: Net, x: Expr) -> Expr:
    x = n.op("relu", n.conv(x, 16))
    return n.head(n.op("relu", n.conv(x, 24, stride=2)))


def residual(n: Net, x: Expr) -> Expr:
    x = n.op("relu", n.conv(x, 16))
    y = n.conv(n.op("relu", n.conv(x, 24)), 16)
    x = n.op("relu", n.op("add", x, y))
    z = n.op("add", n.conv(n.op("relu", n.conv(x, 16)), 32), n.conv(x, 32, 1))
    return n.head(n.op("relu", z))


def depthwise(n: Net, x: Expr) -> Expr:
    x = n.op("clip", n.conv(x, 24, 1), 0.0, 6.0)
    x = n.op("clip", n.conv(x, 24, groups=24, stride=2), 0.0, 6.0)
    x = n.op("relu", n.conv(x, 48, groups=24))  # two filters per channel
    return n.head(n.conv(x, 16, 1))


def concat(n: Net, x: Expr) -> Expr:
    a, b = n.op("relu", n.conv(x, 16, 1)), n.op("relu", n.conv(x, 24))
    joined = n.op("concat", [a, b, a], axis=-1)
    return n.head(n.op("relu", n.conv(joined, 16)))


def concat_then_add(n: Net, x: Expr) -> Expr:
    joined = n.op("concat", [n.conv(x, 16, 1), n.conv(x, 24)], axis=3)
    return n.head(n.op("relu", n.op("add", joined, n.conv(x, 40, 1))))


def excite(n: Net, x: Expr) -> Expr:
    x = n.gate(n.op("relu", n.conv(x, 32)), 16)
    return n.head(n.op("relu", n.conv(x, 16)))


def grouped(n: Net, x: Expr) -> Expr:
    x = n.op("relu", n.conv(x, 32))
    x = n.op("relu", n.conv(x, 64, groups=4))
    return n.head(n.conv(x, 16))


def flattened(n: Net, x: Expr) -> Expr:
    x = n.op("max_pool2d", n.conv(x, 16), (2, 2), (2, 2), layout="NHWC")
    return n.dense(n.op("relu", n.dense(n.op("reshape", x, (1, -1)), 24)), 5)


def flattened_nchw(n: Net, x: Expr) -> Expr:
    x = n.op("permute_dims", n.op("relu", n.conv(x, 16, stride=2)), [0, 3, 1, 2])
    return n.dense(n.op("reshape", n.op("permute_dims", x, [0, 1, 3, 2]), (1, -1)), 5)


def shuffled(n: Net, x: Expr) -> Expr:
    x = n.conv(n.op("relu", n.conv(x, 32, 1)), 32, groups=4)
    split = n.op("reshape", x, (1, 6, 6, 4, 8))
    mixed = n.op("reshape", n.op("permute_dims", split, [0, 1, 2, 4, 3]), (1, 6, 6, 32))
    return n.head(n.conv(mixed, 16))


def split_parts(n: Net, x: Expr) -> Expr:
    both = n.op("split", n.op("relu", n.conv(x, 32)), [12], axis=3)
    left = n.bb.emit(relax.TupleGetItem(both, 0), name_hint="item_0")
    right = n.bb.emit(relax.TupleGetItem(both, 1), name_hint="item_1")
    return n.op("add", n.head(left), n.head(n.op("relu", n.conv(right, 16))))


def sliced(n: Net, x: Expr) -> Expr:
    wide = n.op("relu", n.conv(x, 32))
    left = n.op("strided_slice", wide, [3], [0], [12], [1])
    right = n.op("strided_slice", wide, [-1], [-20], [32], [1])
    return n.op("add", n.head(left), n.head(n.conv(right, 8)))


def transposed(n: Net, x: Expr) -> Expr:
    x = n.op("permute_dims", n.op("relu", n.conv(x, 16)), [0, 3, 1, 2])
    x = n.op("conv2d_transpose", x, relax.const(n.array(16, 24, 2, 2)), strides=(2, 2))
    return n.head(n.op("relu", n.bias(n.op("permute_dims", x, [0, 2, 3, 1]))))


def resized(n: Net, x: Expr) -> Expr:
    x = n.op("pad", n.op("relu", n.conv(x, 16)), [0, 0, 1, 1, 2, 2, 0, 0])
    x = n.emit("resize2d", relax.op.image.resize2d(x, (5, 5), layout="NHWC", method="linear"))
    return n.head(n.op("avg_pool2d", n.conv(x, 16), (2, 2), (1, 1), layout="NHWC"))


def selected(n: Net, x: Expr) -> Expr:
    x = n.op("prelu", n.conv(x, 16), relax.const(n.array(16)), axis=3)
    positive = n.op("greater", x, relax.const(0.1))
    return n.head(n.op("where", positive, x, n.op("multiply", x, relax.const(n.array(16)))))


def attention(n: Net, x: Expr) -> Expr:
    tokens = n.op("reshape", n.op("relu", n.conv(x, 16)), (1, 36, 16))
    queries, keys = n.dense(tokens, 24), n.dense(tokens, 24)
    weights = n.op("softmax", n.op("matmul", queries, n.op("permute_dims", keys, [0, 2, 1])))
    mixed = n.op("matmul", weights, n.dense(tokens, 16))
    return n.dense(n.op("mean", mixed, axis=[1]), 5)


NETWORKS = [
    *(chain, residual, depthwise, concat, concat_then_add, excite, grouped, flattened),
    *(flattened_nchw, shuffled, split_parts, sliced, transposed, resized, selected),
]
