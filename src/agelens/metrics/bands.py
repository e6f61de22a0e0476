"""Metrics where a label is an age band: distance, band accuracy, censored coverage.

A band is given by its ends in completed years, both included. The age itself is not known, so an error has a
lower bound (the distance to the band) and coverage has two: intervals that hold the whole band cover for
certain, those that do not touch it miss for certain.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.label_distribution import AgeBins
from agelens.metrics.checks import FloatArray, checked_columns

__all__ = [
    "CensoredCoverage",
    "band_accuracy",
    "band_distance",
    "band_distances",
    "band_hits",
    "band_masses",
    "censored_coverage",
    "most_probable_band",
]


class CensoredCoverage(NamedTuple):
    """Coverage of intervals where the true ages are known by their bands: between two shares, 0 … 1."""

    certain: float
    """Share of intervals that hold the whole band."""
    possible: float
    """Share of intervals that touch the band."""


def band_distances(predicted: ArrayLike, low: ArrayLike, high: ArrayLike) -> FloatArray:
    """Distance of each estimate to its band: 0 inside, the error itself where the band is one age.

    Args:
        predicted: (N,) years.
        low: (N,) lower ends, years.
        high: (N,) upper ends, years.
    Returns:
        (N,) years.
    Raises:
        ValueError: Empty, shapes disagree, NaN, or a band ends before it begins.
    """
    estimates, lower, upper = _checked_bands(predicted, low, high)
    return np.maximum(np.maximum(lower - estimates, estimates - upper), 0.0)


def band_distance(predicted: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Mean of :func:`band_distances`: a lower bound of the MAE.

    >>> band_distance([25.0, 33.0], [20, 20], [29, 29])
    2.0
    """
    return float(band_distances(predicted, low, high).mean())


def band_hits(predicted: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    """Whether the completed year of each estimate lies in its band.

    Args:
        predicted: (N,) years.
        low: (N,) lower ends, completed years.
        high: (N,) upper ends, completed years, included: 29.9 is in 20-29.
    Returns:
        (N,) hits.
    Raises:
        ValueError: As in :func:`band_distances`.
    """
    estimates, lower, upper = _checked_bands(predicted, low, high)
    years = np.floor(estimates)
    return np.asarray((lower <= years) & (years <= upper))


def band_accuracy(predicted: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of :func:`band_hits`, per cent.

    >>> band_accuracy([25.0, 29.9, 30.0, 70.0], [20, 20, 20, 70], [29, 29, 29, 130])
    75.0
    """
    return 100.0 * float(band_hits(predicted, low, high).mean())


def band_masses(distribution: ArrayLike, bins: AgeBins, bands: ArrayLike) -> FloatArray:
    """Probability of each of M bands.

    Args:
        distribution: (N, K).
        bins: K age bins; a band beyond them has the mass of the nearest bin.
        bands: (M, 2) lower and upper ends, completed years.
    Returns:
        (N, M).
    Raises:
        ValueError: Wrong shapes.
    """
    mass = np.asarray(distribution, dtype=np.float64)
    ends = np.asarray(bands, dtype=np.float64)
    if mass.ndim != 2 or mass.shape[1] != len(bins) or ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError(f"distribution {mass.shape} must be (N, {len(bins)}) and bands {ends.shape} (M, 2)")
    within = bins.index(ends)
    k = np.arange(len(bins))
    inside = (k >= within[:, :1]) & (k <= within[:, 1:])
    return np.asarray(mass @ inside.T.astype(np.float64))


def most_probable_band(distribution: ArrayLike, bins: AgeBins, bands: ArrayLike) -> NDArray[np.int64]:
    """Find the most probable of M bands, as a classifier of bands would.

    Args:
        distribution: (N, K).
        bins: K age bins.
        bands: (M, 2) lower and upper ends, completed years; of equal masses the first one counts.
    Returns:
        (N,) position of the band.
    Raises:
        ValueError: Wrong shapes.
    """
    return np.asarray(band_masses(distribution, bins, bands).argmax(axis=1), dtype=np.int64)


def censored_coverage(
    low: ArrayLike, high: ArrayLike, interval_low: ArrayLike, interval_high: ArrayLike
) -> CensoredCoverage:
    """Coverage of intervals where the true age is known by its band.

    Both ends of a band are ages that the label allows; a band of one age gives the plain coverage, twice.

    Args:
        low: (N,) lower ends of the bands, years.
        high: (N,) upper ends, years.
        interval_low: (N,) years.
        interval_high: (N,) years.
    Returns:
        The certain and the possible share.
    Raises:
        ValueError: Empty, shapes disagree, NaN, or a band ends before it begins.
    """
    lower, upper, first, last = checked_columns(
        low=low, high=high, interval_low=interval_low, interval_high=interval_high
    )
    _checked_bands(first, lower, upper)
    whole = (first <= lower) & (upper <= last)
    touched = (first <= upper) & (lower <= last)
    return CensoredCoverage(float(whole.mean()), float(touched.mean()))


def _checked_bands(predicted: ArrayLike, low: ArrayLike, high: ArrayLike) -> list[FloatArray]:
    columns = checked_columns(predicted=predicted, low=low, high=high)
    if (columns[2] < columns[1]).any():
        raise ValueError("a band ends before it begins")
    return columns
