"""`load_model`: from a path to a `Model`, one guarded step after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.input_shapes import check_shapes_argument
from lepton_tvm.frontend.model_file import is_model_file, read_model_file
from lepton_tvm.frontend.prepare import PREPARE, Facts
from lepton_tvm.frontend.source import Source, checked_file, read_onnx
from lepton_tvm.model import Model, Step, TensorInfo

if TYPE_CHECKING:
    import tvm

__all__ = ["load_model"]


def load_model(
    path: str | Path,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    name: str | None = None,
) -> Model:
    """Read an ONNX model (opset 9 to 21; newer ones are tried) or a `.lepton` file.

    `shapes` fixes every dynamic dimension, the batch too: `{"input": (1, 3, 224, 224)}`. `name`
    is what reports call the model; the file's name without its suffix by default.

    Raises `ModelError` for a file that cannot be read, a graph that is not valid, weights that are
    not finite or not there, and shapes that are missing or contradict the file; its child
    `UnsupportedModelError` lists every node that cannot be compiled, with the reason.
    """
    wanted = check_shapes_argument(shapes)
    file = checked_file(path)
    if is_model_file(file):
        return _with_name(_check_fixed(read_model_file(file), wanted, file), name)
    # a file's name may be no text, which no database takes
    called = (name or file.stem).encode("utf-8", "replace").decode()
    return _import(read_onnx(file), wanted, called)


def _with_name(model: Model, name: str | None) -> Model:
    import dataclasses

    return model if name is None else dataclasses.replace(model, name=name)


def _check_fixed(model: Model, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Model:
    inputs = {info.name: info.shape for info in model.inputs}
    for name, shape in shapes.items():
        if inputs.get(name) != shape:
            raise ModelError(
                f"cannot give input '{name}' the shape {shape}: '{path}' is a saved model whose "
                f"shapes are fixed: {inputs}; load the ONNX file again with other shapes"
            )
    return model


def _import(source: Source, shapes: Mapping[str, tuple[int, ...]], name: str) -> Model:
    from lepton_tvm.frontend.importer import import_graph, known_operators

    path, sha256 = str(source.path), source.sha256
    facts = Facts(path, shapes, known_operators())
    proto = source.proto
    del source  # else the file's weights stay in memory beside the prepared ones
    for step in PREPARE:
        proto = step(proto, facts)
    module = import_graph(proto, path)
    del proto
    return _canonical(module, (facts.inputs, facts.outputs), name, sha256, shapes, facts.notes)


def _canonical(
    module: tvm.IRModule,
    names: tuple[list[str], list[str]],
    name: str,
    sha256: str,
    shapes: Mapping[str, tuple[int, ...]],
    notes: list[str],
) -> Model:
    from lepton_tvm.passes.graph.canonical import canonical_passes
    from lepton_tvm.passes.quantize.schemes import FLOAT32, INT8

    reports = [{"name": "import-onnx", "notes": notes}]
    for run in canonical_passes():
        module, report = run(module)
        reports.append(report.to_json())
    main = module["main"]
    inputs = [_info(n, var.ty) for n, var in zip(names[0], main.params, strict=True)]
    result = main.ret_ty
    fields = result.fields if hasattr(result, "fields") else [result]
    outputs = [_info(n, ty) for n, ty in zip(names[1], fields, strict=True)]
    options: dict[str, Any] = {"shapes": {k: list(v) for k, v in shapes.items()}}
    scheme = INT8 if _is_quantized(main) else FLOAT32
    if scheme is not FLOAT32:
        options["precision"] = scheme.name
    step = Step("load", options, tuple(reports))
    return Model(
        module, tuple(inputs), tuple(outputs), name, sha256, (step,), precision=scheme.name
    )


def _is_quantized(main: Any) -> bool:
    """Whether somebody else has quantized activations of the model (QDQ form)."""
    from lepton_tvm.ir.graph import definitions, op_name

    return any(op_name(value) == "relax.quantize" for value in definitions(main).values())


def _info(name: str, type_: Any) -> TensorInfo:
    return TensorInfo(name, tuple(int(dim) for dim in type_.shape.values), str(type_.dtype))
