"""Graph simplification by onnxslim, made quiet and made optional."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["quiet", "slim"]


@contextlib.contextmanager
def quiet(*loggers: str):  # type: ignore[no-untyped-def]
    """Keep prints, warnings and log records of third-party code away from the user's terminal.

    Results go to stdout, and `--json` promises exactly one object there.
    """
    before = [(logging.getLogger(name), logging.getLogger(name).disabled) for name in loggers]
    for logger, _ in before:
        logger.disabled = True
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in before:
            logger.disabled = disabled


def slim(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Simplify a graph whose constants are folded: fusions, dead and duplicate nodes, tied weights.

    Returns the simplified model and a note for the report. If onnxslim fails on the graph, or gives
    one with other inputs or outputs, the model is returned as it came, and the note says so.
    Constant folding is left out: onnxslim does it with ONNX Runtime, which may not be installed.
    """
    before = len(model.graph.node)
    try:
        with quiet("onnxslim"):
            import onnxslim

            slimmed = onnxslim.slim(
                model, skip_optimizations=["constant_folding"], no_shape_infer=True
            )
    except Exception as error:  # a simplifier's failure of any kind must not cost the import
        reason = (str(error).splitlines() or [""])[0]
        return model, f"not simplified: onnxslim failed ({type(error).__name__}: {reason})"
    if slimmed is None or not _same_interface(model.graph, slimmed.graph):
        return model, "not simplified: onnxslim changed the inputs or outputs"
    if len(slimmed.graph.input) != len(model.graph.input):
        del slimmed.graph.input[:]
        slimmed.graph.input.extend(model.graph.input)
    return slimmed, f"simplified from {before} to {len(slimmed.graph.node)} nodes"


def _same_interface(before: onnx.GraphProto, after: onnx.GraphProto) -> bool:
    """Whether outputs are the same; inputs may be fewer, since unused ones are dropped by it."""
    kept = {value.name for value in after.input}
    known = {value.name for value in before.input}
    outputs = [value.name for value in before.output]
    return kept <= known and outputs == [value.name for value in after.output]
