"""Calibration of a network's distribution on held-out faces: a temperature, then conformal intervals.

The order is fixed: (1) one temperature maximises the likelihood of the labels [1]; (2) the central
intervals of that distribution are widened or narrowed until their coverage equals their level [2].
The ends of an interval are quantiles of the calibrated distribution, while the estimate may also average in
a regression head: the interval need not be centred on it.

[1] Guo et al., On calibration of modern neural networks, ICML 2017.
[2] Vovk et al., Algorithmic learning in a random world, 2005; split conformal prediction with the nested
    central intervals of Romano et al., Conformalized quantile regression, NeurIPS 2019.
[3] Czado, Gneiting, Held, Predictive model assessment for count data, Biometrics 2009: the probability
    integral transform of an outcome that is known to lie in a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.errors import InputError
from agelens.label_distribution import AgeBins, cumulative_at, interval, softmax
from agelens.shift import ShiftCorrection

__all__ = [
    "CENSORED_SCORES",
    "LEVEL_GRID",
    "Calibration",
    "central_level",
    "conformal_levels",
    "conformal_scores",
]

FloatArray = NDArray[np.float64]

LEVEL_GRID = tuple(percent / 100 for percent in range(1, 100))
"""Coverages for which a nominal level is stored: 0.01 … 0.99."""

CENSORED_SCORES = 20
"""Scores of each face where some labels are bands: evenly spaced over the values of F that a band allows."""

_TEMPERATURES = (0.02, 50.0)


@dataclass(frozen=True)
class Calibration:
    """Temperature and nominal levels, fitted on held-out faces; part of the model file.

    Attributes:
        temperature: Divides the raw logits; it takes the place of the training temperature tau.
        level_grid: Coverages, rising, in 0 … 1.
        nominal_levels: The central level of the calibrated distribution that reaches each of them; 1 stands
            for the whole range of the bins.
        samples: Number of faces it was fitted on.
        split: The split they came from.
        shift: Corrects the distribution by the look of the crop, before its intervals; None: nothing does.
    """

    temperature: float
    level_grid: tuple[float, ...]
    nominal_levels: tuple[float, ...]
    samples: int
    split: str
    shift: ShiftCorrection | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        points, levels = len(self.level_grid), len(self.nominal_levels)
        if points < 2 or points != levels:
            raise ValueError(f"level_grid ({points}) and nominal_levels ({levels}) need one length, >= 2")
        if not all(0 < level < 1 for level in self.level_grid) or not _rising(self.level_grid, strictly=True):
            raise ValueError("level_grid must rise within 0 … 1")
        if not all(0 <= level <= 1 for level in self.nominal_levels) or not _rising(self.nominal_levels):
            raise ValueError("nominal_levels must rise within 0 … 1")
        if self.samples < 1:
            raise ValueError(f"samples must be positive, not {self.samples}")

    @classmethod
    def fit(
        cls,
        logits: ArrayLike | None,
        ages: ArrayLike,
        bins: AgeBins,
        split: str = "val",
        bounds: ArrayLike | None = None,
    ) -> Calibration:
        """Fit temperature and intervals on faces that the network was not trained on.

        The temperature minimises the mean negative log likelihood of the labelled bin (ages outside the bins
        count as the outermost bin, an age between two bins as both), by golden section over its logarithm:
        the likelihood is concave in 1 / temperature, so there is one optimum. The nominal level for coverage
        c is the ceil((n + 1) c)-th smallest score, a score being :func:`central_level` of the true age; with
        n exchangeable faces the coverage is then at least c. Ages outside the bins are never covered.

        Where the label is a band, its likelihood is the mass of the band, and the score is *censored*: F(age)
        lies between F at both ends of the band, evenly if the distribution is right inside it [3], so the
        face counts with :data:`CENSORED_SCORES` scores, each of a share of one face.

        Args:
            logits: (N, K) raw logits, before any temperature; None for a network that only regresses.
            ages: (N,) years; NaN where the label is a band.
            bins: K age bins.
            split: The split the faces come from, for the record.
            bounds: (N, 2) both ends of the labels in completed years; None: no label is a band.
        Returns:
            The calibration.
        Raises:
            InputError: There are no logits: a network that only regresses has no distribution to calibrate.
            ValueError: Shapes disagree, there are no faces, or a value is not finite.
        """
        if logits is None:
            raise InputError("a network without logits (regression only) has no distribution to calibrate")
        scores = np.asarray(logits, dtype=np.float64)
        years = np.asarray(ages, dtype=np.float64)
        if scores.ndim != 2 or scores.shape != (years.size, len(bins)) or years.ndim != 1 or not years.size:
            raise ValueError(
                f"logits {scores.shape} and ages {years.shape} must be (N, {len(bins)}) and (N,), N > 0"
            )
        banded = np.zeros(years.shape, np.bool_) if bounds is None else np.isnan(years)
        ends = np.stack([years, years], axis=1) if bounds is None else np.asarray(bounds, dtype=np.float64)
        if ends.shape != (years.size, 2):
            raise ValueError(f"bounds {ends.shape} must be ({years.size}, 2)")
        if not (np.isfinite(scores).all() and np.isfinite(ends).all() and np.isfinite(years[~banded]).all()):
            raise ValueError("logits and labels must be finite")
        if banded.any():
            temperature = _fit_band_temperature(scores, ends, bins)
        else:
            temperature = _fit_temperature(scores, years, bins)
        return cls(
            temperature=temperature,
            level_grid=LEVEL_GRID,
            nominal_levels=conformal_levels(softmax(scores, temperature), years, bins, ends),
            samples=years.size,
            split=split,
        )

    def distribution(self, logits: ArrayLike) -> FloatArray:
        """Convert raw logits to the calibrated distribution.

        Args:
            logits: (..., K).
        Returns:
            (..., K) distribution.
        """
        return softmax(logits, self.temperature)

    def nominal_level(self, level: float) -> float:
        """Interpolate the central level that reaches a coverage, linearly between the points of the grid.

        Args:
            level: Coverage, within the grid.
        Returns:
            The central level of the calibrated distribution.
        Raises:
            InputError: ``level`` lies outside the grid.
        """
        if not self.level_grid[0] <= level <= self.level_grid[-1]:
            low, high = self.level_grid[0], self.level_grid[-1]
            raise InputError(f"the level of an interval must lie in {low} … {high} (value: {level})")
        return float(np.interp(level, self.level_grid, self.nominal_levels))

    def interval(
        self, distribution: ArrayLike, bins: AgeBins, level: float = 0.9
    ) -> tuple[FloatArray, FloatArray]:
        """Compute the interval that covers the true age with probability ``level``.

        Args:
            distribution: (..., K) calibrated distribution (:meth:`distribution`).
            bins: K age bins.
            level: Coverage, within the grid.
        Returns:
            (...) low and (...) high, years.
        Raises:
            InputError: ``level`` lies outside the grid.
            ValueError: The last axis is not K.
        """
        return interval(distribution, bins, self.nominal_level(level))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        shift = {} if self.shift is None else {"shift": self.shift.to_dict()}
        return {
            "temperature": self.temperature,
            "level_grid": list(self.level_grid),
            "nominal_levels": list(self.nominal_levels),
            "samples": self.samples,
            "split": self.split,
            **shift,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Rebuild a calibration from the fields of :meth:`to_dict`.

        Raises:
            ValueError: A field is missing or damaged (the message names it).
        """
        try:
            return cls(
                temperature=float(values["temperature"]),
                level_grid=tuple(float(level) for level in values["level_grid"]),
                nominal_levels=tuple(float(level) for level in values["nominal_levels"]),
                samples=int(values["samples"]),
                split=str(values["split"]),
                shift=None if values.get("shift") is None else ShiftCorrection.from_dict(values["shift"]),
            )
        except KeyError as error:
            raise ValueError(f"calibration lacks {error}") from error
        except TypeError as error:
            raise ValueError(f"calibration is damaged: {error}") from error


