"""From the normalisation that every backbone is given to the one that published weights were trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "OwnInput", "Triple"]

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class OwnInput(nn.Module):
    """From ImageNet's mean and deviation to another normalisation.

    Args:
        mean: The other mean of red, green and blue, as shares of 255.
        deviation: Likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Triple, deviation: Triple) -> None:
        super().__init__()
        given_mean, given = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        own_mean, own = torch.tensor(mean), torch.tensor(deviation)
        self.register_buffer("scale", (given / own).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((given_mean - own_mean) / own).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to the other normalisation."""
        return images * self.scale + self.shift
