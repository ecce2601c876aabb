from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir.graph import (
    GraphBuilder,
    bindings_of,
    const_array,
    constant,
    consumers,
    main_of,
    op_name,
    output_of,
    rewrite,
    same_structure,
    scalar_of,
    shape_of,
    with_attrs,
)
from tests.support.graphs import count, graph, named, noise


def test_consumers_count_readers_and_the_output() -> None:
    mod = graph(lambda x: [relax.op.add(relax.op.abs(x), relax.op.abs(x)), x], x=(2,))
    func = main_of(mod)
    readers = consumers(func)
    (x,) = func.params
    assert [op_name(b.value) for b in readers[x]][:2] == ["relax.abs", "relax.abs"]
    add = named(mod, "add")[0].var
    assert len(readers[add]) == 1  # the tuple that is returned


def test_a_returned_value_is_never_single_use() -> None:
    mod = graph(lambda x: [relax.op.abs(x)], x=(2,))
    assert all(readers for readers in consumers(main_of(mod)).values())
    single = graph(relax.op.abs, x=(2,))
    var = bindings_of(main_of(single))[-1].var
    assert [b.var for b in consumers(main_of(single))[var]] == [var]


def test_rewrite_keeps_names_of_what_it_does_not_touch() -> None:
    mod = graph(lambda x: relax.op.abs(relax.op.nn.relu(relax.op.exp(x))), x=(2,))
    names = [b.var.name for b in bindings_of(main_of(mod))]

    def visit(g: GraphBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        return relax.op.sqrt(value.args[0]) if op_name(value) == "relax.nn.relu" else None

    made, changed = rewrite(mod, visit)
    assert changed == 1
    after = {op_name(b.value): b.var.name for b in bindings_of(main_of(made))}
    assert after["relax.exp"] == names[0]
    assert after["relax.sqrt"] == "sqrt_0"
    assert after["relax.abs"] == names[2]
    assert count(mod, "nn.relu") == 1
    assert count(made, "nn.relu") == 0


def test_rewrite_drops_dead_bindings_and_unused_primfuncs() -> None:
    from tvm import topi

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            builder.emit_te(topi.maximum, x, 1.0)
            out = builder.emit_output(relax.op.exp(x))
        builder.emit_func_output(out)
    made, changed = rewrite(builder.get(), lambda g, var, value: None)
    assert changed == 0
    assert len(bindings_of(main_of(made))) == 1
    assert [g.name_hint for g in made.functions] == ["main"]


def test_several_outputs_survive_a_rewrite() -> None:
    mod = graph(lambda x: [relax.op.abs(x), x, relax.op.exp(x)], x=(2,))
    made, _ = rewrite(mod, lambda g, var, value: None)
    assert same_structure(made, rewrite(made, lambda g, var, value: None)[0])
    assert len(output_of(main_of(made)).fields) == 3


def test_nested_expressions_are_bound_one_by_one() -> None:
    mod = graph(relax.op.abs, x=(2, 3))

    def visit(g: GraphBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        x = value.args[0]
        return relax.op.concat([relax.op.exp(x), relax.op.sqrt(relax.op.exp(x))], axis=1)

    made, _ = rewrite(mod, visit)
    names = [b.var.name for b in bindings_of(main_of(made))]
    assert names == ["exp_0", "exp_1", "sqrt_0", "concat_0"]
    assert shape_of(output_of(main_of(made))) == (2, 6)


def test_single_use_sees_through_replaced_bindings() -> None:
    seen: list[bool] = []

    def visit(g: GraphBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if op_name(value) == "relax.abs":
            return relax.op.exp(value.args[0])
        if op_name(value) == "relax.sqrt":
            seen.append(g.single_use(value.args[0]) is not None)
        return None

    rewrite(graph(lambda x: relax.op.sqrt(relax.op.abs(x)), x=(2,)), visit)
    shared = relax.op.abs

    def twice(x: relax.Var) -> list[relax.Expr]:
        builder = relax.BlockBuilder.current()
        y = builder.emit(shared(x))
        return [relax.op.sqrt(y), relax.op.sin(y)]

    rewrite(graph(twice, x=(2,)), visit)
    assert seen == [True, False]


def test_constants_come_back_as_they_went_in() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    back = const_array(constant(array))
    assert back is not None
    np.testing.assert_array_equal(back, array)
    assert scalar_of(constant(np.float32(2.5))) == 2.5
    assert scalar_of(constant(np.zeros((1, 1), np.float32))) == 0.0
    assert scalar_of(constant(array)) is None


def test_with_attrs_replaces_and_refuses() -> None:
    x = relax.Var("x", relax.TensorType((1, 4, 8, 8), "float32"))
    conv = relax.op.nn.conv2d(x, noise(4, 4, 3, 3), padding=1)
    assert [int(p) for p in with_attrs(conv, padding=[0, 0, 0, 0]).attrs.padding] == [0] * 4
    with pytest.raises(CompileError, match=r"no attribute \['pads'\]; it has"):
        with_attrs(conv, pads=[0])


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(CompileError, match="no Relax function named 'main'"):
        main_of(relax.BlockBuilder().get())
    from tvm import tirx

    n = tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 3), "float32"))
    with pytest.raises(CompileError, match="'x' has a symbolic shape"):
        shape_of(x)
    with pytest.raises(CompileError, match="'y' has no known shape"):
        shape_of(relax.Var("y", relax.TensorType(dtype="float32", ndim=2)))
