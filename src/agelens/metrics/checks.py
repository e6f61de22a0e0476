"""Checked columns: arrays that are empty, disagree in shape or hold NaN raise ``ValueError``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.label_distribution import AgeBins

__all__ = ["FloatArray", "checked_columns", "checked_distributions"]

FloatArray = NDArray[np.float64]


def checked_columns(**named: ArrayLike) -> list[FloatArray]:
    """Convert columns to float64, one value an image.

    Args:
        **named: (N,) each; the names appear in the errors.
    Returns:
        (N,) each.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in named.values()]
    shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(named, arrays, strict=True))
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"shapes must be one and the same (N,): {shapes}")
    if not arrays[0].size:
        raise ValueError(f"there are no images: {shapes}")
    for name, array in zip(named, arrays, strict=True):
        if np.isnan(array).any():
            raise ValueError(f"{name} holds NaN")
    return arrays


def checked_distributions(
    distribution: ArrayLike, bins: AgeBins, ages: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Convert distributions and true ages to float64.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N, K) and (N,).
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    (years,) = checked_columns(ages=ages)
    mass = np.asarray(distribution, dtype=np.float64)
    if mass.shape != (years.size, len(bins)):
        raise ValueError(f"distribution {mass.shape} must be {(years.size, len(bins))}: ages by bins")
    if np.isnan(mass).any():
        raise ValueError("distribution holds NaN")
    return mass, years
