"""`compress`: methods, options that fit, recipe, and accuracy kept by refitting from data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compression.prune import METHODS, compress
from lepton_tvm.errors import InputError
from lepton_tvm.ir.cost import macs
from lepton_tvm.ir.graph import Array, Expr, same_structure
from lepton_tvm.model import Model, Step
from tests.support.networks import Net, build, image, model_of, run


def network(n: Net, x: Expr) -> Expr:
    x = n.op("relu", n.conv(x, 16))
    y = n.conv(n.op("relu", n.conv(x, 32)), 16)
    return n.head(n.op("relu", n.op("add", x, y)))


def redundant(n: Net, x: Expr) -> Expr:
    """A hidden layer of 16 channels of which the last 8 are mixtures of the first 8, plus 1."""
    kernel = n.array(1, 1, 8, 16)
    mix = n.array(8, 8)
    kernel[..., 8:] = kernel[..., :8] @ mix
    conv = relax.op.nn.conv2d(x, relax.const(kernel), data_layout="NHWC", kernel_layout="HWIO")
    shift = np.zeros((1, 1, 1, 16), "float32")
    shift[..., 8:] = 1
    x = n.op("add", n.emit("conv2d", conv), relax.const(shift))
    return n.head(n.op("relu", n.conv(x, 8, 1)))


def execute(mod: tvm.IRModule) -> Callable[[Sequence[Array]], list[Array]]:
    """An executor with TVM's stock pipeline."""
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())

    def call(arrays: Sequence[Array]) -> list[Array]:
        found = machine["main"](*(tvm.runtime.tensor(a) for a in arrays))
        return [t.numpy() for t in ([found] if hasattr(found, "numpy") else found)]

    return call


def pictures(count: int, seed: int = 2) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 6, 6, 8)).astype("float32")


