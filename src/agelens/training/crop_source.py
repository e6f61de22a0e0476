"""Crops of the epoch loop: on the device, if they fit there, else in memory, a batch ahead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agelens.cores import usable_cores
from agelens.data.crop_set import CropSet
from agelens.training.transfer import to_device

__all__ = ["ResidentCrops", "crop_tensor", "one_ahead", "source_for", "worth_one_ahead"]

_SHARE = 0.25  # of a device's free memory that crops may take
_BLOCK = 2048  # crops that are copied to a device at a time

Made = TypeVar("Made")


@dataclass(frozen=True)
class ResidentCrops(CropSet):
    """Crops that lie on a device.

    Attributes:
        resident: (N, S, S, 3) uint8 there, in the order of the set.
    """

    resident: Tensor = field(default_factory=lambda: torch.empty(0))


def crop_tensor(crops: CropSet, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Take crops to a device, from wherever their set keeps them.

    Args:
        crops: N crops.
        rows: (B,) places in the set.
        device: Of the result.
    Returns:
        (B, S, S, 3) uint8.
    """
    if isinstance(crops, ResidentCrops):
        return crops.resident[to_device(torch.from_numpy(rows), crops.resident.device)]
    return to_device(torch.from_numpy(crops.crops(rows)), device)


def source_for(crops: CropSet, device: torch.device) -> CropSet:
    """Bring training crops to the device if they fit.

    Args:
        crops: N crops.
        device: That trains.
    Returns:
        The same crops: on the device where they take at most a quarter of its free memory, else as they are;
        as they are, too, on the CPU, and where a device shares its memory.
    """
    free = _free_bytes(device)
    if free is None or len(crops) * crops.side**2 * 3 > _SHARE * free:
        return crops
    own = {item.name: getattr(crops, item.name) for item in fields(CropSet)}
    resident = torch.empty((len(crops), crops.side, crops.side, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(crops), _BLOCK):
        part = slice(start, start + _BLOCK)
        resident[part] = torch.from_numpy(crops.crops(part)).to(device)
    return ResidentCrops(**own, resident=resident)


def _free_bytes(device: torch.device) -> int | None:
    """Free memory of a device that has its own; None: it has none."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def worth_one_ahead(crops: CropSet, device: torch.device) -> bool:
    """Say whether a thread of its own should make the next batch while the device computes one.

    Args:
        crops: Of :func:`source_for`.
        device: That trains.
    Returns:
        For a GPU whose crops are in memory, and for a CPU if the threads of all processes leave a core idle.
    """
    if device.type != "cpu":
        return device.type == "cuda" and not isinstance(crops, ResidentCrops)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return usable_cores() > torch.get_num_threads() * processes


def one_ahead(make: Callable[[int], Made], count: int, ahead: bool) -> Iterator[Made]:
    """Make things in order, each while the one before it is in use.

    Args:
        make: Makes the thing of a number; never called twice at once.
        count: How many.
        ahead: Whether to use a thread; else each is made when it is asked for.
    """
    if not ahead:
        yield from map(make, range(count))
        return
    with ThreadPoolExecutor(1, thread_name_prefix="agelens-batches") as pool:
        waiting = pool.submit(make, 0) if count else None
        for number in range(1, count + 1):
            assert waiting is not None
            made = waiting.result()
            waiting = pool.submit(make, number) if number < count else None
            yield made
