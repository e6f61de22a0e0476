"""Copies to the device that do not wait for what it is still computing, and places to sample there."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["sampling_grid", "to_device"]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; the host does not wait for the device.

    Args:
        values: On the CPU, any shape; it may be changed at once.
        device: Where it goes; the CPU gives back the tensor itself.
    """
    if device.type == "cpu":
        return values
    if device.type == "cuda":  # from pinned memory only does a copy not wait
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def sampling_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """The grid of ``torch.nn.functional.affine_grid`` (``align_corners=False``), as two planes.

    Args:
        theta: (B, 2, 3) from places in the result to places in the source, both in [-1, 1].
        height: Of the result, pixels.
        width: Of the result, pixels.
    Returns:
        (B, height, width, 2) for ``grid_sample``.
    """
    y, x = (_middles(side, theta.device) for side in (height, width))
    rows = theta[:, :, 1, None] * y + theta[:, :, 2, None]  # (B, 2, height)
    return torch.addcmul(rows[..., None], theta[:, :, 0, None, None], x).permute(0, 2, 3, 1)


@functools.lru_cache(maxsize=16)
def _middles(side: int, device: torch.device) -> Tensor:
    """(side,) float32 middles of the pixels of a line, in [-1, 1]."""
    return ((2 * torch.arange(side) + 1) / side - 1).to(device)