def test_magnitude_pruning_is_recorded_and_the_model_stays() -> None:
    model = model_of(build(network))
    before = model.module.clone()
    made = compress(model, method="magnitude", sparsity=0.5)
    assert isinstance(made, Model)
    assert same_structure(model.module, before)
    assert model.recipe == ()
    step = made.report[-1]
    assert step.name == "compress"
    assert step.options == {"method": "magnitude", "sparsity": 0.5, "skip": []}
    assert step.reports[0]["numbers"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert Step.from_json(json.loads(json.dumps(step.to_json()))) == step
    assert made.precision == "float32"


def test_the_old_name_of_magnitude_pruning_works_with_a_warning() -> None:
    model = model_of(build(network))
    with pytest.warns(DeprecationWarning, match="write method='magnitude'"):
        old = compress(model, method="pruning", sparsity=0.5)
    new = compress(model, method="magnitude", sparsity=0.5)
    assert same_structure(old.module, new.module)
    assert old.recipe == new.recipe


def test_threshold_and_skip() -> None:
    made = compress(model_of(build(network)), method="magnitude", threshold=0.05, skip=["conv2d_0"])
    report = made.recipe[-1].reports[0]
    assert {"op": "relax.nn.conv2d", "name": "conv2d_0", "reason": "named in skip"} in (
        report["skipped"]
    )


def test_channels_shrink_and_say_so() -> None:
    model = model_of(build(network))
    made = compress(model, method="channels", ratio=0.5)
    assert macs(made.module) < 0.7 * macs(model.module)
    step = made.recipe[-1]
    assert step.options == {
        "method": "channels",
        "ratio": 0.5,
        "scope": "global",
        "round_to": 8,
        "norm": "l2",
    }
    report = step.reports[0]
    assert report["numbers"]["macs_after"] == macs(made.module)
    assert report["skipped"][-1]["reason"] == "reaches the graph output 'gv'"
    json.dumps(made.to_json())
    assert made.inputs == model.inputs
    assert made.outputs == model.outputs


def test_methods_follow_each_other() -> None:
    made = compress(model_of(build(network)), method="channels", ratio=0.5)
    made = compress(made, method="magnitude", sparsity=0.3)
    assert [s.options["method"] for s in made.recipe] == ["channels", "magnitude"]


def test_redundant_channels_leave_without_a_trace() -> None:
    model = model_of(build(redundant))
    data = {"x": pictures(64)}
    made = compress(
        model, method="channels", ratio=0.5, scope="group", calibration=data, executor=execute
    )
    assert macs(made.module) < macs(model.module)
    x = image(model.module, 9)
    # only the ridge, a hundredth of the variance, keeps the refit from being exact
    expected = run(model.module, x)
    error = np.abs(run(made.module, x) - expected).max() / np.abs(expected).max()
    assert error < 0.02
    blind = compress(model, method="channels", ratio=0.5)
    assert np.abs(run(blind.module, x) - expected).max() > 10 * error * np.abs(expected).max()
    assert made.calibration_sha256 is not None
    assert made.recipe[-1].options["samples"] == 64


def test_data_keeps_the_output_closer_than_weights_alone() -> None:
    model = model_of(build(network))
    seen: list[int] = []
    with_data = compress(
        model,
        method="channels",
        ratio=0.4,
        scope="group",
        calibration=list(pictures(48)[:, None]),
        executor=execute,
        progress=seen.append,
    )
    without = compress(model, method="channels", ratio=0.4, scope="group")
    assert seen == list(range(1, 49))
    assert macs(with_data.module) == macs(without.module)
    float_run, data_run, blind_run = (execute(m.module) for m in (model, with_data, without))
    errors = np.zeros(2)
    for x in pictures(16, 77):
        expected = float_run([x[None]])[0]
        errors += [np.square(f([x[None]])[0] - expected).sum() for f in (data_run, blind_run)]
    assert errors[0] < 0.5 * errors[1]
    refit = with_data.recipe[-1].reports[1]
    assert refit["name"] == "refit-channels"
    assert "conv2d_2" in refit["refitted"]


def test_the_same_data_gives_the_same_model() -> None:
    model = model_of(build(redundant))
    data = {"x": pictures(16)}
    first, second = (
        compress(model, method="channels", ratio=0.5, calibration=data, executor=execute)
        for _ in range(2)
    )
    assert same_structure(first.module, second.module)
    assert first.calibration_sha256 == second.calibration_sha256


def test_the_default_executor_is_the_pipeline() -> None:
    model = model_of(build(redundant))
    made = compress(model, method="channels", ratio=0.5, calibration={"x": pictures(8)})
    assert made.recipe[-1].reports[1]["changed"] >= 1


def quantized() -> Model:
    model = model_of(build(network))
    return dataclasses.replace(model, recipe=(Step("quantize", {}),), precision="int8")


BAD: list[tuple[dict[str, object], str]] = [
    (
        {"method": "clustering"},
        "unknown compression method 'clustering'; known: magnitude, channels",
    ),
    ({"method": "magnitude"}, "method 'magnitude' needs exactly one of threshold="),
    (
        {"method": "magnitude", "threshold": 0.1, "sparsity": 0.5},
        "method 'magnitude' needs exactly one of threshold=",
    ),
    (
        {"method": "magnitude", "ratio": 0.5, "round_to": 8},
        "method 'magnitude' does not take ratio, round_to; "
        "it takes threshold, sparsity, scope, skip",
    ),
    ({"method": "magnitude", "sparsity": 2.0}, r"sparsity is 2\.0, but must be between 0 and 1"),
    (
        {"method": "magnitude", "sparsity": 0.5, "skip": ["conv2d_9"]},
        r"skip names \['conv2d_9'\], but the model has no such layers",
    ),
    ({"method": "channels"}, "method 'channels' needs ratio=, the fraction of channels to remove"),
    (
        {"method": "channels", "threshold": 0.1},
        "method 'channels' does not take threshold; it takes ratio, scope",
    ),
    ({"method": "channels", "ratio": 1.5}, r"ratio is 1\.5, but must be between 0 and 1"),
    (
        {"method": "channels", "ratio": 0.5, "executor": execute},
        "executor= is used with calibration= only",
    ),
    (
        {"method": "channels", "ratio": 0.5, "calibration": {"y": pictures(2)}},
        "'y'",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=range(len(BAD)))
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compress(model_of(build(network)), **options)  # type: ignore[arg-type]


def test_a_quantized_model_is_refused() -> None:
    for method in METHODS:
        with pytest.raises(InputError, match=r"quantized already; compress the float model first"):
            compress(quantized(), method=method, ratio=0.5)


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"compress takes a Model \(see load_model\), found str"):
        compress("model.onnx", method="magnitude")  # type: ignore[arg-type]


def test_activations_that_overflow_are_named() -> None:
    def make(n: Net, x: Expr) -> Expr:
        huge = n.op("multiply", n.conv(x, 16, bias=False), relax.const(np.float32(3e38)))
        return n.head(n.op("multiply", huge, relax.const(np.float32(1e38))))

    message = "the float model computes NaN or infinity at 'mean_0' on a calibration sample"
    with pytest.raises(InputError, match=message):
        compress(
            model_of(build(make)),
            method="channels",
            ratio=0.5,
            calibration={"x": pictures(2)},
            executor=execute,
        )
