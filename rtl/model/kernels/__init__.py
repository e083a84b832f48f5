"""The network, faster on a CPU: takes a plain one and gives one of equal output.

optimize.py       the way in: for training, for inference, for 8 bits
blocks.py         blocks with fewer passes over memory
convolution.py    a convolution whose weights are reordered once
graph.py          a frozen part as one call, without Python between its operators
int8.py           the network in 8 bits
torch_private.py  every private name of PyTorch, with why and what breaks
"""

from rtl.model.kernels.optimize import (
    InferenceNetwork,
    optimize_for_inference,
    optimize_for_training,
    quantize_network,
)

__all__ = [
    "InferenceNetwork",
    "optimize_for_inference",
    "optimize_for_training",
    "quantize_network",
]
