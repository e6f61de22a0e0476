"""Augmentation of a whole batch at once, on the device the network runs on.

One affine sampling does crop, aspect, rotation, translation and flip; one 3×3 colour matrix does
brightness, contrast, saturation and the normalisation. Parameters are drawn on the CPU from a seeded
generator, so a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augmentation", "augment", "normalise", "resize_crops"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)
_Uniform = Callable[[float, float], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """What the training view of a face crop may do.

    The first three are LRN's (Sec. 4.3.1); the others are off in the paper's recipe.

    Attributes:
        scale: Range of the crop's area, as a share of the whole.
        aspect: Range of width over height, drawn log-uniformly.
        flip: Probability of mirroring.
        rotation: Largest rotation, degrees.
        brightness: Largest relative change; likewise contrast and saturation.
        grey: Probability of dropping the colour altogether (scans, old photographs).
        erase: Probability of erasing one rectangle of 2 to 20 % of the view (to the mean colour).
    """

    scale: tuple[float, float] = (0.8, 1.0)
    aspect: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    erase: float = 0.0


def resize_crops(crops: Tensor, size: int) -> Tensor:
    """Resize with anti-aliasing.

    Args:
        crops: (B, S, S, 3) uint8.
        size: Side of the result, pixels.
    Returns:
        (B, size, size, 3) uint8; the input itself when the size is the same.
    """
    if crops.shape[1] == size:
        return crops
    images = crops.permute(0, 3, 1, 2)
    resized = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)


def normalise(crops: Tensor) -> Tensor:
    """uint8 crops (B, S, S, 3) to normalised images (B, 3, S, S) in channels-last memory."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in IMAGENET_STD], device=crops.device)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]).to(crops.device)
    return torch.addcmul(shift, crops.float(), scale).permute(0, 3, 1, 2)


def augment(crops: Tensor, settings: Augmentation, size: int, generator: torch.Generator) -> Tensor:
    """Draw one training view of each crop.

    Args:
        crops: (B, S, S, 3) uint8, on any device.
        settings: What may happen.
        size: Side of the view, pixels.
        generator: CPU generator; the only source of chance.
    Returns:
        (B, 3, size, size) float32, normalised, channels-last memory.
    """
    batch = crops.shape[0]
    device = crops.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    area = uniform(*settings.scale)
    aspect = torch.exp(uniform(math.log(settings.aspect[0]), math.log(settings.aspect[1])))
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    centre_x = uniform(-1.0, 1.0) * (1.0 - width)
    centre_y = uniform(-1.0, 1.0) * (1.0 - height)
    mirror = torch.where(torch.rand(batch, generator=generator) < settings.flip, -1.0, 1.0)
    angle = uniform(-settings.rotation, settings.rotation) * (math.pi / 180.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([mirror * width * cos, -height * sin, centre_x], dim=1),
            torch.stack([mirror * width * sin, height * cos, centre_y], dim=1),
        ],
        dim=1,
    ).to(device)
    images = crops.permute(0, 3, 1, 2).contiguous().float()
    grid = F.affine_grid(theta, [batch, 3, size, size], align_corners=False)
    views = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    matrix, offset = _colour(batch, settings, uniform, generator)
    mean_grey = views.mean(dim=(2, 3)) @ torch.tensor(_LUMA, device=device)
    offset = offset.to(device) * mean_grey[:, None]
    scale = torch.tensor([1.0 / (255.0 * s) for s in IMAGENET_STD], device=device)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=device)
    weights = matrix.to(device) * scale[:, None]  # (B, 3, 3): rows are output channels
    bias = offset * scale + shift  # (B, 3)
    flat = torch.baddbmm(bias[:, :, None], weights, views.flatten(2))
    views = flat.view(batch, 3, size, size)
    if settings.erase > 0:
        views = views * _erasing(batch, size, settings.erase, uniform, generator).to(device)
    return views.contiguous(memory_format=torch.channels_last)


def _colour(
    batch: int, settings: Augmentation, uniform: _Uniform, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Colour matrix (B, 3, 3) and the weight of the mean grey (B, 1) that contrast adds."""
    brightness = uniform(1 - settings.brightness, 1 + settings.brightness)
    contrast = uniform(1 - settings.contrast, 1 + settings.contrast)
    saturation = uniform(1 - settings.saturation, 1 + settings.saturation)
    grey = torch.rand(batch, generator=generator) < settings.grey
    saturation = torch.where(grey, torch.zeros(()), saturation)
    luma = torch.tensor(_LUMA).expand(3, 3)
    mix = saturation[:, None, None] * torch.eye(3) + (1 - saturation)[:, None, None] * luma
    gain = (brightness * contrast)[:, None, None]
    return gain * mix, (brightness * (1 - contrast))[:, None]


def _erasing(
    batch: int, size: int, probability: float, uniform: _Uniform, generator: torch.Generator
) -> Tensor:
    """(B, 1, size, size) mask: 0 inside the erased rectangle, else 1."""
    area = uniform(0.02, 0.2)
    aspect = torch.exp(uniform(-math.log(3.0), math.log(3.0)))
    half_width = (area * aspect).sqrt().clamp(max=1.0) / 2
    half_height = (area / aspect).sqrt().clamp(max=1.0) / 2
    centre_x, centre_y = uniform(0.0, 1.0), uniform(0.0, 1.0)
    chosen = torch.rand(batch, generator=generator) < probability
    position = (torch.arange(size) + 0.5) / size
    inside_x = (position[None, :] - centre_x[:, None]).abs() < half_width[:, None]
    inside_y = (position[None, :] - centre_y[:, None]).abs() < half_height[:, None]
    inside = inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None]
    return (~inside).float()[:, None]
