"""Model to model, with data: pruning, quantization, calibration, preprocessing.

The public calls are `lepton_tvm.compress`, `quantize`, `quantize_model` and `fold_preprocessing`; a
module here is named after its call, so the door does not export them a second time.
"""
