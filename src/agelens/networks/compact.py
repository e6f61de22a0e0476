"""The compact networks that small age networks are compared with: MobileNet, DenseNet and OR-CNN's.

MobileNet and DenseNet, at 64 px, end in 32 features, so a linear layer behind them is their papers' last
one. Layers are those of the published comparison ([1], Sec. 4): MobileNet of width α, 20 channels, 32
features; DenseNet of growth 12 without bottleneck, 128, then 32 features.

[1] Yang et al., SSR-Net: a compact soft stagewise regression network for age estimation, IJCAI 2018.
[2] Howard et al., MobileNets: efficient convolutional neural networks for mobile vision applications, 2017.
[3] Huang et al., Densely connected convolutional networks, CVPR 2017.
[4] Niu et al., Ordinal regression with multiple output CNN for age estimation, CVPR 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agelens.networks.backbone import Backbone

__all__ = ["CompactDenseNet", "CompactMobileNet", "CompactOrCNN"]

# Channels behind the first convolution and stride of each separable block, Table 1 of [2].
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class CompactMobileNet(Backbone):
    """MobileNet [2] of a width, then 20 channels and 32 features.

    Args:
        width: α.
        input_size: Side of the images, pixels; it fixes the connected layer.
    """

    def __init__(self, width: float = 0.25, input_size: int = 64) -> None:
        super().__init__()
        channels = int(32 * width)
        layers: list[nn.Module] = _convolution(3, channels, 3, stride=2)
        for out, stride in _BLOCKS:
            layers += _convolution(channels, channels, 3, stride=stride, groups=channels)
            layers += _convolution(channels, int(out * width), 1)
            channels = int(out * width)
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(
            nn.Conv2d(channels, 20, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(20 * (-(-input_size // 32)) ** 2, 32),
            nn.ReLU(),
        )
        self.num_features = 32

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, 64, 64) normalised images to (B, 32) features."""
        features: Tensor = self.last(self.layers(images))
        return features


class CompactDenseNet(Backbone):
    """DenseNet [3] of three blocks and growth 12, then 128 and 32 features.

    Args:
        depth: 13 or 19: 3 · layers a block + 4.
    """

    def __init__(self, depth: int = 19) -> None:
        super().__init__()
        channels = 24
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range((depth - 4) // 3):
                layers.append(_Dense(channels))
                channels += _Dense.growth
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if block < 2:
                layers += [nn.Conv2d(channels, channels, 1, bias=False), nn.AvgPool2d(2)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(
            nn.Linear(channels, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 32), nn.ReLU()
        )
        self.num_features = 32

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) normalised images to (B, 32) features."""
        features: Tensor = self.last(self.layers(images).mean((2, 3)))
        return features


class CompactOrCNN(Backbone):
    """The network of OR-CNN and of its baseline MR-CNN [4]: images of 60 px to 80 features.

    Convolutions of 20 5x5, 40 7x7 and 80 11x11 kernels without padding, pools behind the first two, a
    connected layer of 80. Batch norm stands in for local response normalisation.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, kernel in ((20, 5), (40, 7), (80, 11)):
            layers += [nn.Conv2d(before, channels, kernel), nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if channels < 80 else []
            before = channels
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(80, 80)
        self.num_features = 80

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, 60, 60) normalised images to (B, 80) features."""
        features: Tensor = self.last(self.layers(images).mean((2, 3)))  # one place at 60 px
        return features


class _Dense(nn.Module):
    growth = 12

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, self.growth, 3, padding=1, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features, self.layers(features)), dim=1)


def _convolution(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(
        channels, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(out), nn.ReLU6()]
