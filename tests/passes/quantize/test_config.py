"""Options of quantization: what is refused, and that they survive JSON."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_tvm.errors import InputError
from lepton_tvm.passes.quantize.config import QuantizeConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 4}, "weight_bits=4 is not supported"),
        ({"sum_bits": 24}, "sum_bits=24 is not supported: it must be 32 or 16"),
        ({"activation_bits": 16}, "activation_bits=16 is not supported"),
        ({"calibrator": "magic"}, "unknown calibrator 'magic'; choose one of minmax, percentile"),
        ({"percentile": 10.0}, "must be above 50"),
        ({"percentile": 100.5}, "at most 100"),
        ({"skip": "conv2d_0"}, "sequence of name patterns"),
        ({"skip": ("",)}, "sequence of name patterns"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantizeConfig(**options)


def test_json_round_trip_and_fingerprint() -> None:
    config = QuantizeConfig(calibrator="percentile", percentile=99.9, skip=("matmul_*",))
    again = QuantizeConfig.from_json(config.to_json())
    assert again == config
    assert again.fingerprint() == config.fingerprint() != QuantizeConfig().fingerprint()


def test_unknown_fields_and_versions_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown quantize options \['bits'\]"):
        QuantizeConfig.from_json({"bits": 8})
    with pytest.raises(InputError, match="version 2"):
        QuantizeConfig.from_json({"version": 2})
