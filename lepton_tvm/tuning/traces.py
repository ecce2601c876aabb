"""MetaSchedule traces as JSON: which of them may be replayed on a kernel."""

from __future__ import annotations

from typing import Any

from lepton_tvm.errors import InputError

__all__ = ["check_trace"]

#: The instructions that a replay may run. Left out are those that let a trace contradict the types
#: and accesses of the kernel it is applied to (UnsafeSetDType, UnsafeHideBufferAccess).
# fmt: off
KINDS = frozenset({
    "AddUnitLoop", "Annotate", "Bind", "Blockize", "CacheIndex", "CacheInplace", "CacheRead",
    "CacheWrite", "ComputeAt", "ComputeInline", "DecomposePadding", "DecomposeReduction",
    "EnterPostproc", "Fuse", "FuseReductionEpilogue", "GetChildBlocks", "GetConsumers",
    "GetLoops", "GetOutputBlocks", "GetProducers", "GetSBlock", "LoopPartition", "Merge",
    "PadEinsum", "Parallel", "RFactor", "ReIndex", "ReadAt", "ReindexCacheRead",
    "ReindexCacheWrite", "Reorder", "ReorderBlockIterVar", "ReverseComputeAt",
    "ReverseComputeInline", "RollingBuffer", "SampleCategorical", "SampleComputeLocation",
    "SamplePartitionedTile", "SamplePerfectTile", "SetScope", "Split", "StorageAlign",
    "Tensorize", "TransformBlockLayout", "TransformLayout", "Unannotate", "Unroll", "Vectorize",
    "WriteAt",
})
# fmt: on
_MAX_INSTRUCTIONS = 10_000
_MAX_ANSWER = 1 << 31
# These annotations make the code generator read source code out of the annotation.
_CODE = ("pragma_import", "import_c", "import_llvm")


def check_trace(trace: Any) -> None:
    """Raise InputError for what is not a trace, or is one that may do more than schedule."""
    parts = trace if isinstance(trace, list) else []
    if len(parts) != 2 or not all(isinstance(part, list) for part in parts):
        raise InputError("a MetaSchedule trace is two lists: instructions and decisions")
    instructions, decisions = parts
    if len(instructions) > _MAX_INSTRUCTIONS or len(decisions) > len(instructions):
        raise InputError(
            f"a trace of {len(instructions)} instructions and {len(decisions)} decisions is not "
            f"replayed; allowed are {_MAX_INSTRUCTIONS}, and no more decisions than instructions"
        )
    for instruction in instructions:
        if not isinstance(instruction, list) or len(instruction) != 4:
            raise InputError("an instruction of a trace is kind, inputs, attributes and outputs")
        kind, _, attributes, _ = instruction
        if kind not in KINDS:
            raise InputError(f"a trace with the instruction {str(kind)[:40]!r} is not replayed")
        if kind == "Annotate" and any(str(a).startswith(_CODE) for a in _flat(attributes)):
            raise InputError("a trace that annotates source code to be compiled is not replayed")
    for decision in decisions:
        _check_decision(decision, instructions)


def _check_decision(decision: Any, instructions: list[Any]) -> None:
    """A decision is the number of a sampling instruction and its answer; TVM does not look."""
    fits = isinstance(decision, list) and len(decision) == 2 and type(decision[0]) is int
    if not fits or not 0 <= decision[0] < len(instructions):
        raise InputError("a decision of a trace is the number of an instruction and its answer")
    if not str(instructions[decision[0]][0]).startswith("Sample"):
        raise InputError("a trace with a decision that no instruction asks for is not replayed")
    if not all(type(value) is int and abs(value) <= _MAX_ANSWER for value in _flat(decision[1])):
        raise InputError("the answer of a decision is an integer, or a list of them")


def _flat(value: Any) -> list[Any]:
    return [v for item in value for v in _flat(item)] if isinstance(value, list) else [value]
