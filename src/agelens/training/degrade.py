"""Crops as worse cameras would give them: a covered part, wrong exposure, noise, strong compression.

They come before the view is cut, on the pixels of the crop. What is drawn comes from the seeded generator on
the CPU; images that drew nothing are not touched.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.training.transfer import to_device

__all__ = ["Degradations", "compressed", "degraded", "draw_degradations"]

LARGEST_DEVIATION = 20.0
"""Of the noise, grey levels."""
QUALITIES = (10, 60)
"""Lowest and highest quality of the compression, as JPEG encoders count it."""
STOPS = 1.0
"""Largest change of the exposure, as a power of two."""


class Degradations(NamedTuple):
    """Degradations that B crops drew, on the CPU.

    Attributes:
        box: (B, 4) covered part: left, top, right, bottom as shares of the side; all 0: none.
        colour: (B, 3) of the cover, grey levels.
        light: (B,) factor of the light; 1: as it is.
        deviation: (B,) of the noise, grey levels; 0: none.
        seed: (B,) int64 of the noise.
        quality: (B,) int64 of the compression; 0: none.
    """

    box: Tensor
    colour: Tensor
    light: Tensor
    deviation: Tensor
    seed: Tensor
    quality: Tensor

    def part(self, rows: slice) -> Degradations:
        """Those of some of the crops."""
        return Degradations(*(values[rows] for values in self))


def draw_degradations(
    batch: int, cover: float, expose: float, noise: float, compress: float, generator: torch.Generator
) -> Degradations:
    """Draw for ``batch`` crops, each kind with its own probability.

    Args:
        batch: B.
        cover: Probability of a covered part: the lower face, the eyes or a side, equally often, its edges
            moved a little. The places are those of crops in the toolkit's own geometry.
        expose: Probability of light by 2^u, u uniform in ±1, cut at white.
        noise: Probability of noise of up to 20 grey levels.
        compress: Probability of compression at a quality of 10 to 60.
        generator: CPU generator; the only source of chance.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def happens(probability: float) -> Tensor:
        return uniform(batch) < probability

    places = _COVERS[torch.randint(len(_COVERS), (batch,), generator=generator)]
    box = torch.lerp(places[:, 0], places[:, 1], uniform(batch, 4)) * happens(cover)[:, None]
    colour = 255 * uniform(batch, 3)
    light = torch.exp2(STOPS * (2 * uniform(batch) - 1)).masked_fill(~happens(expose), 1.0)
    deviation = LARGEST_DEVIATION * uniform(batch) * happens(noise)
    seed = torch.randint(2**62, (batch,), generator=generator)
    low, high = QUALITIES
    quality = torch.randint(low, high + 1, (batch,), generator=generator) * happens(compress)
    return Degradations(box, colour, light, deviation, seed, quality)


# Two corners (each left, top, right, bottom) between which the edges of a cover are drawn.
_COVERS = torch.tensor(
    [
        [[0.05, 0.36, 0.75, 0.86], [0.25, 0.52, 0.95, 1.00]],  # a mask, a scarf, a hand
        [[0.00, 0.12, 0.85, 0.33], [0.15, 0.22, 1.00, 0.42]],  # sunglasses, hair
        [[0.00, 0.00, 0.30, 1.00], [0.00, 0.00, 0.60, 1.00]],  # the left side
        [[0.40, 0.00, 1.00, 1.00], [0.70, 0.00, 1.00, 1.00]],  # the right side
    ]
)


