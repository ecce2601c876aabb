"""Reading and rewriting the one Relax function `main` of a model: bindings, constants, consumers.

Reading is in `reading.py`: `main_of`, `bindings_of`, `output_of`, `consumers`, `definitions`; what
concerns single expressions (`op_name`, `shape_of`, `const_array`, `constant`, ...) in
`expressions.py`; writing in `rewriting.py`: `rewrite` (visit every binding in order) and
`GraphBuilder`. All of it is imported from here.

>>> def visit(g, var, value):          # doctest: +SKIP
...     if op_name(value) != "relax.nn.relu":
...         return None                # keep the binding, with its name
...     return relax.op.clip(value.args[0], 0.0, 6.0)
>>> new_mod, changed = rewrite(mod, visit)   # doctest: +SKIP
"""

from __future__ import annotations

from lepton_tvm.ir.expressions import (
    Array,
    Expr,
    argument_vars,
    const_array,
    constant,
    dtype_of,
    is_constant,
    op_name,
    same_structure,
    scalar_of,
    shape_of,
    short_op,
    substitute,
    with_args,
    with_attrs,
)
from lepton_tvm.ir.reading import bindings_of, consumers, definitions, main_of, output_of
from lepton_tvm.ir.rewriting import (
    GraphBuilder,
    Visit,
    rewrite,
    with_named_outputs,
    with_output,
)

__all__ = [
    "Array",
    "Expr",
    "GraphBuilder",
    "Visit",
    "argument_vars",
    "bindings_of",
    "const_array",
    "constant",
    "consumers",
    "definitions",
    "dtype_of",
    "is_constant",
    "main_of",
    "op_name",
    "output_of",
    "rewrite",
    "same_structure",
    "scalar_of",
    "shape_of",
    "short_op",
    "substitute",
    "with_args",
    "with_attrs",
    "with_named_outputs",
    "with_output",
]
