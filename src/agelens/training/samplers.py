"""Orders of an epoch other than a permutation.

All processes of a run draw the same order from the same seed and take disjoint parts of each of its batches
(see :mod:`agelens.training.fit`): what is uniform over the whole order stays so, and no two processes draw
the same stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["class_balanced", "set_weighted"]


def class_balanced(classes: NDArray[np.int64], length: int, generator: torch.Generator) -> NDArray[np.int64]:
    """Draw images such that every class is equally likely: a class uniformly, then an image of it uniformly.

    Sec. 2.4 of LAE (Bao et al. 2021), with replacement. A class without an image is never drawn.

    Args:
        classes: (N,) class of each image, ≥ 0.
        length: M, how many images to draw.
        generator: CPU generator; the only source of chance.
    Returns:
        (M,) indices into ``classes``.
    Raises:
        ValueError: No images.
    """
    if len(classes) == 0:
        raise ValueError("no images to draw from")
    by_class = np.argsort(classes, kind="stable")
    _, first, counts = np.unique(classes[by_class], return_index=True, return_counts=True)
    drawn = torch.randint(len(counts), (length,), generator=generator).numpy()
    share = torch.rand(length, generator=generator, dtype=torch.float64).numpy()
    members = (share * counts[drawn]).astype(np.int64)
    chosen: NDArray[np.int64] = by_class[first[drawn] + members].astype(np.int64)
    return chosen


def set_weighted(
    sets: NDArray[np.str_], weights: Mapping[str, float], length: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """Draw images with replacement, those of one data set more often than those of another.

    Args:
        sets: (N,) the set of each image.
        weights: By set, the weight of one image of it; 1 for a set that is not named.
        length: M, how many images to draw.
        generator: CPU generator; the only source of chance.
    Returns:
        (M,) indices into ``sets``.
    Raises:
        ValueError: No image has a weight above 0.
    """
    names, of_image = np.unique(sets, return_inverse=True)
    weight = np.array([float(weights.get(str(name), 1.0)) for name in names])[of_image]
    total = np.cumsum(weight)
    if len(total) == 0 or total[-1] <= 0:
        raise ValueError("no image to draw: all weights are 0")
    places = torch.rand(length, generator=generator, dtype=torch.float64).numpy() * total[-1]
    last = int(np.flatnonzero(weight)[-1])  # a place may be rounded up to the whole
    drawn: NDArray[np.int64] = np.searchsorted(total, places, side="right").clip(max=last).astype(np.int64)
    return drawn
