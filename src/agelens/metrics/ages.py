"""Errors of age estimates: MAE, RMSE, bias, CA(n) and the ε-error.

[1] Li et al., Deep label refinement for age estimation (LRN), Pattern Recognition 2020.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from agelens.metrics.checks import FloatArray, checked_columns

__all__ = [
    "absolute_errors",
    "bias",
    "cumulative_accuracy",
    "epsilon_error",
    "epsilon_scores",
    "mae",
    "rmse",
]


def absolute_errors(predicted: ArrayLike, ages: ArrayLike) -> FloatArray:
    """Take the error of each image, without its sign.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        (N,) years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    estimates, years = checked_columns(predicted=predicted, ages=ages)
    return np.abs(estimates - years)


def mae(predicted: ArrayLike, ages: ArrayLike) -> float:
    """MAE, the mean absolute error: Eq. 21 of [1].

    >>> mae([20.0, 33.0], [21.0, 30.0])
    2.0

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return float(absolute_errors(predicted, ages).mean())


def rmse(predicted: ArrayLike, ages: ArrayLike) -> float:
    """RMSE, the root of the mean squared error.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return math.sqrt(float((absolute_errors(predicted, ages) ** 2).mean()))


def bias(predicted: ArrayLike, ages: ArrayLike) -> float:
    """Mean signed error; positive = estimated too old.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    estimates, years = checked_columns(predicted=predicted, ages=ages)
    return float((estimates - years).mean())


def cumulative_accuracy(predicted: ArrayLike, ages: ArrayLike, n: float) -> float:
    """CA(n), the share of images whose absolute error is strictly less than n: Eq. 23 of [1].

    >>> cumulative_accuracy([20.0, 33.0], [21.0, 30.0], 3)
    50.0

    Args:
        predicted: (N,) years.
        ages: (N,) years.
        n: Years.
    Returns:
        Per cent.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return 100.0 * float((absolute_errors(predicted, ages) < n).mean())


def epsilon_error(predicted: ArrayLike, mean: ArrayLike, std: ArrayLike) -> float:
    """ε-error of apparent ages: Eq. 22 of [1].

    Where all voters agreed (σ = 0) the equation is open; we take its limit: 0 if the estimate is their age
    exactly, else 1.

    Args:
        predicted: (N,) years.
        mean: (N,) mean of the voters, years.
        std: (N,) their standard deviation, >= 0, years.
    Returns:
        0 … 1, smaller is better.
    Raises:
        ValueError: Empty, shapes disagree, NaN, negative deviation.
    """
    return float(epsilon_scores(predicted, mean, std).mean())


def epsilon_scores(predicted: ArrayLike, mean: ArrayLike, std: ArrayLike) -> FloatArray:
    """Give the ε-error of each image.

    Args:
        predicted: (N,) years.
        mean: (N,) mean of the voters, years.
        std: (N,) their standard deviation, >= 0, years.
    Returns:
        (N,) 0 … 1.
    Raises:
        ValueError: Empty, shapes disagree, NaN, negative deviation.
    """
    estimates, centres, deviations = checked_columns(predicted=predicted, mean=mean, std=std)
    if (deviations < 0).any():
        raise ValueError("std must not be negative")
    distance = np.abs(estimates - centres)
    agreed = deviations == 0
    scaled = distance / np.where(agreed, 1.0, deviations)
    return np.where(agreed, distance > 0, -np.expm1(-(scaled**2) / 2))
