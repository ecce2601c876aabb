"""`lepton-tvm inspect`: what a model or an artifact holds, without running it, and the passes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_tvm.cli.command import Output, command, new_app
from lepton_tvm.cli.options import Json
from lepton_tvm.errors import InputError, ModelError

__all__ = ["app"]

app = new_app()

FileArg = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="A .so, .lepton or .onnx file.")
]
Passes = Annotated[
    bool, typer.Option("--passes", help="List every pass with its options instead of a file.")
]


@command(app, "inspect", example="lepton-tvm inspect model.so")
def inspect(file: FileArg = None, passes: Passes = False, as_json: Json = False) -> Output:
    """Show inputs, outputs, recipe, target and kernels of a file.

    With --passes, list the passes that models go through."""
    if passes:
        return _inspect_passes(file)
    if file is None:
        raise InputError(
            "there is nothing to inspect; name a .so, .lepton or .onnx file, "
            "or give --passes to list the passes"
        )
    if file.suffix == ".onnx":
        data = inspect_onnx(file)
        return Output(data, _onnx_text(data))
    if file.suffix == ".lepton":
        from lepton_tvm.frontend import load_model

        data = {"kind": "model", "file": str(file), **load_model(file).to_json()}
        return Output(data, _model_text(data))
    from lepton_tvm.artifact import read_manifest

    data = {
        "kind": "artifact",
        "file": str(file),
        **read_manifest(file),
        "size_bytes": file.stat().st_size,
    }
    if data.get("gpu") is not None:
        data["machine_code"] = _machine_code(file)
    return Output(data, _artifact_view(data))


def _inspect_passes(file: Path | None) -> Output:
    from lepton_tvm.cli.pass_list import list_passes, passes_view

    if file is not None:
        raise InputError(f"--passes lists passes and takes no file; leave out {file} or --passes")
    data = list_passes()
    return Output(data, lambda: passes_view(data))


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Inputs, outputs, opset and operators of an ONNX file; its weights are not read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"model file {path} does not exist") from error
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(f"cannot read {path} as ONNX: {error}") from error
    if not proto.graph.node:
        raise ModelError(f"{path} holds no ONNX graph: the file is empty or of another kind")
    weights = {w.name for w in proto.graph.initializer}
    return {
        "kind": "onnx",
        "file": str(path),
        "name": proto.graph.name,
        "opset": {(o.domain or "ai.onnx"): o.version for o in proto.opset_import},
        "producer": proto.producer_name,
        "inputs": [_value(v) for v in proto.graph.input if v.name not in weights],
        "outputs": [_value(v) for v in proto.graph.output],
        "parameters": sum(_count(w.dims) for w in proto.graph.initializer),
        "operators": dict(Counter(n.op_type for n in proto.graph.node).most_common()),
    }


def _value(info: Any) -> dict[str, Any]:
    import onnx

    tensor = info.type.tensor_type
    dims = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
    names = onnx.TensorProto.DataType
    return {"name": info.name, "shape": dims, "dtype": names.Name(tensor.elem_type).lower()}


def _count(dims: Any) -> int:
    total = 1
    for d in dims:
        total *= int(d)
    return total


def _tensors(title: str, tensors: list[dict[str, Any]]) -> list[str]:
    return [f"{title:<12}{t['name']} {t['dtype']} {t['shape']}" for t in tensors]


def _onnx_text(data: dict[str, Any]) -> str:
    opset = ", ".join(f"{k} {v}" for k, v in data["opset"].items())
    operators = ", ".join(f"{k} {v}" for k, v in data["operators"].items())
    return "\n".join(
        [
            f"ONNX model  {data['name']}, opset {opset}, made by {data['producer'] or 'unknown'}",
            *_tensors("input", data["inputs"]),
            *_tensors("output", data["outputs"]),
            f"parameters  {data['parameters']}",
            f"operators   {operators}",
        ]
    )


def _steps(recipe: list[dict[str, Any]]) -> list[str]:
    lines = []
    for step in recipe:
        options = ", ".join(f"{k}={v}" for k, v in step["options"].items())
        lines.append(f"{'step':<12}{step['name']}({options})")
    return lines


def _model_text(data: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"model       {data['name']}, {data['precision']}, from sha256 {data['source_sha256']}",
            *_tensors("input", data["inputs"]),
            *_tensors("output", data["outputs"]),
            *_steps(data["recipe"]),
        ]
    )


def _machine_code(file: Path) -> dict[str, dict[str, Any]]:
    """What a launch of each kernel takes, by architecture."""
    from lepton_tvm.artifact.cubin import cubins

    fields = ("threads", "registers", "shared_bytes", "local_bytes")
    return {
        cubin.arch: {
            name: {field: getattr(kernel, field) for field in fields}
            for name, kernel in cubin.kernels.items()
        }
        for cubin in cubins(file.read_bytes())
    }


def _needs(data: dict[str, Any]) -> str:
    gpu = data.get("gpu")
    if gpu is None:
        return " ".join(data["cpu_features"])
    least = divmod(int(gpu["capability"]), 10)
    return (
        f"an NVIDIA GPU of compute capability {least[0]}.{least[1]} or newer "
        f"(machine code for {', '.join(gpu['archs'])})"
    )


def _artifact_view(data: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    head = [
        f"artifact    {data['name']}, {data['precision']}, {data['size_bytes']} bytes",
        f"target      {data['target']}, {data['arch']}; needs {_needs(data)}",
        f"versions    {versions}",
        *_tensors("input", data["inputs"]),
        *_tensors("output", data["outputs"]),
        *_steps(data["recipe"]),
    ]
    table = Table("kernel", "op", "precision", "isa", "instruction", "multiply-adds", "schedule")
    for kernel in data["kernels"]:
        fields = ("name", "op", "precision", "isa", "instruction", "macs", "schedule")
        table.add_row(*("" if kernel.get(f) is None else str(kernel[f]) for f in fields))
    return Group("\n".join(head), table, *_code_tables(data))


def _code_tables(data: dict[str, Any]) -> list[Any]:
    """For each architecture of a GPU: threads of a block, registers of a thread, bytes."""
    from rich.table import Table

    tables = []
    for arch, kernels in data.get("machine_code", {}).items():
        table = Table(f"machine code, {arch}", "threads", "registers", "shared", "local (spilled)")
        for name, figures in kernels.items():
            table.add_row(name, *map(str, figures.values()))
        tables.append(table)
    return tables
