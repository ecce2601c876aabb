"""Turns convolutions and products with constant weights into loop nests over packed weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    const_array,
    constant,
    consumers,
    dtype_of,
    main_of,
    op_name,
    shape_of,
)
from lepton_tvm.ir.kernels.conv2d import ConvShape, conv2d, pack_conv2d_weight
from lepton_tvm.ir.kernels.depthwise import depthwise_conv2d, pack_depthwise_weight
from lepton_tvm.ir.kernels.dot import WORD, dot_candidates, is_exact, uses_maddubs
from lepton_tvm.ir.kernels.gemm import Window
from lepton_tvm.ir.kernels.kernel_plan import (
    DEFAULT_PLANS,
    KernelPlan,
    Plans,
    conv_plans,
    product_plans,
)
from lepton_tvm.ir.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.ir.kernels.register_tile import RegisterTile, channel_tiles, ranked_tiles
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.first_layer import first_layer
from lepton_tvm.passes.kernel_types import ANCHORS, check_units, why_no_kernel
from lepton_tvm.passes.lower_batch_matmul import (
    keeps_columns,
    lower_batch_matmul,
    why_no_batch_matmul,
)
from lepton_tvm.passes.lower_gpu import gpu_conv2d, gpu_matmul
from lepton_tvm.passes.lower_tiles import tiled_conv2d, tiled_matmul
from lepton_tvm.passes.packed_kernel import (
    PackedKernel,
    first_layer_kernel,
    matrix_conv_kernel,
    matrix_kernel,
    winograd_kernel,
)
from lepton_tvm.passes.quantize.ops import is_depthwise
from lepton_tvm.passes.signed_sums import correction, join_additions
from lepton_tvm.targets import Level, Target
from lepton_tvm.targets.cuda import Gpu

__all__ = ["LowerKernels"]

# Taps of a float depthwise filter that are read often enough to leave room for longer runs.
_SMALL_FILTER = 9


@dataclass(frozen=True)
class LowerKernels:
    """conv2d and matmul with constant weights -> `call_tir` of a loop nest, weights packed.

    Before:  conv2d(x, const HWIO)     float32, bfloat16 -> float32, or uint8 x int8 -> int32
    After:   call_tir(conv2d, (x, const [K/b, KH, KW, C, b]))
    The register tile, which decides the packing, comes from the shape and the target's registers.
    A float 3x3 convolution of stride 1 becomes `winograd_conv2d` where that is estimated to be
    faster, unless `winograd` is False: it rounds more often (see `ir/kernels/winograd.py`).
    Where the target has tile registers and they are estimated to be faster, the geometry and the
    packing are theirs (see `ir/kernels/tile_plan.py`).
    An `nn.pad` of the zero point before an integer convolution is absorbed by the kernel's copy.
    A product of two activations becomes `call_tir(batch_matmul, ...)`, which packs the second one
    at run time, reads both through the reshapes and transpositions before it, and stores its result
    the way a transposition after it asks.
    `plans` decides where several lowerings are possible. `tagged` adds the number of the op, as
    `plans` counts it, to the annotations of its reduction (`lepton.op`): equal kernels then differ.
    For GPUs the nests are those of `lower_gpu`: operands read in place, weights by column.
    Does not handle: convolutions whose weights are not constant, layouts other than NHWC/HWIO,
    other element types; those are left to the generic lowering and reported.

    Raises TargetError for a bfloat16 model where the target has no bfloat16 instructions.
    """

    target: Target
    winograd: bool = True
    plans: Plans = DEFAULT_PLANS
    tagged: bool = False
    name: ClassVar[str] = "lower-kernels"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        check_units(mod, self.target)
        lowering = _Lowering(mod, self)
        lowered = lowering.run()
        report = PassReport(
            self.name, lowering.changed, _notes(lowering.widened), skipped=tuple(lowering.skipped)
        )
        return lowered, report


@mutator
class _Lowering(PyExprMutator):  # type: ignore[misc]
    def __init__(self, mod: tvm.IRModule, options: LowerKernels) -> None:
        super().__init__(mod)
        self._mod = mod
        self._isa: Level = options.target.level
        self._options = options
        self._readers = consumers(main_of(mod))
        self.changed = 0
        self._op = -1  # the number of the op that is being lowered
        self.skipped: list[Skipped] = []
        self.widened: list[str] = []
        self._name = ""
        self._var: relax.Var | None = None

    def run(self) -> tvm.IRModule:
        main = self._mod.get_global_var("main")
        self.builder_.update_func(main, self.visit_expr(self._mod[main]))
        made = relax.transform.DeadCodeElimination()(self.builder_.get())
        return join_additions(made) if self._isa.offset else made

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self._name, self._var = binding.var.name, binding.var
        super().visit_var_binding_(binding)

    def visit_call_(self, call: Expr) -> Expr:
        call = super().visit_call_(call)
        if op_name(call) == "relax.permute_dims":
            return self._permuted_product(call)
        if op_name(call) not in ANCHORS:
            return call
        weight = const_array(call.args[1])
        if op_name(call) == "relax.matmul" and (weight is None or weight.ndim != 2):
            return self._product_of_activations(call)
        reason = why_no_kernel(call, weight)
        if reason is not None or weight is None:
            self.skipped.append(Skipped(op_name(call), self._name, reason or ""))
            return call
        self.changed += 1
        self._op += 1
        if op_name(call) == "relax.matmul":
            return self._matmul(call.args[0], weight, shape_of(call.args[0])[:-1])
        return self._conv2d(call, weight)

    def _product_of_activations(self, call: Expr) -> Expr:
        if (reason := why_no_batch_matmul(call)) is not None:
            self.skipped.append(Skipped(op_name(call), self._name, reason))
            return call
        if keeps_columns(self._readers[self._var]):
            return call  # lowered together with the transposition that reads it
        self.changed += 1
        return lower_batch_matmul(self.builder_, call, self.lookup_binding, self._isa)

    def _permuted_product(self, permutation: Expr) -> Expr:
        """A product that only this transposition reads is stored transposed."""
        source = permutation.args[0]
        call = self.lookup_binding(source) if isinstance(source, relax.Var) else None
        if op_name(call) != "relax.matmul" or why_no_batch_matmul(call) is not None:
            return permutation
        self.changed += 1
        return lower_batch_matmul(self.builder_, call, self.lookup_binding, self._isa, permutation)

    def _emit_first(
        self, made: Callable[[int], PackedKernel], x: Expr, weight: Array, depth: int
    ) -> Expr:
        """The kernel with the first value of `dot` whose sums are exact with these weights."""
        dots = dot_candidates(str(weight.dtype), depth, self._isa)
        for dot in dots:
            kernel = made(dot)
            if is_exact(kernel.packed, dot, self._isa):
                break
        if len(dots) > 1 and dot == dots[-1]:
            self.widened.append(self._name)
        sums = self._emit(kernel, x)
        if not kernel.shape.offset:
            return sums
        lacking = correction(weight, kernel.shape.offset)
        return relax.op.add(self.builder_.emit(sums), constant(lacking))

    def _offset(self, dot: int, weight: Array) -> int:
        return self._isa.offset if dot == WORD and weight.dtype == "int8" else 0

    def _tiles(
        self, extent: int, channels: int, weight: Array, dot: int, row_bytes: int
    ) -> list[RegisterTile]:
        # other units have tiles of many rows, for which the weights' way does not count
        narrow = uses_maddubs(dot, self._isa) and weight.dtype == "int8"
        return ranked_tiles(
            extent,
            channels,
            self._isa,
            1 if weight.dtype == "bfloat16" else dot,
            row_bytes=row_bytes,
            weight_bytes=weight.size // channels if narrow else 0,
        )

    def _matmul(self, x: Expr, weight: Array, leading: tuple[int, ...]) -> Expr:
        if isinstance(self._isa, Gpu):
            return gpu_matmul(self.builder_, x, weight, leading)
        tiled = tiled_matmul(self.builder_, x, weight, leading, self._isa)
        if tiled is not None:
            return tiled
        depth, columns = weight.shape
        wide = weight.dtype == "bfloat16"
        rows = max(1, math.prod(leading))

        def made(dot: int) -> PackedKernel:
            row_bytes = depth * weight.itemsize
            tiles = self._tiles(rows, columns, weight, dot, row_bytes)
            plans = [KernelPlan(tile) for tile in tiles]
            if self._isa.matrix and weight.dtype == "int8":
                plans = product_plans(rows, depth, columns, tiles, self._isa)
            plan = self._choose(plans)
            tile = plan.tile
            if plan.matrix:
                return matrix_kernel(weight, leading, tile)
            shape = MatmulShape(
                leading, depth, columns, dot, tile.rows, tile.channels, wide,
                self._offset(dot, weight),
            )  # fmt: skip
            return PackedKernel("matmul", matmul, shape, tile, pack_matmul_weight(weight, shape))

        return self._emit_first(made, x, weight, depth)

    def _conv2d(self, call: Expr, weight: Array) -> Expr:
        x, padding, pad_value = self._absorb_pad(call)
        attrs = call.attrs
        strides, dilation = _pair(attrs.strides), _pair(attrs.dilation)
        groups = int(attrs.groups)
        n, h, w, c = shape_of(x)
        kh, kw, _, k = (int(d) for d in weight.shape)
        if (kh, kw, groups) == (1, 1, 1) and strides == (1, 1) and not any(padding):
            return self._matmul(x, weight.reshape(c, k), (n, h, w))
        if isinstance(self._isa, Gpu):
            window = Window((n, h, w, c), (kh, kw), strides, padding, dilation, pad_value)
            return gpu_conv2d(self.builder_, x, weight, window, groups)
        out_width = shape_of(call)[2]
        depthwise = is_depthwise(call)
        if depthwise and weight.dtype == "bfloat16":
            weight = weight.astype("float32")
        wide = weight.dtype == "bfloat16"
        plain = ConvShape(
            n, h, w, c, k, (kh, kw), strides, padding, dilation, groups,
            dot=1, rows=1, block=1, pad_value=pad_value, bfloat16=wide,
        )  # fmt: skip
        tiled = tiled_conv2d(self.builder_, x, weight, plain, self._isa)
        if tiled is not None:
            return tiled

        def made(dot: int) -> PackedKernel:
            # the channels of a group are not padded, so lanes must divide them
            row_bytes = strides[1] * c * weight.itemsize
            tiles = (
                self._tiles(out_width, k, weight, dot, row_bytes)
                if groups == 1
                else channel_tiles(
                    out_width,
                    c if depthwise else k // groups,
                    self._isa,
                    wide=dot > 1 or kh * kw <= _SMALL_FILTER,
                )
            )
            # where there are tile registers, what they leave is too small for transforms
            # TVM refuses the schedule for some batches above 1; the generic rule would be left
            may = self._options.winograd and n == 1 and not (wide and self._isa.amx)
            cores = self._options.target.cores
            plan = self._choose(
                conv_plans(
                    replace(plain, dot=dot), tiles, self._isa, cores, winograd=may,
                    matrix=self._isa.matrix and weight.dtype == "int8" and groups == 1,
                )
            )  # fmt: skip
            if plan.matrix:
                return matrix_conv_kernel(weight, plain, plan.tile)
            if plan.winograd is not None:
                return winograd_kernel(weight, plan.winograd)
            tile = plan.tile
            offset = self._offset(dot, weight)
            shape = replace(plain, dot=dot, rows=tile.rows, block=tile.channels, offset=offset)
            if depthwise:
                packed = pack_depthwise_weight(weight, shape)
                return PackedKernel("depthwise_conv2d", depthwise_conv2d, shape, tile, packed)
            packed = pack_conv2d_weight(weight, shape)
            found = first_layer(x, shape, self.lookup_binding, self._isa)
            if found is not None:
                return first_layer_kernel(shape, tile, packed, *found)
            return PackedKernel("conv2d", conv2d, shape, tile, packed)

        depth = 1 if depthwise else c // groups
        return self._emit_first(made, x, weight, depth)

    def _choose(self, plans: list[KernelPlan]) -> KernelPlan:
        return self._options.plans.choose(self._op, plans)

    def _absorb_pad(self, call: Expr) -> tuple[Expr, tuple[int, int, int, int], int]:
        x = call.args[0]
        top, left, bottom, right = (int(p) for p in call.attrs.padding)
        made = self.lookup_binding(x) if isinstance(x, relax.Var) else None
        if made is None or op_name(made) != "relax.nn.pad" or any((top, left, bottom, right)):
            return x, (top, left, bottom, right), 0
        if dtype_of(x) == "float32" or made.attrs.pad_mode != "constant":
            return x, (0, 0, 0, 0), 0
        width = [int(p) for p in made.attrs.pad_width]
        if any(width[:2]) or any(width[6:]):
            return x, (0, 0, 0, 0), 0
        # pad_width is before, after for each axis of NHWC
        return made.args[0], (width[2], width[4], width[3], width[5]), int(made.attrs.pad_value)

    def _emit(self, made: PackedKernel, x: Expr) -> Expr:
        tile, shape = made.tile, made.shape
        if made.prepare is not None:
            prepared = self.builder_.call_te(
                made.prepare, made.source, primfunc_name_hint="pack_image"
            )
            x = self.builder_.emit(prepared)
        notes = {
            "lepton.lanes": tile.lanes,
            "lepton.vectors": tile.vectors,
            "lepton.rows": tile.rows,
            "lepton.dot": shape.dot,
            "lepton.macs": shape.macs,
        }
        if self._options.tagged:
            notes["lepton.op"] = self._op
        suffix = {"float32": "", "bfloat16": "_bf16"}.get(dtype_of(x), "_int8")
        return self.builder_.call_te(
            lambda a, b: made.kernel(a, b, shape, notes),
            x,
            constant(made.packed),
            primfunc_name_hint=made.name + suffix,
        )


def _notes(widened: list[str]) -> tuple[str, ...]:
    """A note where int8 kernels are slower than the target allows; `widened` are their names."""
    if not widened:
        return ()
    names = ", ".join(widened[:3]) + (", ..." if len(widened) > 3 else "")
    return (
        f"{len(widened)} int8 kernels ({names}) multiply 16-bit factors, because sums of their "
        "byte products can exceed 16 bits; quantize for this target, or with weight_bits=7, to "
        "make them faster",
    )


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second
