"""The pipeline and `compile` on small graphs: numbers, what is reported, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_tvm import runtime
from lepton_tvm.compiler import pipeline
from lepton_tvm.compiler.compile import compile, variant_name
from lepton_tvm.compression.preprocess import fold_preprocessing
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.db import open_database
from lepton_tvm.errors import DatabaseError, InputError, TargetError
from lepton_tvm.frontend import load_model
from lepton_tvm.ir.graph import Array, same_structure
from lepton_tvm.model import Model
from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels
from lepton_tvm.passes.lower.name_kernels import NameKernels
from lepton_tvm.targets import ISAS, best_isa, parse_target

RNG = np.random.default_rng(0)
W1 = RNG.standard_normal((8, 3, 3, 3)).astype("float32") * 0.3
W2 = RNG.standard_normal((8, 1, 3, 3)).astype("float32") * 0.3
W3 = RNG.standard_normal((8, 5)).astype("float32") * 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """conv, relu, depthwise conv, add, global pool, dense."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["d"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["d", "r"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 10, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(a, n) for a, n in ((W1, "w1"), (W2, "w2"), (W3, "w3"))],
    )
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return load_model(path)


def picture(seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 3, 10, 12)).astype("float32")


def test_float_and_int8_agree_and_leave_their_input_alone(model: Model, tmp_path: Path) -> None:
    calibration = np.concatenate([picture(s) for s in range(8)])
    quantized = quantize(model, calibration)
    before = [model.module.clone(), quantized.module.clone()]
    nets = [
        runtime.load(compile(m, output=tmp_path / f"{i}.so", db=False).path)
        for i, m in enumerate((model, quantized))
    ]
    assert same_structure(model.module, before[0])
    assert same_structure(quantized.module, before[1])
    wanted, got = (net(picture(3)) for net in nets)
    step = float(np.abs(wanted).max())
    np.testing.assert_allclose(got, wanted, atol=0.05 * step)


def test_every_kernel_has_a_template_and_its_work(model: Model) -> None:
    built = pipeline.build(model.module)
    assert [k.name for k in built.kernels if k.schedule == "default"] == []
    works = {k.op: k.macs for k in built.kernels if k.macs}
    assert works == {
        "conv2d": 10 * 12 * 8 * 27,
        "depthwise_conv2d": 10 * 12 * 8 * 9,
        "matmul": 8 * 5,
    }


def test_int8_kernels_are_integer(model: Model) -> None:
    quantized = quantize(model, np.concatenate([picture(s) for s in range(4)]))
    kernels = pipeline.build(quantized.module).kernels
    assert {k.precision for k in kernels if k.macs} == {"int8"}


@pytest.mark.parametrize(
    ("isa", "floats", "integers"),
    [
        ("sse", {"mul+add"}, {"pmaddwd", "pmaddubsw"}),
        ("avx2", {"fma"}, {"pmaddwd", "pmaddubsw"}),
        ("vnni", {"fma"}, {"vpdpbusd"}),
        ("amx", {"fma"}, {"vpdpbusd", "tdpbusd"}),
    ],
)
def test_kernels_name_their_instruction(
    model: Model, isa: str, floats: set[str], integers: set[str]
) -> None:
    quantized = quantize(model, np.concatenate([picture(s) for s in range(2)]))
    for module, wanted in ((model.module, floats), (quantized.module, integers)):
        kernels = pipeline.lower(module, parse_target(f"x86:{isa}")).kernels
        found = {k.instruction for k in kernels if k.macs > 1000}
        assert found
        assert found <= wanted
        assert {k.instruction for k in kernels if not k.macs} <= {None}


def test_kernels_know_their_bytes(model: Model) -> None:
    kernels = pipeline.lower(model.module, parse_target("native")).kernels
    (dense,) = [k for k in kernels if k.op == "matmul"]
    assert dense.weight_bytes == sum(4 * int(np.prod(s)) for s in dense.input_shapes[1:])
    assert dense.multiplied == dense.macs
    assert dense.bytes == dense.weight_bytes + 4 * (8 + 5)


def test_winograd_carries_out_fewer_products_than_it_counts(tmp_path: Path) -> None:
    weight = RNG.standard_normal((64, 64, 3, 3)).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 56, 56])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 56, 56])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "wide.onnx")
    lowered = pipeline.lower(load_model(tmp_path / "wide.onnx").module, parse_target("x86:avx2"))
    (conv,) = [k for k in lowered.kernels if k.macs]
    assert conv.op == "winograd_conv2d"
    assert conv.macs == 56 * 56 * 64 * 64 * 9
    span = conv.input_shapes[1][0]
    assert conv.multiplied == conv.macs * span**2 // (9 * (span - 2) ** 2) < conv.macs / 2


