"""`python -m lepton_tvm.cli`, for places where the console script is not on the path."""

from __future__ import annotations

from lepton_tvm.cli import main

main()
