"""The demo: a ResNet-8 trained on Fashion-MNIST, its pictures, and the three ways it is compiled.

`resnet8.onnx` was trained by `tools/train_demo.py`; the pictures are Fashion-MNIST's (see NOTICE).
`lepton_tvm.demo.variants` compiles it and needs the compiler; what stands here does not.
"""

from lepton_tvm.demo.assets import calibration, labelled, model_path

__all__ = ["calibration", "labelled", "model_path"]
