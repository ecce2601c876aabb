"""What a benchmark is asked for, checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_tvm.bench.device_engines import not_installed
from lepton_tvm.bench.engines import ENGINES, OURS
from lepton_tvm.bench.wanted_schemes import known_schemes
from lepton_tvm.errors import InputError
from lepton_tvm.farm import Farm
from lepton_tvm.measure import Rounds
from lepton_tvm.targets import ISAS

__all__ = ["BenchOptions"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The options of `bench`, by its names; `farm` is its tracker and key.

    Raises InputError for an unknown engine, precision or instruction set, for an engine that is not
    installed here, and for what a farm cannot do. Devices tell themselves which engines they have.
    """

    against: Sequence[str]
    threads: int
    precisions: Sequence[str] | None
    peers_isa: str | None
    profile: bool
    peak: bool
    farm: Farm | None
    rounds: Rounds | None
    seed: int

    def __post_init__(self) -> None:
        self._check_engines()
        if type(self.threads) is not int or self.threads < 1:
            raise InputError(
                f"threads must be a whole number of at least 1, found {self.threads!r}"
            )
        asked, known = self.precisions, [scheme.name for scheme in known_schemes()]
        if asked is not None and (not asked or not set(asked).issubset(known)):
            raise InputError(f"precisions are {', '.join(known)}, found {list(asked)}")
        if self.peers_isa is not None and self.peers_isa not in ISAS:
            raise InputError(
                f"unknown instruction set {self.peers_isa!r} for peers: one of {', '.join(ISAS)}"
            )
        if self.farm is not None and (self.profile or self.peak):
            raise InputError(
                "--profile and --peak measure this machine alone: run them on the device itself"
            )

    def _check_engines(self) -> None:
        if isinstance(self.against, str):
            raise InputError(
                f"against is a list of engine names, found the string {self.against!r}"
            )
        peers = [name for name in ENGINES if name != OURS]
        for name in self.against:
            if name not in peers:
                raise InputError(f"unknown engine {name!r}; known are {', '.join(peers)}")
            if self.farm is None and not_installed(name):
                raise InputError(
                    f"engine {name!r} is not installed; pip install 'lepton-tvm[peers]' brings it"
                )
