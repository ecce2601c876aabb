"""Loading and running artifacts. Imports neither the compiler nor ONNX.

from lepton_tvm import runtime
net = runtime.load("model.so", threads=1)
y = net(x)
"""

from lepton_tvm.runtime.loader import load
from lepton_tvm.runtime.net import Net

__all__ = ["Net", "load"]
