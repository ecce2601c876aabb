"""Says how close the hot loops of ARM kernels come to the multiply-add peak, by LLVM's model.

    apt-get install llvm-19                    # brings llvm-mca-19
    python tools/arm_cost.py model.onnx --cpu cortex-a76 --precision int8
    python tools/arm_cost.py model.onnx --cpu cortex-a53 --cpu neoverse-v1 --kernels

Every kernel of the model is compiled for `arm:CPU`. Two blocks of its assembly are repeated by
`llvm-mca`, LLVM's machine-code analyser, on its scheduling model of that processor: the one that
multiplies most, which is the innermost loop, and the one that stores most, which is the epilogue;
where the depth is unrolled whole they are one. The share of the peak counts as often as a kernel
must run both to multiply and to store everything once. The peak is the same model's answer for
nothing but multiply-adds on independent registers. So this is what LLVM believes of the processor
with everything in the first-level cache: no measurement, and no tails, copies or transforms. int8
is quantized with random data, which changes no instruction.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tvm

from lepton_tvm import load_model, quantize
from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.compiler.pipeline import lower
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import Model
from lepton_tvm.targets import Target, parse_target

#: Processor -> the one whose scheduling model stands for it: LLVM 19 has no other for these cores.
MODELS = {
    "cortex-a53": "cortex-a53",
    "cortex-a55": "cortex-a55",
    "cortex-a72": "cortex-a57",
    "cortex-a76": "neoverse-n1",
    "neoverse-n1": "neoverse-n1",
    "neoverse-n2": "neoverse-n2",
    "neoverse-v1": "neoverse-v1",
    "neoverse-v2": "neoverse-v2",
}
#: Instructions that a core takes in each cycle, where LLVM's model lets more micro-operations in.
DISPATCH = {"neoverse-n1": 4, "neoverse-n2": 5, "neoverse-v1": 8, "neoverse-v2": 8}
# Older ones take another core's model for the Neoverse processors.
_OLDEST, _NEWEST = 19, 25
_ITERATIONS = 100
# Instruction and its first operand -> multiply-adds.
_MULTIPLY_ADDS = {
    r"(us|s|u)mmla v\d+\.4s": 32,
    r"(us|su|s|u)dot v\d+\.4s": 16,
    r"(us|su|s|u)dot v\d+\.2s": 8,
    r"(s|u)(mull|mlal)2? v\d+\.8h": 8,
    r"(s|u)(mull|mlal)2? v\d+\.4s": 4,
    r"(fmla|fmls|mla) v\d+\.4s": 4,
    r"(fmla|fmls|mla) v\d+\.2s": 2,
    r"(fmadd|fmsub|madd) [swx]\d+": 1,
}
# A store that is no spill, by its registers or the lanes of some -> bytes.
_STORE = re.compile(r"(stp|stu?r[bh]?|st[1-4])\s+(\{[^}]*\}\[?|[bhsdqwx])(?!.*\[sp)")
_STORED = {"b": 1, "h": 2, "s": 4, "d": 8, "q": 16, "w": 4, "x": 8}
# What multiplies 16 (in float32 4) pairs into independent sums in the fewest instructions.
_PEAKS = {
    "fmla": ["fmla v{0}.4s, v31.4s, v30.4s"],
    "sdot": ["sdot v{0}.4s, v31.16b, v30.16b"],
    "usdot": ["usdot v{0}.4s, v31.16b, v30.16b"],
    "usmmla": ["usmmla v{0}.4s, v31.16b, v30.16b"],
    "smull": [
        "smull v{1}.8h, v31.8b, v30.8b",
        "smlal2 v{1}.8h, v31.16b, v30.16b",
        "sadalp v{0}.4s, v{1}.8h",
    ],
}


class Missing(Exception):
    """There is no analyser here, or it does not know a processor; the message says what to do."""


@dataclass(frozen=True)
class Cost:
    """One kernel on one processor: cycles are those of a round of its hot block.

    `loops` is False where that is no loop of its own. `peak` is in multiply-adds per cycle; `macs`
    are those of the whole kernel in an inference, `store_cycles` what its epilogue takes where
    that is another block.
    """

    name: str
    schedule: str
    instruction: str
    macs: int
    instructions: int
    multiply_adds: int
    loops: bool
    cycles: float
    store_cycles: float
    peak: float

    @property
    def rate(self) -> float:
        """Multiply-adds per cycle of the hot block."""
        return self.multiply_adds / self.cycles

    @property
    def total(self) -> float:
        """Cycles of the kernel in an inference."""
        return self.macs / self.rate + self.store_cycles

    @property
    def share(self) -> float:
        """Of the peak, over both blocks."""
        return self.macs / self.peak / self.total


def analyser() -> str:
    """The newest `llvm-mca` in PATH; raises Missing where there is none that knows the models."""
    for version in range(_NEWEST, _OLDEST - 1, -1):
        if shutil.which(f"llvm-mca-{version}"):
            return f"llvm-mca-{version}"
    if shutil.which("llvm-mca"):
        told = subprocess.run(["llvm-mca", "--version"], capture_output=True, text=True).stdout
        found = re.search(r"version (\d+)", told)
        if found and int(found[1]) >= _OLDEST:
            return "llvm-mca"
    raise Missing(
        f"llvm-mca of LLVM {_OLDEST} or newer is missing (Debian: apt-get install llvm-{_OLDEST})"
    )


def cycles(loops: Sequence[str], cpu: str) -> list[float]:
    """Cycles that one round of each piece of assembly takes when it is repeated."""
    marked = [f"# LLVM-MCA-BEGIN\n{loop or 'nop'}\n# LLVM-MCA-END\n" for loop in loops]
    command = [
        analyser(), "-mtriple=aarch64-linux-gnu", f"-mcpu={MODELS[cpu]}",
        "-mattr=+dotprod,+i8mm", f"-iterations={_ITERATIONS}", "-json",
        f"-dispatch={DISPATCH.get(MODELS[cpu], 0)}",  # 0: the model's own
    ]  # fmt: skip
    done = subprocess.run(command, input="".join(marked), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    regions = json.loads(done.stdout)["CodeRegions"]
    return [region["SummaryView"]["TotalCycles"] / _ITERATIONS for region in regions]


def multiply_adds(code: str) -> int:
    """How many pairs of numbers `code` multiplies and adds."""
    found = 0
    for line in code.splitlines():
        plain = " ".join(line.split())
        found += next((n for p, n in _MULTIPLY_ADDS.items() if re.match(p + r"\b", plain)), 0)
    return found


def stored_bytes(code: str) -> int:
    """How many bytes `code` stores elsewhere than on the stack."""
    total = 0
    for found in filter(None, map(_STORE.match, code.splitlines())):
        name, kind = found.groups()
        for lanes, element in re.findall(r"v\d+\.(\d*)([bhsd])", kind):
            total += int(lanes or 1) * _STORED[element]
        if kind in _STORED:
            size = _STORED[name[-1]] if name[-1] in "bh" else _STORED[kind]
            total += 2 * size if name == "stp" else size
    return total


def hot_block(assembly: str) -> tuple[str, bool]:
    """The block of most multiply-adds, and whether it is a loop: of equal ones, one that is."""
    return max(_blocks(assembly), key=lambda block: (multiply_adds(block[0]), block[1]))


def store_block(assembly: str) -> str:
    """The block that stores most bytes."""
    return max(_blocks(assembly), key=lambda block: stored_bytes(block[0]))[0]


def _blocks(assembly: str) -> Iterator[tuple[str, bool]]:
    parts = re.split(r"^(\.?[\w.$]+):.*$", assembly, flags=re.M)
    for label, body in zip(parts[1::2], parts[2::2], strict=True):
        jump = re.search(rf"\tb\.\w+\t{re.escape(label)}\b", body)
        if jump:
            yield _instructions(body[: jump.end()]), True
        yield _instructions(body[jump.end() :] if jump else body), False


def _instructions(block: str) -> str:
    """`block` without directives, comments and jumps."""
    lines = (line.split("//")[0].strip() for line in block.splitlines())
    kept = [x for x in lines if x and not re.match(r"\.|(b|bl|blr|br|ret|cbn?z|tbn?z)\b", x)]
    return "\n".join(kept)


def peaks(cpu: str) -> dict[str, float]:
    """Multiply-adds per cycle of each instruction on `cpu`, by `llvm-mca`."""
    loops = {
        name: "\n".join(line.format(i, 15 + i) for line in lines for i in range(15))
        for name, lines in _PEAKS.items()
    }
    taken = cycles(list(loops.values()), cpu)
    return {n: multiply_adds(x) / c for (n, x), c in zip(loops.items(), taken, strict=True)}


def costs(model: Model, cpu: str) -> list[Cost]:
    """The kernels of `model` that multiply and add, compiled for `arm:CPU`."""
    target = parse_target(f"arm:{cpu}")
    lowered = lower(model.module, target)
    named = [k for k in lowered.kernels if k.macs and k.instruction]
    sources = [_assembly(lowered.module[k.name], target) for k in named]
    hot, storing = [hot_block(s) for s in sources], [store_block(s) for s in sources]
    taken, best = cycles([code for code, _ in hot] + storing, cpu), peaks(cpu)
    integer = _integer_peak(target)
    made = []
    for k, (code, loops), store, n, m in zip(
        named, hot, storing, taken[: len(hot)], taken[len(hot) :], strict=True
    ):
        size = tvm.DataType(
            str(lowered.module[k.name].params[-1].dtype).removeprefix("T.")
        ).itemsize
        if not stored_bytes(store):
            raise RuntimeError(f"no block of {k.name} stores anything")
        rounds = math.prod(k.output_shape) * size * k.calls / stored_bytes(store)
        made.append(
            Cost(
                k.name, k.schedule, k.instruction or "", k.macs * k.calls, len(code.splitlines()),
                multiply_adds(code), loops, n, 0 if store == code else m * rounds,
                best["fmla" if k.instruction == "fmla" else integer],
            )
        )  # fmt: skip
    return made


def _integer_peak(target: Target) -> str:
    level = target.level
    return "usmmla" if level.mmla else "sdot" if level.dot4 else "smull"


def _assembly(func: Any, target: Target) -> str:
    built = build_kernels(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target)
    return str(built.mod.inspect_source("asm"))


def whole(made: Sequence[Cost]) -> float:
    """The share of the peak over all kernels."""
    return sum(c.macs / c.peak for c in made) / sum(c.total for c in made)


def _lines(cpu: str, made: Sequence[Cost], kernels: bool) -> Iterator[str]:
    total = sum(c.total for c in made) / 1e6
    yield (
        f"arm:{cpu} (LLVM's model of {MODELS[cpu]}): {total:.2f} million "
        f"cycles, {whole(made):.0%} of the peak"
    )
    if not kernels:
        return
    for c in sorted(made, key=lambda c: -c.total):
        yield (
            f"  {c.name[:32]:32} {c.schedule[4:18]:14} {c.instruction:6} {c.macs / 1e6:6.1f} M  "
            f"{c.multiply_adds:4} in {c.instructions:3}, {c.rate:5.1f} of {c.peak:5.1f} a cycle; "
            f"{c.total / 1e3:7.0f} k cycles, {c.store_cycles / c.total:3.0%} in the epilogue; "
            f"{c.share:4.0%}"
        )


def _model(path: str, precision: str, shapes: Sequence[str]) -> Model:
    fixed = {n: tuple(map(int, d.split(","))) for n, _, d in (s.partition("=") for s in shapes)}
    model = load_model(path, shapes=fixed)
    return model if precision == "float32" else quantize(model, [random_inputs(model.inputs, 0)])


def main() -> int:
    """Prints the table, or one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an ONNX file")
    parser.add_argument("--shape", action="append", default=[], help="NAME=1,3,224,224")
    parser.add_argument("--cpu", action="append", choices=list(MODELS), help="default: all")
    parser.add_argument("--precision", choices=["float32", "int8"], default="float32")
    parser.add_argument("--kernels", action="store_true", help="a line for every kernel")
    parser.add_argument("--json", action="store_true", help="one JSON object with every kernel")
    asked = parser.parse_args()
    try:
        analyser()
        model = _model(asked.model, asked.precision, asked.shape)
        made = {cpu: costs(model, cpu) for cpu in asked.cpu or MODELS}
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    if asked.json:
        told = {
            cpu: {
                "peak_share": whole(found),
                "kernels": [{**asdict(c), "total": c.total} for c in found],
            }
            for cpu, found in made.items()
        }
        print(json.dumps({"analyser": analyser(), "cpus": told}))
        return 0
    for cpu, found in made.items():
        print("\n".join(_lines(cpu, found, asked.kernels)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
