"""What the manifest says of each kernel: its op, precision, work and the rule that scheduled it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import tvm
from tvm import tirx

from lepton_tvm.compiler.fused_kernels import anchor_notes, kernel_calls
from lepton_tvm.ir.graph import dtype_of, is_constant, shape_of
from lepton_tvm.ir.instructions import dot_instruction
from lepton_tvm.ir.precisions import INT8, reading
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.schedules.apply import Applied
from lepton_tvm.schedules.x86.amx import AmxProduct
from lepton_tvm.targets import Target

__all__ = ["KernelInfo", "describe_kernels"]

_FLOATS = ("float32", "float16", "float64", "bfloat16")


@dataclass(frozen=True)
class KernelInfo:
    """One call of a kernel: name of its function, op, precision, ISA, work and shapes.

    `precision` is `int8` when all tensors that the kernel computes its main result from are
    integers, `bfloat16` or `float32` when they are these, `mixed` where integer tensors are turned
    to or from floats without a reduction (the edges of a quantized region). `schedule` is the rule
    that made it, `default` where none fitted. `isa` is the target's; for x86:amx, `amx` stands only
    at kernels that use the tiles. `calls` counts how often it runs per inference.
    `instruction` is what multiplies and adds (None where nothing does, or integers one by one),
    `bytes` the size of all tensors of a call, `weight_bytes` that of the constants among them.
    `macs` are the multiply-adds of the op, `multiplied` those that are carried out: fewer with
    Winograd's method. `decisions` are the choices of a search that differ from the analytical ones;
    empty where nothing was tuned.
    """

    name: str
    op: str
    precision: str
    isa: str
    macs: int
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    schedule: str
    calls: int = 1
    instruction: str | None = None
    bytes: int = 0
    weight_bytes: int = 0
    multiplied: int = 0
    decisions: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        made = asdict(self)
        made["input_shapes"] = [list(s) for s in self.input_shapes]
        made["output_shape"] = list(self.output_shape)
        return made


def describe_kernels(
    mod: tvm.IRModule,
    scheduled: tvm.IRModule,
    applied: Sequence[Applied],
    target: Target,
    decisions: Mapping[str, Mapping[str, int]] | None = None,
) -> tuple[KernelInfo, ...]:
    """The kernels of a fused module, and of the same scheduled, in the order of their first calls.

    Calls are those of `main`; `decisions` are the tuned ones, by function.
    """
    rules = {a.function: a.rule for a in applied}
    calls: dict[str, int] = {}
    constants: dict[str, int] = {}
    for name, arguments in kernel_calls(mod):
        calls[name] = calls.get(name, 0) + 1
        constants[name] = _constant_bytes(arguments)
    made = []
    for name, count in calls.items():
        info = _describe(name, mod[name], rules.get(name), target, count)
        instruction = _instruction(info, scheduled[name], target)
        made.append(
            replace(
                info,
                instruction=instruction,
                weight_bytes=constants[name],
                decisions=dict((decisions or {}).get(name, {})),
            )
        )
    return tuple(made)


def _constant_bytes(arguments: Any) -> int:
    """The size of the constants among the arguments of a call."""
    values = [a for a in getattr(arguments, "fields", [arguments]) if is_constant(a)]
    return sum(_bytes(dtype_of(v), shape_of(v)) for v in values)


def _bytes(dtype: Any, shape: Sequence[int]) -> int:
    kind = tvm.runtime.DataType(str(dtype).removeprefix("T."))
    return math.prod(shape) * int(kind.itemsize)


def _instruction(info: KernelInfo, func: tirx.PrimFunc, target: Target) -> str | None:
    if not info.macs:
        return None
    fused = {"fma": "fma", "asimd": "fmla"}
    plain = next((name for flag, name in fused.items() if flag in target.features), "mul+add")
    if target.on_gpu:
        plain = "fma"
    return dot_instruction(func) or (None if info.precision == INT8.name else plain)


def _describe(
    name: str, func: tirx.PrimFunc, rule: str | None, target: Target, calls: int
) -> KernelInfo:
    buffers = [p for p in func.params if hasattr(p, "shape")]
    shapes = [tuple(int(d) for d in b.shape) for b in buffers]
    anchor = anchor_notes(func)
    macs = anchor.macs if anchor else 0
    op = anchor.kernel if anchor else _stem(name)
    precision = _precision(buffers, anchor)
    return KernelInfo(
        name, op, precision, _isa(rule, precision, target), macs,
        tuple(shapes[:-1]), shapes[-1], rule or "default", calls,
        multiplied=_multiplied(op, macs, shapes),
        bytes=sum(_bytes(b.dtype, shape) for b, shape in zip(buffers, shapes, strict=True)),
    )  # fmt: skip


def _isa(rule: str | None, precision: str, target: Target) -> str:
    """The target's, but on a target with tiles only the kernels that use them are called so."""
    if not target.level.amx or rule == AmxProduct.name:
        return target.isa
    return "bf16" if precision == "bfloat16" else "vnni"


def _precision(buffers: Sequence[Any], anchor: KernelNotes | None) -> str:
    if anchor is not None:
        return _name_of(anchor.operand.removesuffix("x4"))
    types = [str(b.dtype).removeprefix("T.") for b in (buffers[0], buffers[-1])]
    floats = [t in _FLOATS for t in types]
    if all(floats):
        return types[-1]
    return "mixed" if any(floats) else _name_of(types[-1])


def _name_of(dtype: str) -> str:
    """What computing on values of a type is called."""
    precision = reading(dtype)
    return dtype if precision is None else precision.name


def _multiplied(op: str, macs: int, shapes: Sequence[tuple[int, ...]]) -> int:
    """Winograd's tiles of n x n outputs take (n + 2)^2 products in place of 9 n^2."""
    if op != "winograd_conv2d":
        return macs
    span = shapes[1][0]
    return macs * span**2 // (9 * (span - 2) ** 2)


def _stem(name: str) -> str:
    return re.sub(r"_?\d+$", "", name.removeprefix("fused_"))
