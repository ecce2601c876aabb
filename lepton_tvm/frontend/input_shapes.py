"""Fixing the shapes of a graph's inputs: what the caller said against what the file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lepton_tvm.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["check_shapes_argument", "fix_input_shapes", "user_inputs"]

_EXAMPLE = {1: (128,), 2: (1, 128), 3: (1, 128, 64), 4: (1, 3, 224, 224), 5: (1, 3, 16, 112, 112)}
_KEEPS_SHAPE = frozenset(
    {"Add", "Cast", "Clip", "Div", "Identity", "LeakyRelu", "Mul", "Relu", "Sub", "Transpose"}
)


def user_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller feeds: weights that old files list among the inputs are left out."""
    weights = {t.name for t in graph.initializer}
    weights.update(t.values.name for t in graph.sparse_initializer)
    return [value for value in graph.input if value.name not in weights]


def check_shapes_argument(
    shapes: Mapping[str, Sequence[int]] | None,
) -> dict[str, tuple[int, ...]]:
    """`shapes` as plain tuples of positive ints; anything else is a `ModelError`."""
    if shapes is None:
        return {}
    if not isinstance(shapes, Mapping):
        raise ModelError(
            f"shapes must map input names to shapes, such as {{'input': (1, 3, 224, 224)}}, "
            f"not {type(shapes).__name__}"
        )
    return {str(name): _checked(str(name), shape) for name, shape in shapes.items()}


def _checked(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
        try:
            shape = tuple(shape)
        except TypeError:
            shape = (shape,)  # type: ignore[assignment]
    dims = []
    for dim in shape:
        try:
            value = int(dim.__index__())
        except (AttributeError, TypeError):
            value = 0
        if isinstance(dim, bool) or value < 1:
            raise ModelError(
                f"shape of input '{name}' is {tuple(shape)!r}: every dimension must be a whole "
                "number of at least 1"
            )
        dims.append(value)
    return tuple(dims)


def fix_input_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], path: str
) -> None:
    """Write static shapes into the inputs of `model` and forget every shape derived from them.

    Every dynamic dimension must be given by `shapes`, the batch too: a wrong guess would be a
    model compiled for the wrong work. All problems of all inputs are reported together.
    """
    inputs = user_inputs(model.graph)
    names = [value.name for value in inputs]
    problems = [
        f"the model has no input '{name}'; its inputs are {_listed(names)}"
        for name in shapes
        if name not in names
    ]
    missing = False
    for value in inputs:
        problem, lacks = _input_problem(value, shapes.get(value.name))
        missing |= lacks
        if problem:
            problems.append(problem)
    if problems:
        example = _example(model.graph, inputs, shapes) if missing else ""
        raise ModelError(f"cannot fix the input shapes of '{path}': {'; '.join(problems)}{example}")
    if shapes:
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
    for value in inputs:
        if value.name in shapes:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for dim in shapes[value.name]:
                shape.dim.add().dim_value = dim
            value.type.tensor_type.shape.CopyFrom(shape)


def _input_problem(
    value: onnx.ValueInfoProto, given: tuple[int, ...] | None
) -> tuple[str | None, bool]:
    """What is wrong with one input, if anything, and whether it is a missing shape."""
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        return f"input '{value.name}' is a {kind}; only tensors can be fed", False
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if given is None:
            return f"input '{value.name}' has no shape at all in the file", True
        return None, False
    dims = list(tensor.shape.dim)
    if any(d.WhichOneof("value") == "dim_value" and d.dim_value == 0 for d in dims):
        return f"input '{value.name}' has a dimension of size 0: {_dims_text(dims)}", False
    if given is None:
        free = [f"dimension {i} ({_dim_text(d)})" for i, d in enumerate(dims) if _is_dynamic(d)]
        if not free:
            return None, False
        return f"input '{value.name}' {_dims_text(dims)} has dynamic {_listed(free, '')}", True
    if len(given) != len(dims):
        return (
            f"input '{value.name}' has {len(dims)} dimensions {_dims_text(dims)}, "
            f"but shapes gives {len(given)}: {given}",
            False,
        )
    wrong = [
        f"dimension {i} is {d.dim_value} in the file but {g} in shapes"
        for i, (d, g) in enumerate(zip(dims, given, strict=True))
        if not _is_dynamic(d) and d.dim_value != g
    ]
    if wrong:
        return f"input '{value.name}' {_dims_text(dims)}: {', '.join(wrong)}", False
    return None, False


def _is_dynamic(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return dim.WhichOneof("value") != "dim_value" or dim.dim_value < 0


def _dim_text(dim: onnx.TensorShapeProto.Dimension) -> str:
    if dim.WhichOneof("value") == "dim_param" and dim.dim_param:
        return f"'{dim.dim_param}'"
    return "unnamed" if _is_dynamic(dim) else str(dim.dim_value)


def _dims_text(dims: Sequence[onnx.TensorShapeProto.Dimension]) -> str:
    texts = [_dim_text(d).strip("'") if _is_dynamic(d) else str(d.dim_value) for d in dims]
    return "[" + ", ".join("?" if t == "unnamed" else t for t in texts) + "]"


def _listed(names: Sequence[str], quote: str = "'") -> str:
    return ", ".join(f"{quote}{name}{quote}" for name in names) or "none"


def _example(
    graph: onnx.GraphProto,
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, tuple[int, ...]],
) -> str:
    """A `shapes=` argument that would work, or nearly: known dimensions kept, others guessed."""
    entries, options = [], []
    for value in inputs:
        tensor = value.type.tensor_type
        dims = list(tensor.shape.dim)
        if not tensor.HasField("shape"):
            dims_of = (1, _first_channels(graph, value.name) or 3, 224, 224)
        elif value.name in shapes and len(shapes[value.name]) == len(dims):
            dims_of = shapes[value.name]  # type: ignore[assignment]
        elif not any(_is_dynamic(d) for d in dims):
            continue
        else:
            guess = _EXAMPLE.get(len(dims), (1,) * len(dims))
            dims_of = tuple(  # type: ignore[assignment]
                g if _is_dynamic(d) else int(d.dim_value) for d, g in zip(dims, guess, strict=True)
            )
            if len(dims) == 4 and _is_dynamic(dims[1]):
                channels = _first_channels(graph, value.name)
                dims_of = (dims_of[0], channels or dims_of[1], *dims_of[2:])  # type: ignore[assignment]
        entries.append(f'"{value.name}": {tuple(dims_of)}')
        options.append(f"--shape {value.name}={','.join(map(str, dims_of))}")
    return (
        f"; say which, for example shapes={{{', '.join(entries)}}}, "
        f"on the command line {' '.join(options)}"
    )


def _first_channels(graph: onnx.GraphProto, name: str) -> int | None:
    """The input channels that the first convolution after input `name` wants, where it is plain."""
    weights = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if name not in node.input:
            continue
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in weights:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(weights[node.input[1]].dims[1] * group)
        if node.op_type in _KEEPS_SHAPE - {"Transpose"} and node.output:
            return _first_channels(graph, node.output[0])
    return None
