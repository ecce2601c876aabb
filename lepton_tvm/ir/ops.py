"""What is known of each Relax operator: one row, and one column for each part that asks.

A new operator is a row here. Each column holds a word, which its reader turns into a rule of its
own: `layout="pool"` is how `passes/graph/layout` treats all pools. An empty word means that the
reader does not know the operator and leaves it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMNS", "OPS", "Op", "named"]

#: Column -> its words. `tests/ir/test_ops.py` holds that each reader knows all of its words.
COLUMNS: dict[str, tuple[str, ...]] = {
    "macs": ("conv", "conv_transpose", "matmul"),
    "line": ("source", "through"),
    "layout": (
        "arg_reduction",
        "concat",
        "conv2d",
        "conv2d_transpose",
        "elementwise",
        "no_form",
        "normalization",
        "one_axis",
        "pad",
        "permute",
        "pool",
        "reduction",
        "reshape",
        "resize",
        "split",
        "strided_slice",
    ),
    "prune": (
        "concat",
        "conv",
        "elementwise",
        "matmul",
        "normalised",
        "pad",
        "permute",
        "prelu",
        "reduction",
        "reshape",
        "spatial",
        "split",
        "strided_slice",
    ),
    "quantize": (
        "anchor",
        "elementwise",
        "float_moments",
        "float_result",
        "join",
        "pass",
        "pass_nearest",
        "pool",
    ),
    "bfloat16": ("moves", "widens"),
    "lower": ("packed", "view"),
}


@dataclass(frozen=True)
class Op:
    """One operator by its full name, and a word for each part of the compiler that treats it.

    `linear`: a linear map of its data with a weight, into which scales and shifts fold.
    `macs`: how its multiply-adds are counted; all others count as zero.
    `line`: its part where ops on lines become images of height 1: `source` makes such images, a
    reshape moves down `through` it.
    `layout`: how it runs in channels-last order; `no_form`: it cannot, and the report says so.
    `prune`: how labels of channels pass it.
    `quantize`: an `anchor` has integer kernels; `elementwise` rides in the kernel before it; `pass`
    hands on its operand's values, `pass_nearest` does so for the nearest neighbour alone; a `pool`
    is an average; a `join` puts operands together; `float_...` stays in float for a stated reason.
    `bfloat16`: it `moves` bfloat16 values, or its kernel `widens` those that it reads.
    `lower`: its constant weights are `packed` for a kernel; or it is a `view` of the same elements.

    Raises ValueError for a word that its column does not have.
    """

    name: str
    linear: bool = False
    macs: str = ""
    line: str = ""
    layout: str = ""
    prune: str = ""
    quantize: str = ""
    bfloat16: str = ""
    lower: str = ""

    def __post_init__(self) -> None:
        for column, words in COLUMNS.items():
            word = getattr(self, column)
            if word and word not in words:
                raise ValueError(f"{self.name}: {column} has no word {word!r}, it has {words}")


def _elementwise(name: str, line: str = "") -> Op:
    """A cheap map that every part knows."""
    word = "elementwise"
    return Op(name, line=line, layout=word, prune=word, quantize=word, bfloat16="widens")


def _mapped(name: str) -> Op:
    """A map that follows layouts and channels; quantization and bfloat16 stop at it."""
    return Op(name, layout="elementwise", prune="elementwise")


def _laid_out(name: str) -> Op:
    """A map that follows layouts only."""
    return Op(name, layout="elementwise")


def _reduction(name: str, bfloat16: str = "") -> Op:
    return Op(name, layout="reduction", prune="reduction", bfloat16=bfloat16)


def _pool(name: str, **columns: str) -> Op:
    return Op(name, layout="pool", **columns)  # type: ignore[arg-type]


def _reshape(name: str, layout: str = "", lower: str = "") -> Op:
    return Op(name, layout=layout, prune="reshape", quantize="pass", bfloat16="moves", lower=lower)


_ROWS = (
    # Linear maps
    Op(
        "relax.matmul",
        linear=True, macs="matmul", prune="matmul", quantize="anchor", lower="packed",
    ),
    Op(
        "relax.nn.conv2d",
        linear=True, macs="conv", line="source", layout="conv2d", prune="conv", quantize="anchor",
        lower="packed",
    ),
    Op(
        "relax.nn.conv2d_transpose",
        linear=True, macs="conv_transpose", line="source", layout="conv2d_transpose", prune="conv",
    ),
    Op("relax.nn.conv1d", macs="conv", layout="no_form", prune="conv"),
    Op("relax.nn.conv1d_transpose", macs="conv_transpose", prune="conv"),
    Op("relax.nn.conv3d", macs="conv", layout="no_form", prune="conv"),
    Op("relax.nn.conv3d_transpose", macs="conv_transpose", layout="no_form", prune="conv"),
    # Maps of equal or broadcast shape
    _elementwise("relax.abs"),
    _elementwise("relax.add", line="through"),
    _elementwise("relax.clip", line="through"),
    _elementwise("relax.divide"),
    _elementwise("relax.erf"),
    _elementwise("relax.exp"),
    _elementwise("relax.log"),
    _elementwise("relax.maximum"),
    _elementwise("relax.minimum"),
    _elementwise("relax.multiply", line="through"),
    _elementwise("relax.negative"),
    _elementwise("relax.nn.gelu"),
    _elementwise("relax.nn.gelu_tanh"),
    _elementwise("relax.nn.leakyrelu", line="through"),
    _elementwise("relax.nn.relu", line="through"),
    _elementwise("relax.nn.selu"),
    _elementwise("relax.nn.silu"),
    _elementwise("relax.nn.softplus"),
    _elementwise("relax.power"),
    _elementwise("relax.rsqrt"),
    _elementwise("relax.sigmoid", line="through"),
    _elementwise("relax.sqrt"),
    _elementwise("relax.square"),
    _elementwise("relax.subtract"),
    _elementwise("relax.tanh", line="through"),
    _mapped("relax.astype"),
    _mapped("relax.ceil"),
    _mapped("relax.cos"),
    _mapped("relax.equal"),
    _mapped("relax.floor"),
    _mapped("relax.floor_divide"),
    _mapped("relax.greater"),
    _mapped("relax.greater_equal"),
    _mapped("relax.less"),
    _mapped("relax.less_equal"),
    _mapped("relax.not_equal"),
    _mapped("relax.round"),
    _mapped("relax.sign"),
    _mapped("relax.sin"),
    _mapped("relax.where"),
    _laid_out("relax.acos"),
    _laid_out("relax.acosh"),
    _laid_out("relax.asin"),
    _laid_out("relax.asinh"),
    _laid_out("relax.atan"),
    _laid_out("relax.atanh"),
    _laid_out("relax.bitwise_and"),
    _laid_out("relax.bitwise_not"),
    _laid_out("relax.bitwise_or"),
    _laid_out("relax.bitwise_xor"),
    _laid_out("relax.cosh"),
    _laid_out("relax.floor_mod"),
    _laid_out("relax.isfinite"),
    _laid_out("relax.isinf"),
    _laid_out("relax.isnan"),
    _laid_out("relax.left_shift"),
    _laid_out("relax.logical_and"),
    _laid_out("relax.logical_not"),
    _laid_out("relax.logical_or"),
    _laid_out("relax.logical_xor"),
    _laid_out("relax.mod"),
    _laid_out("relax.right_shift"),
    _laid_out("relax.sinh"),
    _laid_out("relax.tan"),
    _laid_out("relax.trunc"),
    Op("relax.nn.dropout", prune="elementwise"),
    Op(
        "relax.nn.prelu",
        layout="one_axis", prune="prelu", quantize="elementwise", bfloat16="widens",
    ),
    # Pools and pictures
    _pool("relax.nn.max_pool2d", line="source", prune="spatial", quantize="pass", bfloat16="moves"),
    _pool("relax.nn.avg_pool2d", line="source", prune="spatial", quantize="pool", bfloat16="moves"),
    _pool("relax.nn.adaptive_avg_pool2d", prune="spatial", quantize="pool", bfloat16="widens"),
    Op("relax.nn.adaptive_avg_pool1d", prune="spatial"),
    Op("relax.nn.adaptive_avg_pool3d", prune="spatial"),
    Op("relax.nn.avg_pool1d", prune="spatial"),
    Op("relax.nn.avg_pool3d", prune="spatial"),
    Op("relax.nn.max_pool1d", prune="spatial"),
    Op("relax.nn.max_pool3d", prune="spatial"),
    Op(
        "relax.image.resize2d",
        layout="resize", prune="spatial", quantize="pass_nearest", bfloat16="widens",
    ),
    # Reductions and normalizations
    Op(
        "relax.mean",
        layout="reduction", prune="reduction", quantize="pool", bfloat16="moves",
    ),
    _reduction("relax.max", bfloat16="widens"),
    _reduction("relax.min", bfloat16="widens"),
    _reduction("relax.sum", bfloat16="widens"),
    _reduction("relax.prod"),
    _reduction("relax.variance"),
    Op("relax.std", layout="reduction"),
    Op("relax.argmax", layout="arg_reduction"),
    Op("relax.argmin", layout="arg_reduction"),
    Op("relax.nn.softmax", layout="one_axis", prune="normalised", quantize="float_result"),
    Op("relax.nn.log_softmax", layout="one_axis", prune="normalised", quantize="float_result"),
    Op("relax.nn.layer_norm", prune="normalised", quantize="float_moments"),
    Op("relax.nn.group_norm", layout="normalization", quantize="float_moments"),
    Op("relax.nn.instance_norm", layout="normalization", quantize="float_moments"),
    Op("relax.quantize", layout="one_axis"),
    Op("relax.dequantize", layout="one_axis"),
    # Moves of data
    _reshape("relax.reshape", layout="reshape", lower="view"),
    _reshape("relax.squeeze", lower="view"),
    _reshape("relax.expand_dims", lower="view"),
    _reshape("relax.flatten"),
    Op(
        "relax.permute_dims",
        layout="permute", prune="permute", quantize="pass", bfloat16="moves",
    ),
    Op(
        "relax.strided_slice",
        layout="strided_slice", prune="strided_slice", quantize="pass", bfloat16="moves",
    ),
    Op("relax.concat", layout="concat", prune="concat", quantize="join", bfloat16="moves"),
    Op("relax.split", layout="split", prune="split"),
    Op("relax.nn.pad", layout="pad", prune="pad", bfloat16="widens"),
)  # fmt: skip

#: Name -> row.
OPS: dict[str, Op] = {op.name: op for op in _ROWS}


def named(column: str, *words: str | bool) -> frozenset[str]:
    """The names of the ops that have one of `words` in `column`."""
    return frozenset(op.name for op in OPS.values() if getattr(op, column) in words)
