"""Fits the correction for photographs of another kind: :mod:`agelens.shift`.

It maximises the likelihood of labelled faces of several groups: of each data set the pictures as they are,
and degraded copies. Every group counts alike, and in it rare ages for more than their number, as nobody knows
who is on the next photograph: a range of ages weighs as the square root of its faces. On validation faces
equal weights cost the intervals up to a fifth of their sharpness at the same coverage, and weights by number
left more minors at P(age >= 18) >= 0.95. The intervals are fitted afterwards, on the first set as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from agelens.label_distribution import AgeBins
from agelens.shift import ShiftCorrection, UsualRange, strangeness

__all__ = ["Faces", "fit_shift", "usual_ranges"]

FloatArray = NDArray[np.float64]

_USUAL = (0.1, 0.9)  # quantiles of a measure that enclose its usual range
_SHORTEST = 0.01  # length of a usual range
_KNOTS = (2, 5, 9, 13, 18, 24, 32, 42, 55, 70, 85)  # ages, besides the two ends of the bins
_RANGES = (3, 13, 18, 30, 45, 60, 75)  # ages at which the ranges of exact ages begin
_SMOOTH, _SMALL, _SMALL_FACTORS = 0.02, 0.02, 2e-4  # penalties: steps of log r, weights, log r


@dataclass(frozen=True, eq=False)
class Faces:
    """N faces of one group, as the network answers them.

    Attributes:
        distribution: (N, K) calibrated distributions, not corrected.
        appearance: (N, 4) `crop_appearance`.
        ages: (N,) years; NaN where the label is a band.
        bounds: (N, 2) both ends of the labels in years.
    """

    distribution: FloatArray
    appearance: FloatArray
    ages: FloatArray
    bounds: FloatArray


def usual_ranges(appearance: FloatArray) -> list[tuple[float, float]]:
    """Give the range of each measure in which four fifths of the faces (N, 4) lie."""
    low, high = np.quantile(appearance, _USUAL, axis=0)
    return [(float(a), float(max(b, a + _SHORTEST))) for a, b in zip(low, high, strict=True)]


def fit_shift(groups: Sequence[Faces], bins: AgeBins) -> ShiftCorrection:
    """Fit the correction on one or more groups of faces.

    Args:
        groups: The first one's measures make the usual ranges.
        bins: K age bins.
    Returns:
        The correction.
    """
    ends = usual_ranges(groups[0].appearance)
    ranges = tuple(UsualRange(low, high, 0.0, 0.0) for low, high in ends)
    logs = np.log(np.maximum(np.concatenate([group.distribution for group in groups]), 1e-12))
    logs -= logs.max(axis=1, keepdims=True)
    outside = np.concatenate([strangeness(group.appearance, ranges) for group in groups])
    first, last = bins.index(np.concatenate([group.bounds for group in groups])).T
    k = np.arange(len(bins))
    inside = (k >= first[:, None]) & (k <= last[:, None])
    shares = np.concatenate([_shares(group) for group in groups]) / len(groups)
    knots = [bins.minimum, *(age for age in _KNOTS if bins.minimum < age < bins.maximum), bins.maximum]
    hats = np.stack([np.interp(bins.ages, knots, row) for row in np.eye(len(knots))], axis=1)
    columns = np.column_stack([np.ones(len(logs)), outside])
    weights = columns.shape[1]

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        """The penalised mean negative log likelihood, and its gradient."""
        widening, factors = values[:weights], values[weights:]
        cooled = np.exp(-columns @ widening)
        scores = logs * cooled[:, None] + hats @ factors
        mass = np.exp(scores - scores.max(axis=1, keepdims=True))
        own = np.where(inside, mass, 0.0)
        total, own_total = mass.sum(axis=1), np.maximum(own.sum(axis=1), np.finfo(np.float64).tiny)
        surplus = (mass / total[:, None] - own / own_total[:, None]) * shares[:, None]
        steps = np.diff(factors)
        value = (
            shares @ (np.log(total) - np.log(own_total))
            + (
                _SMALL * (widening[1:] @ widening[1:])
                + _SMOOTH * (steps @ steps)
                + _SMALL_FACTORS * (factors @ factors)
            )
            / 2
        )
        slope = np.concatenate(
            [-columns.T @ ((surplus * logs).sum(axis=1) * cooled), hats.T @ surplus.sum(axis=0)]
        )
        slope[1:weights] += _SMALL * widening[1:]
        slope[weights:] += _SMALL_FACTORS * factors - _SMOOTH * np.diff(steps, prepend=0.0, append=0.0)
        return float(value), slope

    start = np.zeros(weights + len(knots))
    limits = [(None, None), *[(0.0, None)] * (weights - 1), *[(None, None)] * len(knots)]
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits).x.round(6)
    below, above = fitted[1:weights].reshape(2, -1).tolist()
    return ShiftCorrection(
        base=float(fitted[0]),
        ranges=tuple(
            UsualRange(round(low, 6), round(high, 6), *costs)
            for (low, high), *costs in zip(ends, below, above, strict=True)
        ),
        ages=tuple(map(float, knots)),
        log_factors=tuple(map(float, fitted[weights:])),
    )


def _shares(group: Faces) -> FloatArray:
    """(N,) weights of sum 1: a range of ages, or a band, weighs as the square root of its number of faces."""
    exact = ~np.isnan(group.ages)
    kind = np.where(exact, np.searchsorted(_RANGES, group.bounds[:, 0], side="right"), -1)
    labels = np.column_stack([kind, np.where(exact[:, None], 0.0, group.bounds)])
    _, number, count = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    weights = count[number.ravel()] ** -0.5
    return np.asarray(weights / weights.sum())
