"""SSR-Net: two streams of four small convolutions, fused at three depths into stages of a soft regression.

The backbone's features are the outputs of the stages: for each stage the probabilities p_i of its three bins,
their shifts η_i and one width Δ. :mod:`agelens.networks.stagewise_head` makes the age of them.

Facts of the architecture (channels, fusion, the ReLU behind p, dropout 0.2) are those of the authors'
published definition; at 64 px it has their 40,915 numbers, batch norm's statistics counted. The 0.32 MB that
the paper prints is the size of its file.

[1] Yang et al., SSR-Net: a compact soft stagewise regression network for age estimation, IJCAI 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agelens.networks.backbone import Backbone

__all__ = ["STAGE_BINS", "SSRNet"]

STAGE_BINS = 3
"""Bins of each of the three stages."""

_FUSED = 10  # channels at a fusion


class _Fusion(nn.Module):
    """One stage: both streams at one depth to p (3), η (3) and Δ (1).

    Args:
        channels: Of the two streams at this depth.
        pool: Side of the pooling before the fusion; 1: none.
        places: Places of the pooled map.
    """

    def __init__(self, channels: tuple[int, int], pool: int, places: int) -> None:
        super().__init__()
        relu, tanh = channels
        self.first = nn.Sequential(nn.Conv2d(relu, _FUSED, 1), nn.ReLU(), nn.AvgPool2d(pool), nn.Flatten())
        self.second = nn.Sequential(nn.Conv2d(tanh, _FUSED, 1), nn.ReLU(), nn.MaxPool2d(pool), nn.Flatten())
        length = _FUSED * places
        self.first_mix, self.second_mix = (
            nn.Sequential(nn.Dropout(0.2), nn.Linear(length, STAGE_BINS), nn.ReLU()) for _ in range(2)
        )
        self.width = nn.Sequential(nn.Linear(length, 1), nn.Tanh())
        self.mixed = nn.Sequential(nn.Linear(STAGE_BINS, 2 * STAGE_BINS), nn.ReLU())
        self.probability = nn.Sequential(nn.Linear(2 * STAGE_BINS, STAGE_BINS), nn.ReLU())
        self.shift = nn.Sequential(nn.Linear(2 * STAGE_BINS, STAGE_BINS), nn.Tanh())

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        one, other = self.first(first), self.second(second)
        mixed = self.mixed(self.first_mix(one) * self.second_mix(other))
        return torch.cat((self.probability(mixed), self.shift(mixed), self.width(one * other)), dim=1)


class SSRNet(Backbone):
    """Images (B, 3, 64, 64) to (B, 21): p, η and Δ of the three stages, coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 3 * (2 * STAGE_BINS + 1)
        self.first = nn.ModuleList(_step(3 if depth == 0 else 32, 32, nn.ReLU()) for depth in range(4))
        self.second = nn.ModuleList(_step(3 if depth == 0 else 16, 16, nn.Tanh()) for depth in range(4))
        self.stages = nn.ModuleList(
            (_Fusion((32, 16), 1, 16), _Fusion((32, 16), 4, 9), _Fusion((32, 16), 8, 9))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the outputs of the stages.

        Args:
            images: (B, 3, 64, 64) normalised images; the size is fixed by the connected layers.
        Returns:
            (B, 21).
        """
        first, second = images, images
        depths: list[tuple[Tensor, Tensor]] = []
        for step, other in zip(self.first, self.second, strict=True):
            if depths:
                first = nn.functional.avg_pool2d(first, 2)
                second = nn.functional.max_pool2d(second, 2)
                depths[-1] = (first, second)
            first, second = step(first), other(second)
            depths.append((first, second))
        deep, middle, shallow = self.stages
        return torch.cat((deep(*depths[3]), middle(*depths[1]), shallow(*depths[0])), dim=1)


def _step(channels: int, out: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3), nn.BatchNorm2d(out), activation)
