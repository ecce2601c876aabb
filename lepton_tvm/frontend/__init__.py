"""Files to models: ONNX and `.lepton` in, `.lepton` out. Imports the compiler only when it must."""

from __future__ import annotations

from lepton_tvm.frontend.load import load_model
from lepton_tvm.frontend.model_file import save_model
from lepton_tvm.frontend.operators import Unsupported, UnsupportedModelError

__all__ = ["Unsupported", "UnsupportedModelError", "load_model", "save_model"]
