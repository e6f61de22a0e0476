"""Bio-inspired features: a pyramid of Gabor filters, pooled; nothing in it is trained.

[1] Guo et al., Human age estimation using bio-inspired features, CVPR 2009 (BIF).
[2] Serre et al., Robust object recognition with cortex-like mechanisms, PAMI 2007: the filters' sizes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.networks.backbone import Backbone
from agelens.rehearsal import cut_channels

__all__ = ["BANDS", "GaborPyramid", "gabor_kernel"]

BANDS: tuple[tuple[int, tuple[tuple[int, float, float], tuple[int, float, float]]], ...] = (
    (6, ((5, 2.0, 2.5), (7, 2.8, 3.5))),
    (8, ((9, 3.6, 4.6), (11, 4.5, 5.6))),
    (10, ((13, 5.4, 6.8), (15, 6.3, 7.9))),
    (12, ((17, 7.3, 9.1), (19, 8.2, 10.3))),
    (14, ((21, 9.2, 11.5), (23, 10.2, 12.7))),
    (16, ((25, 11.3, 14.1), (27, 12.3, 15.4))),
    (18, ((29, 13.4, 16.8), (31, 14.6, 18.2))),
    (20, ((33, 15.8, 19.7), (35, 17.0, 21.2))),
)
"""Pool, and of two filters side, σ and wavelength λ, all in pixels: the eight bands of [2], begun one size
smaller, as [1] does."""

_ASPECT = 0.3  # γ of [2]
_GREY = (0.299, 0.587, 0.114)


def gabor_kernel(side: int, sigma: float, wavelength: float, angle: float) -> Tensor:
    """exp(-(X² + γ²Y²) / 2σ²) cos(2πX / λ), brought to mean 0 and length 1 ([2], Eq. 1; γ = 0.3).

    X = x cos θ + y sin θ and Y = -x sin θ + y cos θ count from the middle.

    Args:
        side: Pixels, odd.
        sigma: σ, pixels.
        wavelength: λ, pixels.
        angle: θ, radians.
    Returns:
        (side, side) float32.
    """
    places = torch.arange(side, dtype=torch.float64) - side // 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    waves = torch.cos(2 * math.pi * along / wavelength)
    kernel = torch.exp(-(along**2 + _ASPECT**2 * across**2) / (2 * sigma**2)) * waves
    kernel = kernel - kernel.mean()
    unit: Tensor = kernel / kernel.norm()
    return unit.float()


class GaborPyramid(Backbone):
    """Normalised images (B, 3, 60, 60) to bio-inspired features (B, C) ([1], Sec. 3).

    The grey image, of mean 0 and deviation 1, is filtered at two sizes a band and several orientations (S1:
    the response's size, borders repeated); the larger of the two sizes is kept, and pooled over squares that
    overlap by half (C1). Bands whose waves are longer than nine pixels are computed at every second pixel. At
    60 px and eight orientations C is 7360. [1] pools by the deviation within a square (``std``) where its
    forerunners take the largest response (``max``).

    Args:
        pool: ``max`` or ``std``.
        orientations: Evenly spread over half a turn.
        input_size: Side of the images, pixels; it fixes C.
    """

    def __init__(
        self, pool: Literal["max", "std"] = "max", orientations: int = 8, input_size: int = 60
    ) -> None:
        super().__init__()
        orientations = cut_channels(orientations)
        self.pool, self.input_size = pool, input_size
        angles = [math.pi * number / orientations for number in range(orientations)]
        self.num_features = 0
        for pooled, filters in BANDS:
            for side, sigma, wavelength in filters:
                kernel = torch.stack([gabor_kernel(side, sigma, wavelength, angle) for angle in angles])
                self.register_buffer(f"kernel_{side}", kernel[:, None], persistent=False)
            places, wide = -(-input_size // _step(pooled)), pooled // _step(pooled)
            squares = (places - wide) // (wide // 2) + 1
            self.num_features += orientations * squares**2
        self.register_buffer("grey", torch.tensor(_GREY).view(1, 3, 1, 1), persistent=False)
        # Of the normalised image: each channel's own deviation gives its grey back, up to a constant.
        self.register_buffer("scale", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features (B, C) of (B, 3, S, S) images."""
        weights = self.get_buffer("grey") * self.get_buffer("scale")
        grey = (images.float() * weights).sum(dim=1, keepdim=True)
        grey = grey - grey.mean(dim=(2, 3), keepdim=True)
        grey = grey / grey.square().mean(dim=(2, 3), keepdim=True).add(1e-6).sqrt()
        bands = []
        for pooled, filters in BANDS:
            step = _step(pooled)
            first, second = (self._response(grey, side, step) for side, _, _ in filters)
            bands.append(self._pooled(torch.maximum(first, second), pooled // step).flatten(1))
        return torch.cat(bands, dim=1)

    def _response(self, grey: Tensor, side: int, step: int) -> Tensor:
        half = side // 2
        around = F.pad(grey, (half, half, half, half), mode="replicate")
        response: Tensor = F.conv2d(around, self.get_buffer(f"kernel_{side}"), stride=step).abs()
        return response

    def _pooled(self, maps: Tensor, side: int) -> Tensor:
        if self.pool == "max":
            return F.max_pool2d(maps, side, side // 2)
        mean, square = (F.avg_pool2d(values, side, side // 2) for values in (maps, maps**2))
        return (square - mean**2).clamp(min=0).add(1e-8).sqrt()


def _step(pooled: int) -> int:
    """Pixels between two responses of the band with such a pool."""
    return 2 if pooled >= 12 else 1
