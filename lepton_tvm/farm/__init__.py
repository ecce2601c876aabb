"""Measuring on other machines over TVM's RPC: the server of a device, and sessions with it.

`open_builder` and `open_runner` choose between this machine and others. A device
(`device_server`, `device_session`) needs TVM's runtime library and NumPy, but no compiler. It
speaks TVM's RPC and tracker protocols, so TVM's own tracker and clients fit.
"""

from lepton_tvm.farm.device_client import DeviceSession
from lepton_tvm.farm.farm import Farm
from lepton_tvm.farm.open_workers import artifacts_of, open_builder, open_runner
from lepton_tvm.farm.tracker_client import DeviceAddress, DeviceInfo, Tracker, parse_address

__all__ = [
    "DeviceAddress",
    "DeviceInfo",
    "DeviceSession",
    "Farm",
    "Tracker",
    "artifacts_of",
    "open_builder",
    "open_runner",
    "parse_address",
]
