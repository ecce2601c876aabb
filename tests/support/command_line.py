"""Running the command line inside the test process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        data = json.loads(self.out)
        assert isinstance(data, dict)
        return data


Lepton = Callable[..., Ended]


@pytest.fixture
def lepton(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Lepton:
    """`lepton("db", "list")` runs the command in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEPTON_TVM_DB", raising=False)

    def run(*args: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["lepton-tvm", *map(str, args)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run