def test_names_of_kernels_are_short_unique_and_stable(model: Model) -> None:
    lowered = pipeline.lower(model.module, parse_target("native"))
    names = [k.name for k in lowered.kernels]
    assert len(set(names)) == len(names)
    assert {"conv2d_0", "depthwise_conv2d_0", "matmul_0"} <= set(names)
    again, report = NameKernels()(lowered.module)
    assert same_structure(again, lowered.module)
    assert report.changed == len(names)


def test_lowering_reports_what_it_leaves(model: Model) -> None:
    lowered, report = LowerKernels(parse_target("native"))(model.module)
    assert (report.changed, report.skipped) == (3, ())
    again, second = LowerKernels(parse_target("native"))(lowered)
    assert second.changed == 0
    assert same_structure(again, lowered)


def test_folded_preprocessing_takes_the_picture_as_it_is(model: Model) -> None:
    folded = fold_preprocessing(model, mean=(100.0, 110.0, 120.0), std=50.0)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 10, 12, 3)).astype("uint8")
    assert (folded.inputs[0].dtype, folded.inputs[0].shape) == ("uint8", (1, 10, 12, 3))
    scaled = (pixels.astype("float32") - np.array([100, 110, 120], "float32")) / np.float32(50)
    wanted = pipeline.run(model.module, [np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))])[0]
    got = pipeline.run(folded.module, [pixels])[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert [s.name for s in folded.recipe][-1] == "fold_preprocessing"
    quantized = quantize(folded, [{folded.inputs[0].name: pixels}])
    with pytest.raises(InputError, match="is quantized already; fold preprocessing"):
        fold_preprocessing(quantized)


def test_the_same_input_gives_the_same_bytes(model: Model, tmp_path: Path) -> None:
    first = compile(model, output=tmp_path / "a.so", db=False)
    second = compile(model, output=tmp_path / "b.so", db=False)
    assert first.sha256 == second.sha256


def test_compile_records_in_the_database(model: Model, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    made = compile(model, db=url)
    assert made.variant == "float32"
    with open_database(url) as database:
        (stored,) = database.artifacts()
        assert stored.sha256 == made.sha256
        assert database.models()[0].name == "small"
        assert database.artifact_path(stored) == made.path
    assert json.loads(json.dumps(made.to_json()))["sha256"] == made.sha256


def test_variant_names_say_what_was_done(model: Model) -> None:
    quantized = quantize(model, picture())
    assert (variant_name(model), variant_name(quantized)) == ("float32", "int8")


def test_refusals(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere to put the result"):
        compile(model, db=False)
    with pytest.raises(InputError, match="compile takes a Model, found str"):
        compile("model.onnx", db=False, output=tmp_path / "x.so")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match=r"unknown target .z80..*native, x86"):
        compile(model, target="z80", output=tmp_path / "x.so", db=False)
    with pytest.raises(TargetError, match=r"unknown instruction set .sse9..*avx2"):
        compile(model, target="x86:sse9", output=tmp_path / "x.so", db=False)
    assert not (tmp_path / "x.so").exists()


def test_a_read_only_database_is_refused_before_the_work(model: Model, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    open_database(url).close()
    (tmp_path / "log.db").chmod(0o444)
    told: list[str] = []
    with pytest.raises(DatabaseError, match="read-only"):
        compile(model, db=url, progress=told.append)
    assert told == []


def test_native_takes_the_best_that_the_flags_allow() -> None:
    everything = frozenset(f for isa in ISAS.values() for f in isa.flags)
    assert best_isa(everything).name == list(ISAS)[-1]
    assert best_isa(frozenset(ISAS["avx2"].flags)).name == "avx2"
    with pytest.raises(TargetError, match=r"its CPU lacks .*sse4_2"):
        best_isa(frozenset({"ssse3"}))


def test_cores_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_TVM_CORES", "3")
    assert parse_target("x86:avx2").cores == 3
    monkeypatch.setenv("LEPTON_TVM_CORES", "none")
    with pytest.raises(TargetError, match="LEPTON_TVM_CORES is 'none'"):
        parse_target("x86:avx2")
