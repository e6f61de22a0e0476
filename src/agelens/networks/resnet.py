"""The four residual networks of LRN, Table 2: ResNet-10 and -18, and their halves in width, Tiny.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020.
[2] He et al., Deep residual learning for image recognition, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from agelens.networks.backbone import Backbone

__all__ = ["BasicBlock", "ResNet"]


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected (1x1) where the shapes differ ([2], option B).

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the projection.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x), inplace=True)


class ResNet(Backbone):
    """A residual network of basic blocks (Table 2 of [1]): total stride 32, any input of 32 px or more.

    Convolutions start from Kaiming's normal (fan out, ReLU) as in [2]; batch norms at one and zero.
    The papers do not speak of the initialisation, so the published one is the default and zeroing the last
    batch norm of each block an option: it was devised for very deep networks and large batches, and of
    the four blocks of a ResNet-10 three would start as their bare 1x1 projection.

    Args:
        blocks: Number of blocks in each of the stages, such as (1, 1, 1, 1).
        widths: Channels of each stage; the first is the stem's too.
        zero_init_residual: Start every block as its shortcut alone.
    Raises:
        ValueError: ``blocks`` and ``widths`` differ in length.
    """

    def __init__(
        self, blocks: Sequence[int], widths: Sequence[int], *, zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(f"blocks {tuple(blocks)} and widths {tuple(widths)} differ in length")
        self.num_features = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        in_channels = widths[0]
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage: list[nn.Module] = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(BasicBlock(in_channels, width, stride))
                in_channels = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and zero_init_residual:
                nn.init.zeros_(module.bn2.weight)

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the map of the last stage, (B, 3, H, W) to (B, C, H / 32, W / 32) rounded up."""
        features: Tensor = self.stages(self.stem(images))
        return features
