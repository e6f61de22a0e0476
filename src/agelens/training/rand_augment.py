"""RandAugment of a whole batch on the device, without waiting for it.

The operations are drawn on the CPU. Images are then sorted by the kind of the operation that each drew, so
that a kind is a slice and not a mask: five geometric operations are one warp, four of colour one matrix,
posterising and solarising one operation on bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from agelens.training.transfer import sampling_grid, to_device

__all__ = ["LUMA", "OPERATIONS", "STRENGTHS", "Picks", "apply_picks", "draw_picks", "rand_augment"]

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey."""

STRENGTHS = 30
"""Largest M."""

OPERATIONS = (
    "identity",
    "shear x",
    "shear y",
    "translate x",
    "translate y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterise",
    "solarise",
    "autocontrast",
    "equalise",
)
"""The fourteen operations; a pick is an index into these."""

_TRUNCATION = 1e-3  # added before values are cut to whole numbers: 254.9999 is 255


class Picks(NamedTuple):
    """Operations that B images drew in one round, on the CPU.

    Attributes:
        operation: (B,) int64 indices into ``OPERATIONS``.
        sign: (B,) int64, -1 or 1.
    """

    operation: Tensor
    sign: Tensor


def draw_picks(batch: int, count: int, generator: torch.Generator) -> list[Picks]:
    """Draw ``count`` rounds of operations for ``batch`` images, uniformly.

    Args:
        batch: B.
        count: N.
        generator: CPU generator; the only source of chance.
    """
    return [
        Picks(
            torch.randint(len(OPERATIONS), (batch,), generator=generator),
            torch.randint(2, (batch,), generator=generator) * 2 - 1,
        )
        for _ in range(count)
    ]


def rand_augment(images: Tensor, count: int, magnitude: int, generator: torch.Generator) -> Tensor:
    """RandAugment: ``count`` operations an image, drawn uniformly, each at one strength.

    The fourteen operations and their ranges are those of [1] as torchvision scales them (31 steps); the sign
    of a signed one is drawn. Places that a geometric operation uncovers are black.

    Args:
        images: (B, 3, H, W) uint8.
        count: N.
        magnitude: M, 0 to 30.
        generator: CPU generator; the only source of chance.
    Returns:
        (B, 3, H, W) uint8.
    Raises:
        ValueError: M is out of range.

    [1] Cubuk et al., RandAugment: practical automated data augmentation with a reduced search space, 2020.
    """
    return apply_picks(images, draw_picks(len(images), count, generator), magnitude)


def apply_picks(images: Tensor, rounds: Sequence[Picks], magnitude: int) -> Tensor:
    """Apply the operations that images drew, one after another.

    Args:
        images: (B, 3, H, W) uint8.
        rounds: Of :func:`draw_picks`.
        magnitude: M, 0 to 30.
    Returns:
        (B, 3, H, W) uint8.
    Raises:
        ValueError: M is out of range.
    """
    if not 0 <= magnitude <= STRENGTHS:
        raise ValueError(f"magnitude must be 0 to {STRENGTHS}, not {magnitude}")
    for picks in rounds:
        images = _applied(images, picks, magnitude / STRENGTHS)
    return images


def _applied(images: Tensor, picks: Picks, share: float) -> Tensor:
    kinds = _KIND_OF[picks.operation]
    order = kinds.argsort(stable=True)
    counts = torch.bincount(kinds, minlength=len(_KINDS)).tolist()
    places = to_device(order, images.device)
    operations, strengths = picks.operation[order], (picks.sign[order] * share).float()
    parts = (torch.split(values, counts) for values in (images[places], operations, strengths))
    of_kinds = zip(_KINDS, *parts, strict=True)
    changed = [kind(*of_kind) if len(of_kind[0]) else of_kind[0] for kind, *of_kind in of_kinds]
    result = torch.empty_like(images)
    result[places] = torch.cat(changed)
    return result


