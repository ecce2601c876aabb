"""Which banks of shared memory the threads of a warp meet in, read off a kernel's CUDA source.

An index is an expression of the thread's numbers; it is computed for every thread of a warp.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

__all__ = ["SIZES", "store_conflicts"]

_BANKS, _WARP, _WORD, _WIDEST = 32, 32, 4, 128
_BYTES = {"int": 4, "uint": 4, "uint2": 8, "nv_bfloat164": 8, "float4": 16}
_STORE = re.compile(r"^\s*\*\((\w+)\*\)\((\w+_shared_ptr) \+ (.+?)\) = ", re.MULTILINE)
_ELEMENT = re.compile(r"__shared__ alignas\(\d+\) ([\w ]+?) (\w+_shared_ptr)\[")
#: Bytes of the types in shared memory.
SIZES = {"signed char": 1, "nv_bfloat16": 2, "float": 4, "int": 4}


def store_conflicts(source: str, threads_x: int) -> dict[str, int]:
    """For each operand's buffer: in how many turns a warp's widest store to it is carried out.

    Relative to what its bytes need at least: 1 is free of conflicts. `threads_x`: the extent of
    threadIdx.x.
    """
    sizes = {name: SIZES[kind] for kind, name in _ELEMENT.findall(source) if kind in SIZES}
    names = dict(re.findall(r"int (cse_v\d+) = (.+);", source))
    worst: dict[str, int] = {}
    for kind, buffer, index in _STORE.findall(source):
        if buffer not in sizes:
            continue
        at = [i * sizes[buffer] for i in _indices(index, names, threads_x)]
        worst[buffer] = max(worst.get(buffer, 0), _turns(at, _BYTES[kind]))
    return worst


def _indices(index: str, names: dict[str, str], threads_x: int) -> Iterator[int]:
    for _ in range(len(names)):
        index = re.sub(r"cse_v\d+", lambda m: f"({names[m[0]]})", index)
    code = re.sub(r"\(\(int\)threadIdx\.(\w)\)", r"t\1", index).replace("/", "//")
    loops = set(re.findall(r"\b[a-z_]\w*\b", code)) - {"tx", "ty"}
    compiled = compile(code, "index", "eval")
    for thread in range(_WARP):
        place = {"tx": thread % threads_x, "ty": thread // threads_x}
        yield int(eval(compiled, {}, {**place, **dict.fromkeys(loops, 0)}))


def _turns(addresses: list[int], width: int) -> int:
    """Wide stores go in groups of threads that fill all banks once."""
    group = min(_WARP, _WIDEST // width)
    worst = 1
    for first in range(0, _WARP, group):
        banks = defaultdict(set)
        for address in addresses[first : first + group]:
            for word in range(address // _WORD, (address + width) // _WORD):
                banks[word % _BANKS].add(word)
        worst = max(worst, *(len(words) for words in banks.values()))
    return worst
