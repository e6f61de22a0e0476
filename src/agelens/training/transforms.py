"""Augmentation of a whole batch at once, on the device the network runs on.

One affine sampling does crop, aspect, rotation, translation and flip; one 3×3 colour matrix does
brightness, contrast, saturation, hue and the normalisation. RandAugment, whose operations are not linear,
comes before the normalisation (:mod:`agelens.training.rand_augment`). Parameters are drawn on the CPU from
a seeded generator, so a resumed run draws what an uninterrupted one would have drawn; a device gets them
without being waited for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from agelens.training.degrade import Degradations, degraded, draw_degradations
from agelens.training.rand_augment import LUMA, Picks, apply_picks, draw_picks
from agelens.training.transfer import sampling_grid, to_device

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "augment",
    "network_input",
    "normalise",
    "pixels",
    "resize_crops",
    "resize_images",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_Uniform = Callable[[float, float], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Settings of the training view of a face crop.

    The first three are LRN's (Sec. 4.3.1); the others are off in the paper's recipe.

    Attributes:
        scale: Range of the crop's area, as a share of the whole.
        aspect: Range of width over height, drawn log-uniformly.
        redraw: Draw area and aspect again where the crop would not fit, up to ten times, and take the whole
            where none does, as torchvision's RandomResizedCrop. Off: the longer side is cut to fit, so that
            crops are a little larger and less oblong.
        flip: Probability of mirroring.
        rotation: Largest rotation, degrees.
        brightness: Largest relative change; likewise contrast and saturation.
        hue: Largest turn of the hue, as a share of the colour circle.
        grey: Probability of dropping the colour altogether (scans, old photographs).
        tint: Largest relative change of each colour channel by itself (yellowed prints, lamps).
        soften: Probability of losing detail: the view is shrunk by up to 2.5 and enlarged again (scans, soft
            focus, strong compression).
        erase: Probability of erasing one rectangle of 2 to 20 % of the view (to the mean colour).
        cover: Probability that a part of the face is covered (mask, sunglasses, a hand); this and the next
            three: :mod:`agelens.training.degrade`.
        expose: Probability of under- or overexposure.
        noise: Probability of noise.
        compress: Probability of strong compression.
        randaugment: N, how many operations of RandAugment follow one another; 0 = none.
        magnitude: M, their strength, 0 to 30.
    """

    scale: tuple[float, float] = (0.8, 1.0)
    aspect: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    tint: float = 0.0
    soften: float = 0.0
    erase: float = 0.0
    cover: float = 0.0
    expose: float = 0.0
    noise: float = 0.0
    compress: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    redraw: bool = False


def resize_crops(crops: Tensor, size: int) -> Tensor:
    """Resize with anti-aliasing.

    Args:
        crops: (B, S, S, 3) uint8.
        size: Side of the result, pixels.
    Returns:
        (B, size, size, 3) uint8; the input itself when the size is the same. Only the CPU resamples bytes;
        elsewhere they are resampled in float32 and rounded, so that a value may differ by 1.
    """
    if crops.shape[1] == size:
        return crops
    images = crops.permute(0, 3, 1, 2)
    if crops.device.type == "cpu":
        resized = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    else:
        resized = resize_images(images.float(), size).round().clamp(0, 255).to(torch.uint8)
    return resized.permute(0, 2, 3, 1)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize float images (B, C, S, S) with anti-aliasing; the input itself when the size is the same."""
    side = images.shape[-1]
    if side == size:
        return images
    if images.device.type in ("cpu", "cuda"):
        resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    else:  # other devices lack the kernel: it is separable, a matrix on either side
        weights = _resampling(side, size).to(images.device, images.dtype)
        with torch.autocast(images.device.type, enabled=False):
            resized = weights @ images @ weights.T
    return resized.contiguous(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=16)
def _resampling(side: int, size: int) -> Tensor:
    """(size, side) weights of the anti-aliased resampling of one axis, on the CPU."""
    with torch.inference_mode(False):  # kept for other callers than the first
        columns = torch.eye(side)[None, None]
        resampled = F.interpolate(columns, (size, side), mode="bilinear", antialias=True, align_corners=False)
        return resampled[0, 0]


def network_input(crops: NDArray[np.uint8], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Resize and normalise crops as in use, without augmentation.

    Args:
        crops: (B, S, S, 3) RGB.
        size: Side of the network's input, pixels.
        device: Of the result.
    Returns:
        (B, 3, size, size) float32 in channels-last memory.
    """
    return normalise(resize_crops(torch.from_numpy(crops).to(device), size))


