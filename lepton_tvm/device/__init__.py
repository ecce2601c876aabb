"""Measuring on other machines over TVM's RPC: the server of a device, and sessions with it.

What runs on the device (`server`, `session`) needs TVM's runtime library, numpy and nothing of the
compiler. Speaks TVM's RPC and tracker protocols, so TVM's own tracker and clients fit.
"""

from lepton_tvm.device.client import DeviceSession
from lepton_tvm.device.tracker import DeviceInfo, Place, Tracker, parse_address

__all__ = ["DeviceInfo", "DeviceSession", "Place", "Tracker", "parse_address"]