def degraded(images: Tensor, drawn: Degradations) -> Tensor:
    """Degrade crops as they were drawn.

    Args:
        images: (B, 3, S, S) float, 0 to 255; they are changed.
        drawn: For each of them.
    Returns:
        The same tensor, 0 to 255; whole numbers where something was done.
    """
    device, size = images.device, images.shape[2]
    covered = drawn.box[:, 2] > 0
    changed = covered | (drawn.light != 1) | (drawn.deviation > 0) | (drawn.quality > 0)
    rows = changed.nonzero().squeeze(1)
    if not len(rows):
        return images
    places = to_device(rows, device)
    worse, chosen = images[places], Degradations(*(values[rows] for values in drawn))
    inside = _inside(to_device(chosen.box, device), size)
    worse = torch.where(inside, to_device(chosen.colour, device)[:, :, None, None], worse)
    worse = (worse * to_device(chosen.light, device)[:, None, None, None]).clamp(0, 255)
    noisy = (chosen.deviation > 0).nonzero().squeeze(1)
    if len(noisy):
        field = torch.stack([_noise(int(seed), size) for seed in chosen.seed[noisy]])
        field *= chosen.deviation[noisy, None, None, None]
        worse[to_device(noisy, device)] += to_device(field, device)
    worse = worse.round().clamp(0, 255)
    squeezed = (chosen.quality > 0).nonzero().squeeze(1)
    if len(squeezed):
        at = to_device(squeezed, device)
        worse[at] = compressed(worse[at], to_device(chosen.quality[squeezed], device))
    images[places] = worse
    return images


def _inside(box: Tensor, size: int) -> Tensor:
    """(B, 1, size, size): whether the middle of a pixel lies in the box."""
    position = (torch.arange(size, device=box.device) + 0.5) / size
    left, top, right, bottom = box.T[:, :, None]
    rows, columns = (top < position) & (position < bottom), (left < position) & (position < right)
    inside: Tensor = rows[:, :, None] & columns[:, None, :]
    return inside[:, None]


def _noise(seed: int, size: int) -> Tensor:
    """(3, size, size) normal values."""
    return torch.randn((3, size, size), generator=torch.Generator().manual_seed(seed))


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """Compress images as JPEG does: its colours, halved chroma, 8 × 8 cosines, tables and rounding.

    ITU-T T.81, the example tables of its Annex K, scaled by the quality as the IJG's encoder does.

    Args:
        images: (B, 3, S, S) float, 0 to 255.
        quality: (B,) int64, 1 to 100.
    Returns:
        (B, 3, S, S) float, whole numbers, 0 to 255.
    """
    size = images.shape[2]
    edge = -size % 16
    images = F.pad(images, (0, edge, 0, edge), mode="replicate")
    colours, tables = (values.to(images.device) for values in _constants())
    y, *chroma = torch.einsum("cd,bdhw->cbhw", colours, images)
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    table = ((tables.to(scale)[:, None] * scale + 50) // 100).clamp(1, 255).to(images.dtype)
    y = _quantised(y - 128, table[0]) + 128
    halved = [_quantised(F.avg_pool2d(values[:, None], 2)[:, 0], table[1]) for values in chroma]
    whole = [F.interpolate(values[:, None], scale_factor=2, mode="bilinear")[:, 0] for values in halved]
    restored = torch.einsum("cd,dbhw->bchw", torch.linalg.inv(colours), torch.stack([y, *whole]))
    return restored[:, :, :size, :size].round().clamp(0, 255)


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """A plane (B, H, W) whose 8 × 8 cosine coefficients are rounded to multiples of a table (B, 8, 8)."""
    batch, height, width = plane.shape
    cosines = _cosines().to(plane.device)
    blocks = plane.view(batch, height // 8, 8, width // 8, 8).transpose(2, 3)
    steps = table[:, None, None]
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    return (cosines.T @ kept @ cosines).transpose(2, 3).reshape(batch, height, width)


@functools.lru_cache(maxsize=1)
def _cosines() -> Tensor:
    """(8, 8) orthonormal cosine transform."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    matrix = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


@functools.lru_cache(maxsize=1)
def _constants() -> tuple[Tensor, Tensor]:
    """The matrix (3, 3) from RGB to Y, Cb, Cr about 0, and the tables (2, 8, 8) of Y and of the others."""
    colours = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    luminance = [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
    chroma = torch.full((8, 8), 99)
    chroma[:4, :4] = torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]])
    return torch.tensor(colours), torch.stack([torch.tensor(luminance), chroma])
