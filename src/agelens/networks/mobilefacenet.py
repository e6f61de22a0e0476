"""MobileFaceNet, a face recognition network of about a million parameters: a start from identity.

Its layers are named as in published weights, so that those load strictly.

[1] Chen et al., MobileFaceNets: efficient CNNs for accurate real-time face verification on mobile devices,
    CCBR 2018.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from agelens.errors import InputError
from agelens.networks.backbone import Backbone

__all__ = ["MobileFaceNet"]

# Expansion, channels, repeats and first stride of the inverted residuals (Table 1 of [1]).
_BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def _conv_bn_relu6(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


class _InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; a skip where the shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.skip = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            _conv_bn_relu6(in_channels, hidden, 1),
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv(x)
        return x + residual if self.skip else residual


class MobileFaceNet(Backbone):
    """Table 1 of [1] with an embedding of 128 numbers; the pooling is a 7x7 depthwise convolution.

    That global convolution fixes the input at 112 px (any size whose map is 7 by 7: 97 to 112).
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv_bn_relu6(3, 64, 3, stride=2)
        self.dw_conv = nn.Sequential(
            OrderedDict[str, nn.Module](
                depthwise=nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu1=nn.ReLU(inplace=True),
                pointwise=nn.Conv2d(64, 64, 1, bias=False),
                bn2=nn.BatchNorm2d(64),
                relu2=nn.ReLU(inplace=True),
            )
        )
        blocks: list[nn.Module] = []
        in_channels = 64
        for expansion, channels, repeats, first_stride in _BOTTLENECKS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(_InvertedResidual(in_channels, channels, stride, expansion))
                in_channels = channels
        self.features = nn.Sequential(*blocks)
        self.conv2 = _conv_bn_relu6(128, 512, 1)
        self.gdconv = nn.Sequential(
            OrderedDict[str, nn.Module](
                depthwise=nn.Conv2d(512, 512, 7, groups=512, bias=False), bn=nn.BatchNorm2d(512)
            )
        )
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the map before the global convolution, (B, 3, 112, 112) to (B, 512, 7, 7)."""
        features: Tensor = self.conv2(self.features(self.dw_conv(self.conv1(images))))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, 112, 112) images to (B, 128) features.

        Raises:
            InputError: The images have another size.
        """
        feature_map = self.feature_map(images)
        if feature_map.shape[2:] != (7, 7):
            raise InputError(f"mobilefacenet takes images of 112 px, not {tuple(images.shape[2:])}")
        features: Tensor = self.bn(self.conv3(self.gdconv(feature_map)))
        return features.flatten(1)
