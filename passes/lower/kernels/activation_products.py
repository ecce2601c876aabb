"""Products of two activations become one kernel that follows views instead of copying them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax, te

from lepton_tvm.ir.graph import Expr, dtype_of, op_name, shape_of
from lepton_tvm.kernels.batch_matmul import BatchMatmulShape, Indices, batch_matmul
from lepton_tvm.kernels.register_tile import choose_tile
from lepton_tvm.passes.lower.kernels.gpu_kernels import gpu_batch_matmul
from lepton_tvm.passes.lower.kernels.views import View, view_of
from lepton_tvm.targets import Level

__all__ = ["keeps_columns", "lower_batch_matmul", "why_no_batch_matmul"]

# With fewer rows, packing the second operand costs more than it saves.
_FEWEST_ROWS = 4


def why_no_batch_matmul(call: Expr) -> str | None:
    """The reason why `relax.matmul` of two activations is left to the generic lowering, or None."""
    types = {dtype_of(call.args[0]), dtype_of(call.args[1]), dtype_of(call)}
    if types != {"float32"}:
        return f"a product of two activations of types {sorted(types)} has no kernel"
    ranks = [len(shape_of(arg)) for arg in call.args]
    if min(ranks) < 2:
        return "one operand is a vector"
    if shape_of(call.args[0])[-2] < _FEWEST_ROWS:
        return f"fewer than {_FEWEST_ROWS} rows do not pay for packing the second operand"
    return None


def keeps_columns(readers: Sequence[relax.VarBinding]) -> bool:
    """Whether one `relax.permute_dims` alone reads a product, and leaves its last axis last.

    The kernel stores only such results.
    """
    if len(readers) != 1 or op_name(readers[0].value) != "relax.permute_dims":
        return False
    axes = readers[0].value.attrs.axes
    return axes is not None and int(axes[-1]) in (-1, len(axes) - 1)


def lower_batch_matmul(
    builder: relax.BlockBuilder,
    call: Expr,
    lookup: Callable[[Expr], Expr | None],
    isa: Level,
    permutation: Expr | None = None,
) -> Expr:
    """`relax.matmul` of two activations (and the `permute_dims` of its result) as a `call_tir`.

    `lookup` gives the value bound to a variable: operands are read through views of other tensors.
    """
    if isa.on_gpu:
        return gpu_batch_matmul(builder, call, lookup, permutation, _reader)
    left, right = (shape_of(arg) for arg in call.args)
    (rows, depth), columns = left[-2:], right[-1]
    plain = shape_of(call)
    axes = list(range(len(plain)))
    if permutation is not None:
        axes = [int(a) % len(plain) for a in permutation.attrs.axes]
    batch = plain[:-2]
    if not batch:
        # the kernel has at least one batch axis
        batch, axes = (1,), [axis + 1 for axis in axes]
    tile = choose_tile(rows, columns, isa)
    shape = BatchMatmulShape(batch, rows, depth, columns, tile.rows, tile.channels, tuple(axes))
    x, y = (view_of(arg, lookup) for arg in call.args)

    def kernel(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return batch_matmul(a, b, shape, tile, _reader(x, left), _reader(y, right))

    return builder.call_te(kernel, x.source, y.source, primfunc_name_hint="batch_matmul")


def _reader(view: View, shape: tuple[int, ...]) -> Callable[[te.Tensor, Indices], Expr]:
    """Reads the view at the kernel's indices: leading axes that are missing or 1 are broadcast."""

    def read(tensor: te.Tensor, index: Indices) -> Expr:
        own = list(index[len(index) - len(shape) :])
        own[:-2] = [0 if size == 1 else i for size, i in zip(shape[:-2], own[:-2], strict=True)]
        return view.read(tensor, own)

    return read
