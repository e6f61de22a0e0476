"""Students: the two of the paper, and a strided one of our own that is faster.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from agelens.errors import InputError
from agelens.networks.backbone import Backbone
from agelens.networks.chain import Chain, ChainBackbone
from agelens.rehearsal import cut_side

__all__ = ["NORMAL", "SMALL", "StridedStudent", "normal_student", "small_student"]

NORMAL = "C128(5)-C96(3)-P-C96(3)x3-P-C96(3)x2-P-C64(3)x2"
"""Convolutions of the normal student ([1], Appendix B), nine; F4096 twice follows."""

SMALL = "C64(3)-C32(3)-P-C32(3)x3-P-C32(3)x2-P-C16(3)x2-C64(1)x2"
"""Convolutions of the small student ([1], Appendix B), eleven."""


def normal_student(input_size: int = 112, width: float = 1.0) -> ChainBackbone:
    """The normal student: 263.40 MB (of 2^20 bytes) at k = 62 and 112 px, 263.54 at k = 71.

    Args:
        input_size: Side of the images, pixels.
        width: Factor of all channels and outputs.
    """
    side = cut_side(input_size) // 8
    return ChainBackbone(NORMAL, grid=0, map_side=side, connected=(4096, 4096), width=width)


def small_student(grid: int = 2, width: float = 1.0) -> ChainBackbone:
    """The small student: 0.44 MB at 64 px.

    How its last map, 8 x 8 at 64 px, becomes logits is not said. Average-pooled to a 3 x 3 grid it has
    0.4398 MB at k = 62, the figure the paper prints: our reconstruction. At k = 101, a grid of 2 x 2 or
    global pooling (1) keeps it below.

    Args:
        grid: Side of the pooled grid.
        width: Factor of all channels.
    """
    return ChainBackbone(SMALL, grid=grid, width=width)


class StridedStudent(Backbone):
    """Our own student: residual, strided from the first layer on, so that 12.5 M multiply-adds do.

    Each stage halves the map by a strided 3 x 3 convolution and adds blocks of two 3 x 3 convolutions through
    fewer channels; a 1 x 1 convolution widens the last map. In place of a mean over it, a global depthwise
    convolution weighs each place of each channel, as in MobileFaceNets [2]: faces are aligned, so a place of
    the map is a part of the face. That fixes the input at 64 px (any size whose map is 8 by 8: 57 to 64).
    With both heads for the ages 0 to 100 it has 109,718 numbers: below 0.44 MB (of 2^20 bytes) as a model
    file.

    [2] Chen et al., MobileFaceNets: efficient CNNs for accurate real-time face verification on mobile
        devices, CCBR 2018.

    Args:
        stages: Channels of each stage, channels inside its blocks, its blocks.
        features: Channels of the last map.
    """

    _SIDE = 8

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int]] = ((16, 0, 0), (32, 24, 2), (48, 24, 2)),
        features: int = 96,
    ) -> None:
        super().__init__()
        self.num_features = features
        layers: list[nn.Module] = []
        in_channels = 3
        for width, inner, count in stages:
            layers += _convolution(in_channels, width, 3, 2)
            layers += [_Block(width, inner) for _ in range(count)]
            in_channels = width
        self.chain = Chain(*layers, *_convolution(in_channels, features, 1, 1))
        self.gdconv = nn.Sequential(
            nn.Conv2d(features, features, self._SIDE, groups=features, bias=False), nn.BatchNorm2d(features)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the last map, (B, 3, H, W) to (B, C, H / 8, W / 8) rounded up."""
        features: Tensor = self.chain(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, 64, 64) images to (B, C) features.

        Raises:
            InputError: The images have another size.
        """
        return self._pooled(self.feature_map(images), images)

    def forward_with_maps(self, images: Tensor, numbers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Compute the features, and on the way the maps of some convolutions (1 = the first)."""
        *maps, last = self.chain.maps(images, numbers, whole=True)
        return self._pooled(last, images), maps

    def _pooled(self, last: Tensor, images: Tensor) -> Tensor:
        if last.shape[2:] != (self._SIDE, self._SIDE):
            raise InputError(f"student-strided takes images of 64 px, not {tuple(images.shape[2:])}")
        features: Tensor = self.gdconv(last)
        return features.flatten(1)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class _Block(nn.Module):
    """x + two 3 x 3 convolutions through ``inner`` channels, then ReLU."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(residual)) + x, inplace=True)
