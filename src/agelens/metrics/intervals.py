"""Quality of predictive distributions and intervals: coverage, width, CRPS, log score, PIT.

[1] Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation, JASA 2007.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agelens.label_distribution import AgeBins, cumulative, cumulative_at
from agelens.metrics.checks import FloatArray, checked_columns, checked_distributions

__all__ = [
    "coverage",
    "crps",
    "crps_scores",
    "interval_width",
    "log_scores",
    "negative_log_likelihood",
    "pit",
]

LEAST_PROBABILITY = 1e-12
"""Probabilities below this count as this in the log score, so that one face cannot make it infinite."""


def coverage(ages: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of images whose true age lies in its interval, ends included.

    Args:
        ages: (N,) years.
        low: (N,) years.
        high: (N,) years.
    Returns:
        0 … 1.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    years, lower, upper = checked_columns(ages=ages, low=low, high=high)
    return float(((lower <= years) & (years <= upper)).mean())


def interval_width(low: ArrayLike, high: ArrayLike) -> float:
    """Mean width of the intervals.

    Args:
        low: (N,) years.
        high: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN, or an interval ends before it begins.
    """
    lower, upper = checked_columns(low=low, high=high)
    if (upper < lower).any():
        raise ValueError("an interval ends before it begins")
    return float((upper - lower).mean())


def crps(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> float:
    """CRPS, the continuous ranked probability score: Eq. 21 of [1], mean over the images.

    With all mass on one age it is the MAE, so it reads in years; smaller is better.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years; outside the bins too.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return float(crps_scores(distribution, bins, ages).mean())


def crps_scores(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Give the CRPS of each image: E|X - y| - E|X - X'| / 2, X and X' drawn from the distribution.

    For bins one year apart E|X - X'| / 2 is the sum of F (1 - F), F the cumulative distribution.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N,) years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    mass, years = checked_distributions(distribution, bins, ages)
    below = cumulative(mass)[:, :-1]
    distance = (mass * np.abs(bins.ages - years[:, None])).sum(axis=1)
    return np.asarray(distance - (below * (1.0 - below)).sum(axis=1), dtype=np.float64)


def negative_log_likelihood(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> float:
    """NLL of the labelled bin, mean over the images; ages outside the bins count as the outermost bin.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        Nats, at most -log(1e-12) an image.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return float(log_scores(distribution, bins, ages).mean())


def log_scores(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Give the negative log likelihood of each image's labelled bin.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N,) nats.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    mass, years = checked_distributions(distribution, bins, ages)
    labelled = mass[np.arange(len(mass)), bins.index(years)]
    return np.asarray(-np.log(np.maximum(labelled, LEAST_PROBABILITY)), dtype=np.float64)


def pit(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Give the probability integral transform F(age) of each image: uniform on 0 … 1 if calibrated.

    F is the piecewise linear cumulative distribution that intervals are read from, so a whole age stands at
    the middle of its bin (the mid-PIT, not randomised).

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N,) 0 … 1.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    mass, years = checked_distributions(distribution, bins, ages)
    return cumulative_at(mass, bins, years)
