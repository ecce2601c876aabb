"""The schedule version: a hash of the code that turns the decisions of a kernel into machine code.

It is made for each family of targets and each group of kernels, from the code that they can reach
and from nothing else (see `code_reach`). So it stays what it is when a comment, a docstring, the
text of an error or the name of a file changes, when another family gets a kernel, and when a new
kernel of a new group is added beside the old ones.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lepton_tvm.compiler.code_reach import Code, Definition
from lepton_tvm.targets import FAMILIES

__all__ = ["GROUPS", "group_of", "schedule_version", "schedule_versions"]

_PACKAGE = Path(__file__).resolve().parents[1]
#: The group of kernels without packed weights: the hash of such a kernel covers its loop nest.
PLAIN = "plain"
_LOWER = "passes.lower.kernels"
_VECTORS = f"{_LOWER}.vector_kernels.CpuKernels"
_PRODUCTS = f"{_LOWER}.activation_products.lower_batch_matmul"
# Group -> the lowering of its kernels on CPUs, then on GPUs: which loop nests decisions ask for.
_LOWERING: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "conv2d": (
        (f"{_VECTORS}.conv2d", f"{_LOWER}.amx_kernels.tiled_conv2d"),
        (f"{_LOWER}.gpu_kernels.gpu_conv2d",),
    ),
    "matmul": (
        (
            f"{_VECTORS}.matmul",
            f"{_LOWER}.amx_kernels.tiled_matmul",
            _PRODUCTS,
        ),
        (
            f"{_LOWER}.gpu_kernels.gpu_matmul",
            _PRODUCTS,
        ),
    ),
    PLAIN: ((), ()),
}
#: The groups of kernels that have a version of their own.
GROUPS = tuple(_LOWERING)
_GROUP_IN_NAME = re.compile(r"(conv2d|matmul)(?=\d|_|$)")
_CODE_GENERATION = ("loop_phases", "build_context", "machine_code")
# What is done to a loop nest after its schedule, on CPUs and on GPUs.
_BUILD = {
    False: tuple(f"compiler.build_cpu.{name}" for name in _CODE_GENERATION),
    True: tuple(f"compiler.build_cuda.{name}" for name in _CODE_GENERATION),
}
# Tables of alternatives: what is taken of them is named above, by a family's own rules, or by the
# kernels that use it, so that a row more changes no version.
_TABLES = ("RULES", "FAMILIES", "OPS", "PRECISIONS")
# Branches of the shared lowering that no CPU takes.
_FOR_GPUS = ("gpu_batch_matmul",)


def group_of(name: str) -> str:
    """The group of a kernel by its name in a model: `conv2d_int8_4` is of `conv2d`."""
    found = _GROUP_IN_NAME.search(name)
    return found.group(1) if found else PLAIN


def schedule_version(family: str, group: str, package: Path = _PACKAGE) -> str:
    """12 hex digits for one group of kernels of one family of targets.

    `package` is the folder of the package whose source is read; default: this one.
    """
    return schedule_versions(family, package)[group]


@functools.cache
def schedule_versions(family: str, package: Path = _PACKAGE) -> Mapping[str, str]:
    """The versions of all groups of a family, by group."""
    code = Code(package, "lepton_tvm")
    on_gpu = FAMILIES[family].on_gpu
    stop = _TABLES if on_gpu else (*_TABLES, *_FOR_GPUS)
    shared = ["schedules.apply.apply_schedules", f"targets.{family}._config", *_BUILD[on_gpu]]
    rules = [(_groups_of(code, rule), rule) for rule in _rules(code, family)]
    versions = {}
    for group, lowering in _LOWERING.items():
        roots = [found for path in (*shared, *lowering[on_gpu]) for found in code.find(path)]
        roots += [rule for groups, rule in rules if group in groups]
        versions[group] = _short(code.reach(roots, stop))
    return versions


def _short(digests: set[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:12]


def _rules(code: Code, family: str) -> Iterator[Definition]:
    """The code that makes each rule of a family, in order."""
    for table in code.find(f"schedules.{family}.RULES"):
        value = getattr(table.node, "value", None)
        for element in value.elts if isinstance(value, ast.Tuple) else []:
            yield Definition(table.module, "rule", ast.copy_location(ast.Expr(element), element))


def _groups_of(code: Code, rule: Definition) -> frozenset[str]:
    """What the classes of a rule call `groups`; all groups where they say nothing."""
    found: set[str] = set()
    for one in code.classes(rule, _TABLES):
        for node in one.body:
            target = getattr(node, "target", None)
            if isinstance(node, ast.AnnAssign) and getattr(target, "id", "") == "groups":
                found.update(ast.literal_eval(node.value) if node.value else ())
    return frozenset(found or GROUPS)
