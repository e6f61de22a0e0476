"""Ranking-CNN's separate form: a hundred small networks, one for each question "older than k?", side by side.

[1] Chen et al., Using Ranking-CNN for age estimation, CVPR 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from agelens.networks.backbone import Backbone

__all__ = ["FEATURES", "RankingCNN"]

FEATURES = 8
"""Features that each network gives."""


class RankingCNN(Backbone):
    """Images (B, 3, S, S) to (B, 8 N): N networks of three convolutions and pools that share no weight.

    Grouped convolutions compute them together. [1] has three convolutions and three connected layers; the
    widths here, 4, 8 and 8 channels, are small, for N networks train at once.

    Args:
        networks: N; 100 for the ages 0 … 100.
    """

    def __init__(self, networks: int = 100) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, kernel in ((4, 5), (8, 3), (FEATURES, 3)):
            groups = networks if layers else 1  # all of them read the image
            out = channels * networks
            layers += [nn.Conv2d(before, out, kernel, padding=kernel // 2, groups=groups, bias=False)]
            layers += [nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
            before = out
        self.layers = nn.Sequential(*layers)
        self.num_features = FEATURES * networks

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute (B, 8 N, S / 8, S / 8)."""
        result: Tensor = self.layers(images)
        return result
