"""Comparison of a network with a constant estimate, one age for everybody."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agelens.metrics.ages import mae

__all__ = ["uselessness"]

_SPREAD = 0.05  # of the ages' deviation; below it estimates count as one


def uselessness(estimates: NDArray[np.float64], ages: NDArray[np.float64]) -> str:
    """Say why estimates are no better than one age for everybody; nothing if they are.

    Args:
        estimates: (N,) years.
        ages: (N,) years.
    Returns:
        A sentence for the user: the estimates hardly vary although the ages do, or their MAE is not below
        that of the median age; ``""`` otherwise, and where all ages are the same.
    Raises:
        ValueError: The arrays are empty, disagree in shape or hold NaN.
    """
    error = mae(estimates, ages)
    spread = float(np.std(ages))
    if spread == 0:
        return ""
    median = float(np.median(ages))
    constant = mae(np.full(len(ages), median), ages)
    if float(np.std(estimates)) < _SPREAD * spread:
        return f"it gives nearly the same age to everybody ({np.mean(estimates):.1f} years, MAE {error:.2f})"
    if error >= constant:
        return f"its MAE of {error:.2f} is no better than the median age for everybody ({constant:.2f})"
    return ""
