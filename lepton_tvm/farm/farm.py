"""A farm by its name: a tracker, and a kind of device that it knows."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_tvm.errors import InputError
from lepton_tvm.farm.tracker_client import Address, parse_address

__all__ = ["Farm"]


@dataclass(frozen=True)
class Farm:
    """The devices of `key` that the tracker at `tracker` (`HOST:PORT`) knows.

    Raises InputError for an empty name or an address that is none. Nothing is connected yet.
    """

    tracker: str
    key: str

    def __post_init__(self) -> None:
        if not self.tracker or not self.key:
            raise InputError("measuring on devices needs both --tracker HOST:PORT and --key KEY")
        parse_address(self.tracker)

    @staticmethod
    def of(tracker: str | None, key: str | None) -> Farm | None:
        """The farm of two options; None where neither is given: this machine is meant.

        Raises InputError for one without the other.
        """
        if tracker is None and key is None:
            return None
        return Farm(tracker or "", key or "")

    @property
    def address(self) -> Address:
        """The tracker's host and port."""
        return parse_address(self.tracker)

    def __str__(self) -> str:
        return self.tracker
