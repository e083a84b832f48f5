"""The pretrained network of torchvision's own blocks, as one has it without rtl."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import BasicConv2d

from rtl.model import inception, pretrained


def network(num_classes: int = 1, dropout: float = 0.0) -> nn.Sequential:
    """The plain network with the packaged weights."""
    whole = inception.build(num_classes, dropout)
    inception.load_part(whole, pretrained.load("packaged", ".").state)
    return whole


class Frozen(nn.Module):
    """A trunk for inference: each BatchNorm folded into its convolution, bf16, channels_last."""

    def __init__(self, trunk: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        folded = copy.deepcopy(trunk).eval()
        for module in folded.modules():
            if isinstance(module, BasicConv2d):
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        self.part = folded.to(dtype).to(memory_format=torch.channels_last)
        weights = pretrained.load("packaged", ".")
        self.normalize = inception.Normalize(weights.mean, weights.std, dtype)

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to (N, ...) in the trunk's dtype."""
        output: torch.Tensor = self.part(self.normalize(images))
        return output