def central_level(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Compute the smallest central level whose interval covers each age: the conformal score.

    With F the cumulative distribution of :func:`~agelens.label_distribution.quantile` it is |2 F(age) - 1|,
    one-sided at the two ends of the range, where the interval is clipped.

    Args:
        distribution: (..., K).
        bins: K age bins.
        ages: years, broadcast to the leading axes of ``distribution``.
    Returns:
        (...) level in 0 … 1; infinite for an age outside the bins, which no interval covers.
    Raises:
        ValueError: The last axis is not K.
    """
    years = np.asarray(ages, dtype=np.float64)
    signed = 2 * cumulative_at(distribution, bins, years) - 1
    level = np.abs(signed)
    level = np.where(years == bins.minimum, np.maximum(-signed, 0.0), level)
    level = np.where(years == bins.maximum, np.maximum(signed, 0.0), level)
    return np.where((years < bins.minimum) | (years > bins.maximum), np.inf, level)


def conformal_levels(
    distribution: ArrayLike, ages: ArrayLike, bins: AgeBins, bounds: ArrayLike
) -> tuple[float, ...]:
    """Compute the nominal level that reaches each coverage of :data:`LEVEL_GRID`: split conformal prediction.

    Args:
        distribution: (N, K) distributions of held-out faces.
        ages: (N,) years; NaN where the label is a band.
        bins: K age bins.
        bounds: (N, 2) both ends of the labels; the age twice where it is no band.
    Returns:
        The levels; 1, the whole range, where there are too few faces.
    """
    faces = np.asarray(ages).size
    scores = conformal_scores(distribution, ages, bins, bounds)
    return tuple(_conformal_quantile(scores, percent, faces) for percent in range(1, 100))


def conformal_scores(
    distribution: ArrayLike, ages: ArrayLike, bins: AgeBins, bounds: ArrayLike
) -> FloatArray:
    """Compute the conformal scores of faces, in ascending order; arguments as in :func:`conformal_levels`.

    Returns:
        (N,) :func:`central_level` of the ages; where some labels are bands, (N x :data:`CENSORED_SCORES`,).
        The share of scores up to a nominal level is the coverage of its intervals.
    """
    mass, years = np.asarray(distribution, dtype=np.float64), np.asarray(ages, dtype=np.float64)
    banded = np.isnan(years)
    if banded.any():
        return _censored_levels(mass, bins, np.asarray(bounds, dtype=np.float64), banded)
    return np.sort(central_level(mass, bins, years))


def _censored_levels(
    distribution: FloatArray, bins: AgeBins, ends: FloatArray, banded: NDArray[np.bool_]
) -> FloatArray:
    """:data:`CENSORED_SCORES` conformal scores of each face, all of them in ascending order."""
    share = (np.arange(CENSORED_SCORES) + 0.5) / CENSORED_SCORES
    first, last = bins.index(ends).T + bins.minimum
    below = cumulative_at(distribution, bins, first - 0.5)[:, None]
    upto = cumulative_at(distribution, bins, last + 0.5)[:, None]
    levels = np.abs(2 * (below + share * (upto - below)) - 1)
    exact = ~banded
    levels[exact] = central_level(distribution[exact], bins, ends[exact, 0])[:, None]
    return np.sort(levels.ravel())


def _conformal_quantile(sorted_scores: FloatArray, percent: int, faces: int) -> float:
    """Take the ceil((n + 1) c)-th smallest score of n faces; the whole range (1) where there are too few.

    Each face has the same number of scores.
    """
    rank = -(-(faces + 1) * percent // 100)
    place = rank * (len(sorted_scores) // faces)
    return 1.0 if rank > faces else min(float(sorted_scores[place - 1]), 1.0)


def _fit_temperature(logits: FloatArray, ages: FloatArray, bins: AgeBins) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    lower = bins.index(ages)
    rest = np.clip(ages, bins.minimum, bins.maximum) - bins.minimum - lower
    rows, upper = np.arange(len(lower)), np.minimum(lower + 1, len(bins) - 1)
    labelled = float(((1 - rest) * shifted[rows, lower] + rest * shifted[rows, upper]).mean())

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return float(np.log(np.exp(shifted / temperature).sum(axis=1)).mean()) - labelled / temperature

    low, high = (math.log(bound) for bound in _TEMPERATURES)
    return math.exp(_golden_section(loss, low, high, tolerance=1e-6))


def _fit_band_temperature(logits: FloatArray, ends: FloatArray, bins: AgeBins) -> float:
    """The temperature of the largest likelihood of the bands; an age is a band of one bin.

    The likelihood of a band is no concave function of 1 / temperature: the best of a grid is refined between
    its neighbours.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    first, last = bins.index(ends).T
    k = np.arange(len(bins))
    inside = (k >= first[:, None]) & (k <= last[:, None])

    def loss(log_temperature: float) -> float:
        powers = np.exp(shifted / math.exp(log_temperature))
        own = np.maximum(np.where(inside, powers, 0.0).sum(axis=1), np.finfo(np.float64).tiny)
        return float((np.log(powers.sum(axis=1)) - np.log(own)).mean())

    low, high = (math.log(bound) for bound in _TEMPERATURES)
    grid = np.linspace(low, high, 33)
    best = int(np.argmin([loss(float(point)) for point in grid]))
    around = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    return math.exp(_golden_section(loss, *around, tolerance=1e-6))


def _golden_section(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Minimise a function that falls, then rises, on [low, high]."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def _rising(values: tuple[float, ...], strictly: bool = False) -> bool:
    return all(a < b or (a == b and not strictly) for a, b in pairwise(values))
