"""What is uint8 between kernels stays uint8 in memory."""

from __future__ import annotations

from typing import Any

from tvm import relax

from lepton_tvm.ir import graph as g
from lepton_tvm.passes.lower.int8.store_uint8 import drop_outputs, return_stored, stored_outputs
from tests.support.quantized_calls import IN, OUT, lowered, q, quantized_conv
from tests.support.quantized_graphs import Net, net


def _shortcut(n: Net, x: Any) -> Any:
    side = q(n, quantized_conv(n, x), OUT)
    return q(n, n.relu(n.op(relax.op.add(quantized_conv(n, x, seed=2), side))), OUT)


def test_a_shortcut_is_returned_while_fusion_runs_and_dropped_after() -> None:
    module = lowered(net(_shortcut), 2)
    returned = return_stored(module)
    count = stored_outputs(returned)
    outputs = g.output_of(g.main_of(returned)).fields
    assert count == 2  # the shortcut, and what the output is made of
    assert [g.dtype_of(o) for o in outputs] == ["float32", "uint8", "uint8"]
    assert g.same_structure(drop_outputs(returned), module)


def test_a_mean_reads_uint8() -> None:
    module = lowered(
        net(lambda n, x: n.op(relax.op.mean(q(n, n.relu(quantized_conv(n, x)), OUT), [1, 2]))), 2
    )
    assert stored_outputs(return_stored(module)) == 1


def test_what_other_kernels_read_as_uint8_needs_no_help() -> None:
    module = lowered(net(lambda n, x: n.relu(quantized_conv(n, q(n, quantized_conv(n, x), IN)))), 2)
    assert return_stored(module) is module
    assert stored_outputs(module) == 0
    assert drop_outputs(module) is module


def test_several_outputs_keep_their_order() -> None:
    def write(n: Net, x: Any) -> Any:
        return n.op(relax.op.tanh(x)), _shortcut(n, x), n.op(relax.op.sigmoid(x))

    module = lowered(net(write), 2)
    returned = return_stored(module)
    count = stored_outputs(returned)
    assert len(g.output_of(g.main_of(returned)).fields) == 3 + count
    assert g.same_structure(drop_outputs(returned), module)
