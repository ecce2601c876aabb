"""What of a model is quantized, as `annotate` decides and everybody after it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from lepton_tvm.passes.base import PassReport, Skipped

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What `annotate` decided, by the names of bindings and parameters.

    `anchors`: conv2d and matmul whose weights become int8. `pooled`: pools, means and concats done
    in integers. `tensors`: activations that get a quantize/dequantize pair, in program order.
    `shared`: tensor -> the tensor whose scale it takes (itself quantized, or a concat).
    `pixels`: those of `tensors` that are uint8 already, cast to float: scale 1, zero point 0.
    `epilogues`: how many elementwise ops ride along in int8 kernels.
    """

    anchors: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    shared: dict[str, str] = field(default_factory=dict)
    pixels: tuple[str, ...] = ()
    epilogues: int = 0
    skipped: tuple[Skipped, ...] = ()

    def params_of(self, tensor: str) -> str:
        """The tensor whose measured range gives `tensor` its scale."""
        while tensor in self.shared:
            tensor = self.shared[tensor]
        return tensor

    @property
    def measured(self) -> tuple[str, ...]:
        """The tensors whose ranges calibration has to find, once each."""
        return tuple(dict.fromkeys(self.params_of(t) for t in self.tensors))

    @property
    def report(self) -> PassReport:
        """The plan as a pass report."""
        return PassReport(
            name="quantize-annotate",
            changed=len(self.anchors) + len(self.pooled),
            numbers=(
                ("anchors", len(self.anchors)),
                ("pools_and_concats", len(self.pooled)),
                ("quantized_tensors", len(self.tensors)),
                ("epilogue_ops", self.epilogues),
            ),
            skipped=self.skipped,
        )
