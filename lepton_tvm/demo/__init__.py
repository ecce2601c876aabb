"""The demo: a ResNet-8 trained on Fashion-MNIST, its pictures, and the three ways it is compiled.

`resnet8.onnx` was trained by `tools/train_demo.py`; the pictures are Fashion-MNIST's (see NOTICE).
"""

from lepton_tvm.demo.assets import calibration, labelled, model_path
from lepton_tvm.demo.variants import PRUNE_RATIO, build_variants

__all__ = ["PRUNE_RATIO", "build_variants", "calibration", "labelled", "model_path"]
