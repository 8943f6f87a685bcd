"""The guiders of spatial signals: pictures -> features that are added to the output of the first convolution."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from export.networks.config import GuiderConfig


class Guider(nn.Module):
    """Pictures of a signal, such as keypoint maps, (F, 3, H, W) in [0, 1] -> features (F, K, h, w)."""

    def __init__(self, config: GuiderConfig):
        super().__init__()
        widths = config.channels
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, following in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, following, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], config.output, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the features (F, K, h, w) of pictures (F, 3, H, W) in [0, 1]."""
        x = F.silu(self.conv_in(pictures))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)
