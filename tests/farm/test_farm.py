"""What names a farm, and what does not."""

from __future__ import annotations

import pytest

from lepton_tvm.errors import InputError
from lepton_tvm.farm import Farm


def test_neither_option_means_this_machine() -> None:
    assert Farm.of(None, None) is None


def test_both_options_are_a_farm_with_the_tracker_s_address() -> None:
    farm = Farm.of("[::1]:9190", "pi")
    assert farm == Farm("[::1]:9190", "pi")
    assert farm is not None
    assert farm.address == ("::1", 9190)


@pytest.mark.parametrize(("tracker", "key"), [("host:1", None), (None, "pi"), ("", "pi")])
def test_half_a_name_is_refused(tracker: str | None, key: str | None) -> None:
    with pytest.raises(InputError, match="needs both --tracker HOST:PORT and --key KEY"):
        Farm.of(tracker, key)


@pytest.mark.parametrize("tracker", ["host", "host:0", "host:65536", ":9190"])
def test_an_address_that_is_none_is_refused(tracker: str) -> None:
    with pytest.raises(InputError, match="is not HOST:PORT"):
        Farm(tracker, "pi")
