"""Turns convolutions and products with constant weights into loop nests over packed weights."""

from __future__ import annotations

from dataclasses import dataclass
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
from lepton_tvm.ir.precisions import BFLOAT16, FLOAT32, suffix_of
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.gemm import Window
from lepton_tvm.kernels.image import Image
from lepton_tvm.kernels.kernel_plan import DEFAULT_PLANS, KernelPlan, Plans
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.lower.kernels.activation_products import (
    keeps_columns,
    lower_batch_matmul,
    why_no_batch_matmul,
)
from lepton_tvm.passes.lower.kernels.amx_kernels import tiled_conv2d, tiled_matmul
from lepton_tvm.passes.lower.kernels.first_layer import first_layer
from lepton_tvm.passes.lower.kernels.gpu_kernels import gpu_conv2d, gpu_matmul
from lepton_tvm.passes.lower.kernels.kernel_types import ANCHORS, check_units, why_no_kernel
from lepton_tvm.passes.lower.kernels.packed_kernel import PackedKernel
from lepton_tvm.passes.lower.kernels.signed_sums import correction, join_additions
from lepton_tvm.passes.lower.kernels.vector_kernels import CpuKernels
from lepton_tvm.passes.quantize.ops import is_depthwise
from lepton_tvm.targets import Level, Target

__all__ = ["LowerKernels"]


@dataclass(frozen=True)
class LowerKernels:
    """Turn convolutions and products with constant weights into loop nests over packed weights.

    Before:  conv2d(x, const HWIO)     float32, bfloat16 -> float32, or uint8 x int8 -> int32
    After:   call_tir(conv2d, (x, const [K/b, KH, KW, C, b]))
    The register tile, which decides the packing, comes from the shape and the target's registers.
    A float 3x3 convolution of stride 1 becomes `winograd_conv2d` where that is estimated to be
    faster, unless `winograd` is False: it rounds more often (see `kernels/winograd.py`).
    Where the target has tile registers and they are estimated to be faster, the geometry and the
    packing are theirs (see `kernels/amx_plan.py`).
    An `nn.pad` of the zero point before an integer convolution is absorbed by the kernel's copy.
    A product of two activations becomes `call_tir(batch_matmul, ...)`, which packs the second one
    at run time, reads both through the reshapes and transpositions before it, and stores its result
    the way a transposition after it asks.
    `plans` decides where several lowerings are possible, and hears which weights a kernel reads.
    For GPUs the nests are those of `lower_gpu`: operands read in place, weights by column.
    Does not handle: convolutions whose weights are not constant, layouts other than NHWC/HWIO,
    other element types; those are left to the generic lowering and reported.

    Raises TargetError for a bfloat16 model where the target has no bfloat16 instructions.
    """

    target: Target
    winograd: bool = True
    plans: Plans = DEFAULT_PLANS
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
        self._kernels = CpuKernels(options.target, options.winograd, self._choose)
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

    def _matmul(self, x: Expr, weight: Array, leading: tuple[int, ...]) -> Expr:
        if self._isa.on_gpu:
            return gpu_matmul(self.builder_, x, weight, leading)
        tiled = tiled_matmul(self.builder_, x, weight, leading, self._isa)
        if tiled is not None:
            return tiled
        kernel, widened = self._kernels.matmul(weight, leading)
        return self._emit(kernel, x, weight, widened)

    def _conv2d(self, call: Expr, weight: Array) -> Expr:
        x, padding, pad_value = self._absorb_pad(call)
        attrs = call.attrs
        strides, dilation = _pair(attrs.strides), _pair(attrs.dilation)
        groups = int(attrs.groups)
        n, h, w, c = shape_of(x)
        kh, kw, _, k = (int(d) for d in weight.shape)
        if (kh, kw, groups) == (1, 1, 1) and strides == (1, 1) and not any(padding):
            return self._matmul(x, weight.reshape(c, k), (n, h, w))
        if self._isa.on_gpu:
            window = Window((n, h, w, c), (kh, kw), strides, padding, dilation, pad_value)
            return gpu_conv2d(self.builder_, x, weight, window, groups)
        depthwise = is_depthwise(call)
        if depthwise and weight.dtype == BFLOAT16.weight:
            weight = weight.astype(FLOAT32.weight)
        plain = ConvShape(
            n, h, w, c, k, (kh, kw), strides, padding, dilation, groups,
            dot=1, rows=1, block=1, pad_value=pad_value, bfloat16=weight.dtype == BFLOAT16.weight,
        )  # fmt: skip
        tiled = tiled_conv2d(self.builder_, x, weight, plain, self._isa)
        if tiled is not None:
            return tiled

        def image_of(shape: ConvShape) -> tuple[Expr, Image] | None:
            return first_layer(x, shape, self.lookup_binding, self._isa)

        kernel, widened = self._kernels.conv2d(weight, plain, depthwise, image_of)
        return self._emit(kernel, x, weight, widened)

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

    def _emit(self, made: PackedKernel, x: Expr, weight: Array, widened: bool) -> Expr:
        if widened:
            self.widened.append(self._name)
        suffix = suffix_of(dtype_of(x))
        if made.prepare is not None:
            prepared = self.builder_.call_te(
                made.prepare, made.source, primfunc_name_hint="pack_image"
            )
            x = self.builder_.emit(prepared)
        weights = constant(made.packed)
        self._options.plans.packed(self._op, weights)
        sums = self.builder_.call_te(
            lambda a, b: made.kernel(a, b, made.shape, made.tile),
            x,
            weights,
            primfunc_name_hint=made.name + suffix,
        )
        if not made.shape.offset:
            return sums
        lacking = correction(weight, made.shape.offset)
        return relax.op.add(self.builder_.emit(sums), constant(lacking))


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