def _same(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    return images


def _warped(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Shear, translate or rotate: where each pixel of the result comes from, as (x, y, 1) in [-1, 1]."""
    height, width = images.shape[2:]
    x, y, zero = strengths * width, strengths * height, torch.zeros(len(strengths))
    one = zero + 1
    shear_x, shear_y = 0.3 * y / width, 0.3 * x / height
    angle = math.radians(30.0) * strengths
    cos, sin = torch.cos(angle), torch.sin(angle)
    moved_x, moved_y = (-2 * (150 / 331 * moved).trunc() / side for moved, side in ((x, width), (y, height)))
    rows = {
        "shear x": (one, shear_x, shear_x, zero, one, zero),  # about the upper left corner, as torchvision
        "shear y": (one, zero, zero, shear_y, one, shear_y),
        "translate x": (one, zero, moved_x, zero, one, zero),
        "translate y": (one, zero, zero, zero, one, moved_y),
        "rotate": (cos, sin * height / width, zero, -sin * width / height, cos, zero),
    }
    matrices = torch.stack([torch.stack(row, dim=1) for row in rows.values()])  # (5, n, 6)
    of_kind = operations - OPERATIONS.index("shear x")
    theta = matrices[of_kind, torch.arange(len(operations))].view(-1, 2, 3)
    grid = sampling_grid(to_device(theta, images.device), height, width)
    sampled = F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return sampled.to(torch.uint8)


def _coloured(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Brightness, colour, contrast or the full range of each channel: a matrix and an offset."""
    device = images.device
    named = to_device(
        torch.stack(
            [operations == OPERATIONS.index(name) for name in ("colour", "contrast", "autocontrast")]
        ),
        device,
    )
    colour, contrast, stretch = named[:, :, None]
    gain = to_device(1 + 0.9 * strengths, device)[:, None]
    flat = images.flatten(2).float()  # (n, 3, HW)
    luma = torch.tensor(LUMA, device=device)
    grey = torch.einsum("nci,c->ni", flat, luma).floor_().mean(dim=1, keepdim=True)
    low, high = flat.amin(dim=2), flat.amax(dim=2)  # (n, 3)
    flat_channel = low == high
    full = torch.where(flat_channel, 1.0, 255.0 / (high - low).clamp(min=1))
    scale = torch.where(stretch, full, gain)
    offset = torch.where(contrast, (1 - gain) * grey, torch.where(stretch & ~flat_channel, -low * full, 0.0))
    mix = torch.where(colour, 1 - gain, 0.0)
    matrix = torch.diag_embed(scale) + mix[:, :, None] * luma
    mapped = torch.baddbmm((offset + _TRUNCATION)[:, :, None], matrix, flat)
    return mapped.clamp_(0, 255).to(torch.uint8).view_as(images)


def _in_bits(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Keep the leading bits, or invert what is bright."""
    posterise = operations == OPERATIONS.index("posterise")
    strengths = strengths.abs()
    kept = 8 - torch.where(posterise, (4 * strengths).round(), 0.0)
    masks = (256 - 2 ** (8 - kept)).to(torch.uint8)
    edges = torch.where(posterise, 256.0, (255.0 * (1 - strengths)).ceil()).short()
    masks, edges = (to_device(v, images.device)[:, None, None, None] for v in (masks, edges))
    return (images ^ ((images >= edges) * 255).to(torch.uint8)) & masks


def _sharpened(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Blend with a smoothed copy, or away from it; the border stays."""
    gain = to_device(1 + 0.9 * strengths, images.device)[:, None, None, None]
    if min(images.shape[2:]) < 3:
        return images
    whole = images.short()
    columns = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    sums = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]  # of 3 x 3 pixels
    inside = whole[:, :, 1:-1, 1:-1]
    smooth = ((sums + 4 * inside).float() / 13).round_()
    blended = torch.lerp(smooth, inside.float(), gain)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = (blended + _TRUNCATION).clamp_(0, 255).to(torch.uint8)
    return result


def _equalised(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    equalised: Tensor = tv.equalize(images)
    return equalised


_KINDS: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    _same,
    _warped,
    _coloured,
    _in_bits,
    _sharpened,
    _equalised,
)
_MEMBERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "identity": _same,
    "sharpness": _sharpened,
    "equalise": _equalised,
    **dict.fromkeys(("shear x", "shear y", "translate x", "translate y", "rotate"), _warped),
    **dict.fromkeys(("brightness", "colour", "contrast", "autocontrast"), _coloured),
    **dict.fromkeys(("posterise", "solarise"), _in_bits),
}
_KIND_OF = torch.tensor([_KINDS.index(_MEMBERS[name]) for name in OPERATIONS])