def normalise(crops: Tensor) -> Tensor:
    """uint8 crops (B, S, S, 3) to normalised images (B, 3, S, S) in channels-last memory."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in IMAGENET_STD], device=crops.device)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]).to(crops.device)
    return torch.addcmul(shift, crops.float(), scale).permute(0, 3, 1, 2)


def pixels(images: Tensor) -> Tensor:
    """Normalised images (B, 3, S, S) back to uint8 crops (B, S, S, 3), rounded and clipped."""
    scale = torch.tensor([255.0 * s for s in IMAGENET_STD], device=images.device)
    shift = torch.tensor([255.0 * m for m in IMAGENET_MEAN], device=images.device)
    crops = torch.addcmul(shift, images.float().permute(0, 2, 3, 1), scale)
    return crops.round().clamp(0, 255).to(torch.uint8).contiguous()


def augment(crops: Tensor, settings: Augmentation, size: int, generator: torch.Generator) -> Tensor:
    """Draw one training view of each crop.

    Args:
        crops: (B, S, S, 3) uint8, on any device.
        settings: Ranges and probabilities.
        size: Side of the view, pixels.
        generator: CPU generator; the only source of chance.
    Returns:
        (B, 3, size, size) float32, normalised, channels-last memory.
    """
    batch = len(crops)
    drawn = _drawn(batch, settings, generator)
    block = _BLOCK_OF_BYTES if drawn.picks else _BLOCK
    if crops.device.type != "cpu" or batch <= block:
        views = _views(crops, drawn, settings, size)
        return views.contiguous(memory_format=torch.channels_last)
    whole = torch.empty((batch, 3, size, size), memory_format=torch.channels_last)
    for start in range(0, batch, block):
        part = slice(start, start + block)
        whole[part] = _views(crops[part], drawn.part(part), settings, size)
    return whole


# Images that a CPU works on at a time, so that what is between two steps stays in its cache.
_BLOCK = 8
_BLOCK_OF_BYTES = 32  # with RandAugment, which is on bytes and sorts the images into kinds


class _Drawn(NamedTuple):
    """All that the views of B crops drew, on the CPU."""

    theta: Tensor  # (B, 2, 3), from places in the view to places in the crop
    soft: Tensor | None  # (B,) index into _SOFTENED, -1: not softened
    matrix: Tensor  # (B, 3, 3) of the colours
    offset: Tensor  # (B, 1), weight of the mean grey
    picks: tuple[Picks, ...]  # of RandAugment
    erased: Tensor | None  # (B, 4): middle and half sides as shares of the view, x first
    worse: Degradations | None

    def part(self, rows: slice) -> _Drawn:
        soft, erased = (None if v is None else v[rows] for v in (self.soft, self.erased))
        picks = tuple(Picks(*(values[rows] for values in round_)) for round_ in self.picks)
        worse = None if self.worse is None else self.worse.part(rows)
        return _Drawn(self.theta[rows], soft, self.matrix[rows], self.offset[rows], picks, erased, worse)


def _drawn(batch: int, settings: Augmentation, generator: torch.Generator) -> _Drawn:
    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    width, height = _crop_sides(settings, uniform)
    centre_x = uniform(-1.0, 1.0) * (1.0 - width)
    centre_y = uniform(-1.0, 1.0) * (1.0 - height)
    mirror = torch.where(torch.rand(batch, generator=generator) < settings.flip, -1.0, 1.0)
    angle = uniform(-settings.rotation, settings.rotation) * (math.pi / 180.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [mirror * width * cos, -height * sin, centre_x, mirror * width * sin, height * cos, centre_y], dim=1
    ).view(batch, 2, 3)
    soft = None
    if settings.soften > 0:
        chosen = torch.rand(batch, generator=generator) < settings.soften
        soft = torch.randint(len(_SOFTENED), (batch,), generator=generator).masked_fill(~chosen, -1)
    matrix, offset = _colour(batch, settings, uniform, generator)
    picks = draw_picks(batch, settings.randaugment, generator)
    erased = _erasing(batch, settings.erase, uniform, generator) if settings.erase > 0 else None
    shares = (settings.cover, settings.expose, settings.noise, settings.compress)
    worse = draw_degradations(batch, *shares, generator) if any(shares) else None
    return _Drawn(theta, soft, matrix, offset, tuple(picks), erased, worse)


def _views(crops: Tensor, drawn: _Drawn, settings: Augmentation, size: int) -> Tensor:
    """Views (B, 3, size, size) of crops, as they were drawn; in any memory format."""
    batch, device = len(crops), crops.device
    # A CPU samples pixels as they lie in the crops; planes of their own would only be another copy.
    layout = torch.preserve_format if device.type == "cpu" else torch.contiguous_format
    images = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
    if drawn.worse is not None:
        images = degraded(images, drawn.worse)
    views = _sampled(images, sampling_grid(to_device(drawn.theta, device), size, size))
    if drawn.soft is not None:
        views = _softened(views, drawn.soft)
    matrix = to_device(drawn.matrix, device)
    scale, shift, luma = _constants(device)
    offset = torch.zeros((), device=device)
    if settings.contrast > 0:
        offset = to_device(drawn.offset, device) * (views.mean(dim=(2, 3)) @ luma)[:, None]
    if drawn.picks:  # RandAugment's operations are defined on pixels: normalise afterwards
        bias = offset.expand(batch, 3)
        flat = torch.baddbmm(bias[:, :, None], matrix, views.flatten(2))
        pixels = flat.round().clamp(0, 255).to(torch.uint8).view(batch, 3, size, size)
        pixels = apply_picks(pixels, drawn.picks, settings.magnitude)
        views = torch.addcmul(shift[:, None, None], pixels.float(), scale[:, None, None])
    else:
        weights = matrix * scale[:, None]  # (B, 3, 3): rows are output channels
        bias = torch.addcmul(shift, offset, scale).expand(batch, 3)
        views = torch.baddbmm(bias[:, :, None], weights, views.flatten(2)).view(batch, 3, size, size)
    if drawn.erased is not None:
        rows = drawn.erased[:, 2].nonzero().squeeze(1)
        if len(rows):
            places = to_device(rows, device)
            views[places] = views[places] * _kept(to_device(drawn.erased[rows], device), size)
    return views


@functools.lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift (3,) of the normalisation of pixels, and the weights (3,) of grey."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in IMAGENET_STD])
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    return scale.to(device), shift.to(device), torch.tensor(LUMA).to(device)


def _crop_sides(settings: Augmentation, uniform: _Uniform) -> tuple[Tensor, Tensor]:
    """Draw width and height (B,) of crops, as shares of the whole."""

    def drawn() -> tuple[Tensor, Tensor]:
        area = uniform(*settings.scale)
        aspect = torch.exp(uniform(math.log(settings.aspect[0]), math.log(settings.aspect[1])))
        return (area * aspect).sqrt(), (area / aspect).sqrt()

    width, height = drawn()
    if not settings.redraw:
        return width.clamp(max=1.0), height.clamp(max=1.0)
    for _ in range(_DRAWS - 1):
        outside = torch.maximum(width, height) > 1.0
        again = drawn()
        width, height = torch.where(outside, again[0], width), torch.where(outside, again[1], height)
    outside = torch.maximum(width, height) > 1.0
    return width.masked_fill(outside, 1.0), height.masked_fill(outside, 1.0)


_DRAWS = 10  # of torchvision


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images (B, 3, S, S) at a grid (B, H, W, 2); places outside take the nearest border pixel."""
    padding = "border"
    if images.device.type == "mps":  # has no such padding: places beyond the outer pixels' centres are moved
        inside = 1 - 1 / images.shape[-1]
        grid, padding = grid.clamp(-inside, inside), "zeros"
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


