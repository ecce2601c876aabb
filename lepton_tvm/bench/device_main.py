"""A device's server for machines that have little: `python -m lepton_tvm.bench.device_main`.

apache-tvm, apache-tvm-ffi and numpy are all it needs.
"""

from __future__ import annotations

import argparse
import sys

from lepton_tvm.bench.device_engines import Engines
from lepton_tvm.errors import LeptonError
from lepton_tvm.farm.serve_device import serve_device


def main() -> int:
    """Read `sys.argv` and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m lepton_tvm.bench.device_main", description=__doc__
    )
    parser.add_argument("--tracker", metavar="HOST:PORT", help="Offer this device to a tracker.")
    parser.add_argument("--key", default="", help="Name the kind of device, as clients ask for it.")
    parser.add_argument("--host", default="127.0.0.1", help="Listen on this address.")
    parser.add_argument(
        "--port", type=int, help="Listen on this port; default: the first free one from 9090."
    )
    parser.add_argument(
        "--threads", type=int, help="Let clients use at most N threads; default: all cores."
    )
    args = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        serve_device(**vars(args), handlers=[Engines], say=say)
    except LeptonError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
