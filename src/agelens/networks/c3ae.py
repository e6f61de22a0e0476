"""C3AE: one small network sees a face at three scales; twelve ten-year bins cascade into an age.

[1] Zhang et al., C3AE: exploring the limits of compact model for age estimation, CVPR 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.networks.backbone import Backbone

__all__ = ["C3AE", "SCALES"]

SCALES = (1.0, 0.75, 0.5)
"""Sides of the three central crops, as shares of the image. [1] cuts wider and narrower boxes around a
detected face; a prepared crop has no more around it, so here the widest is the whole crop."""

_SIDE = 64


class C3AE(Backbone):
    """Images to (B, 1536): 4 x 4 x 32 features at each of three scales, by shared weights.

    Four 3 x 3 convolutions of 32 channels, the first three followed by batch norm, ReLU and average pooling,
    the last by batch norm, ReLU and squeeze-and-excitation ([1], Table 1; its 1 x 1 convolution is kept).
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for depth in range(4):
            blocks += [nn.Conv2d(32 if depth else 3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
            blocks += [nn.AvgPool2d(2)] if depth < 3 else []
        self.blocks = nn.Sequential(*blocks)
        self.excite = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32), nn.Sigmoid())
        self.last = nn.Conv2d(32, 32, 1)
        self.num_features = len(SCALES) * 4 * 4 * 32

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features.

        Args:
            images: (B, 3, S, S) normalised images; each scale is resized to 64 px.
        Returns:
            (B, 1536).
        """
        side = images.shape[-1]
        features = []
        for share in SCALES:
            cut = round(side * (1 - share) / 2)
            view = images[:, :, cut : side - cut, cut : side - cut]
            if view.shape[-1] != _SIDE:
                view = F.interpolate(view, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
            maps = self.blocks(view)
            maps = maps * self.excite(maps.mean((2, 3)))[:, :, None, None]
            features.append(self.last(maps).flatten(1))
        return torch.cat(features, dim=1)