_SOFTENED = (0.4, 0.5, 0.65, 0.8)
"""Sides, as shares of the view's, that a softened view is shrunk to."""


def _softened(views: Tensor, levels: Tensor) -> Tensor:
    """Shrink views (B, 3, S, S) to a share of ``_SOFTENED`` each, and enlarge them again; -1: not."""
    size = views.shape[2]
    for level, share in enumerate(_SOFTENED):
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows):
            places = to_device(rows, views.device)
            small = _shrunk(views[places], share)
            views[places] = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
    return views


def _shrunk(views: Tensor, share: float) -> Tensor:
    """Views (B, 3, S, S) at a share of their size, anti-aliased."""
    if views.device.type in ("cpu", "cuda"):
        return F.interpolate(views, scale_factor=share, mode="bilinear", antialias=True)
    return resize_images(views, math.floor(views.shape[2] * share))


def _colour(
    batch: int, settings: Augmentation, uniform: _Uniform, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Colour matrix (B, 3, 3) and the weight of the mean grey (B, 1) that contrast adds."""
    brightness = uniform(1 - settings.brightness, 1 + settings.brightness)
    contrast = uniform(1 - settings.contrast, 1 + settings.contrast)
    saturation = uniform(1 - settings.saturation, 1 + settings.saturation)
    grey = torch.rand(batch, generator=generator) < settings.grey
    saturation = torch.where(grey, torch.zeros(()), saturation)
    luma = torch.tensor(LUMA).expand(3, 3)
    mix = saturation[:, None, None] * torch.eye(3) + (1 - saturation)[:, None, None] * luma
    if settings.hue > 0:
        mix = _hue(uniform(-settings.hue, settings.hue)) @ mix
    if settings.tint > 0:  # after the grey: an old print is tinted as a whole
        channels = torch.stack([uniform(1 - settings.tint, 1 + settings.tint) for _ in range(3)], dim=1)
        mix = channels[:, :, None] * mix
    gain = (brightness * contrast)[:, None, None]
    return gain * mix, (brightness * (1 - contrast))[:, None]


def _hue(turns: Tensor) -> Tensor:
    """(B, 3, 3) rotations of the colours about the grey axis: hue without a detour over HSV."""
    angle = 2 * math.pi * turns[:, None, None]
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return torch.cos(angle) * torch.eye(3) + torch.sin(angle) * cross + (1 - torch.cos(angle)) / 3


def _erasing(batch: int, probability: float, uniform: _Uniform, generator: torch.Generator) -> Tensor:
    """(B, 4) rectangles: middle x and y, half width and height, as shares of the view; 0 wide: none."""
    area = uniform(0.02, 0.2)
    aspect = torch.exp(uniform(-math.log(3.0), math.log(3.0)))
    half_width = (area * aspect).sqrt().clamp(max=1.0) / 2
    half_height = (area / aspect).sqrt().clamp(max=1.0) / 2
    centre_x, centre_y = uniform(0.0, 1.0), uniform(0.0, 1.0)
    chosen = torch.rand(batch, generator=generator) < probability
    return torch.stack([centre_x, centre_y, half_width * chosen, half_height * chosen], dim=1)


def _kept(erased: Tensor, size: int) -> Tensor:
    """(B, 1, size, size): 0 inside the rectangles of :func:`_erasing`, else 1."""
    position = (torch.arange(size, device=erased.device) + 0.5) / size
    centre_x, centre_y, half_width, half_height = erased.T[:, :, None]
    inside_x = (position - centre_x).abs() < half_width
    inside_y = (position - centre_y).abs() < half_height
    inside: Tensor = inside_y[:, :, None] & inside_x[:, None, :]
    return (~inside).float()[:, None]
