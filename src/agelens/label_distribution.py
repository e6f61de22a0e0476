"""Age bins, and conversions between ages and distributions over the bins.

A distribution is an array (..., K) that sums to 1 over its last axis, one entry a bin; every function here is
vectorised over the leading axes. Ages are in years. A label of 25 means 25 completed years.

[1] Li et al., Deep label refinement for age estimation (LRN), Pattern Recognition 2020.
[2] Bao et al., LAE: Long-tailed age estimation, CAIP 2021.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.errors import InputError

__all__ = [
    "AgeBins",
    "band",
    "cumulative",
    "cumulative_at",
    "expected_age",
    "gaussian",
    "interval",
    "point_mass",
    "probability_at_least",
    "quantile",
    "softmax",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class AgeBins:
    """The ages ``minimum``, ``minimum + 1``, …, ``maximum``: the classes l_1 … l_k of [1].

    >>> bins = AgeBins.parse("0-100")
    >>> len(bins), str(bins)
    (101, '0-100')
    >>> bins.index([0.0, 25.9, 116.0]).tolist()
    [0, 25, 100]

    Raises:
        InputError: The range is negative, or holds fewer than two ages.
    """

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 0 <= self.minimum < self.maximum:
            raise InputError(
                f"age bins need 0 <= minimum < maximum (minimum: {self.minimum}, maximum: {self.maximum})"
            )

    @classmethod
    def parse(cls, text: str) -> AgeBins:
        """Parse ``"0-100"``, the form that ``str`` writes.

        Raises:
            InputError: The text is no range of two whole ages.
        """
        match = re.fullmatch(r"\s*([0-9]{1,3})\s*-\s*([0-9]{1,3})\s*", text)
        if match is None:
            raise InputError(f"age bins must look like 0-100 (value: {text!r})")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.minimum}-{self.maximum}"

    def __len__(self) -> int:
        return self.maximum - self.minimum + 1

    @property
    def ages(self) -> FloatArray:
        """(K,) the age of each bin, in years."""
        return np.arange(self.minimum, self.maximum + 1, dtype=np.float64)

    def index(self, ages: ArrayLike) -> NDArray[np.int64]:
        """Compute the bin of each age: completed years (rounded down), clamped to the range of the bins.

        Args:
            ages: (...) years.
        Returns:
            (...) position of the bin, 0 … K - 1.
        Raises:
            ValueError: An age is not finite.
        """
        years = _finite(ages, "ages")
        return np.clip(np.floor(years), self.minimum, self.maximum).astype(np.int64) - self.minimum

    def normalise(self, ages: ArrayLike) -> FloatArray:
        """Map years to y = (l - l_1) / (l_k - l_1), Eq. 1 of [1]. Ages outside the range are not clamped.

        Args:
            ages: (...) years.
        Returns:
            (...) normalised ages; 0 at ``minimum``, 1 at ``maximum``.
        """
        return (np.asarray(ages, dtype=np.float64) - self.minimum) / (self.maximum - self.minimum)

    def denormalise(self, ages: ArrayLike) -> FloatArray:
        """Map normalised ages back to years: the inverse of :meth:`normalise`, Eq. 19 of [1].

        Args:
            ages: (...) normalised ages.
        Returns:
            (...) years.
        """
        return np.asarray(ages, dtype=np.float64) * (self.maximum - self.minimum) + self.minimum


def softmax(logits: ArrayLike, tau: float = 1.0) -> FloatArray:
    """Convert logits z to a distribution at temperature ``tau``: exp(z / tau), normalised to sum 1.

    Args:
        logits: (..., K).
        tau: Temperature, > 0; above 1 the distribution is flatter.
    Returns:
        (..., K) distribution.
    Raises:
        ValueError: ``tau`` is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, not {tau}")
    scaled = np.asarray(logits, dtype=np.float64) / tau
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return _float(powers / powers.sum(axis=-1, keepdims=True))


def point_mass(ages: ArrayLike, bins: AgeBins) -> FloatArray:
    """Put the mass of each label on its bin, or on the two bins about it, so that its mean is the age.

    A whole age is one-hot. Ages outside the range are clamped to it.

    Args:
        ages: (...) years.
        bins: K age bins.
    Returns:
        (..., K) distribution.
    Raises:
        ValueError: An age is not finite.
    """
    years = np.clip(_finite(ages, "ages"), bins.minimum, bins.maximum)
    return _float(np.maximum(1.0 - np.abs(bins.ages - years[..., None]), 0.0))


def band(low: ArrayLike, high: ArrayLike, bins: AgeBins, within: ArrayLike | None = None) -> FloatArray:
    """Put the mass of each label on the bins of its band.

    Args:
        low: (...) lower ends, completed years.
        high: (...) upper ends, completed years, themselves included; beyond the bins they are clamped.
        bins: K age bins.
        within: (..., K) distributions that say how the mass lies inside the bands (a network's own), which
            have some there; None: evenly.
    Returns:
        (..., K) distribution: ``within`` conditioned on the band.
    Raises:
        ValueError: An end is not finite, a band ends before it begins, or ``within`` has no mass in a band.
    """
    first, last = bins.index(low)[..., None], bins.index(high)[..., None]
    if (last < first).any():
        raise ValueError("a band ends before it begins")
    k = np.arange(len(bins))
    mass = np.where((k >= first) & (k <= last), 1.0 if within is None else _over_bins(within, bins), 0.0)
    total = mass.sum(axis=-1, keepdims=True)
    if not (total > 0).all():
        raise ValueError("the distribution has no mass in a band")
    return _float(mass / total)


def gaussian(ages: ArrayLike, bins: AgeBins, sigma: float) -> FloatArray:
    """Spread each label as a Gaussian over the bins, normalised to sum 1: section 2.1 of [2] (sigma = 1).

    The centre is the age itself, fractions kept; ages outside the range are clamped to it.

    Args:
        ages: (...) years.
        bins: K age bins.
        sigma: Standard deviation in years, > 0.
    Returns:
        (..., K) distribution.
    Raises:
        ValueError: ``sigma`` is not positive, or an age is not finite.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}")
    centres = np.clip(_finite(ages, "ages"), bins.minimum, bins.maximum)
    return softmax(-((bins.ages - centres[..., None]) ** 2) / (2 * sigma**2))


def expected_age(distribution: ArrayLike, bins: AgeBins) -> FloatArray:
    """Compute the mean of a distribution: sum of p_i l_i, Eq. 18 of [1].

    Args:
        distribution: (..., K).
        bins: K age bins.
    Returns:
        (...) years.
    Raises:
        ValueError: The last axis is not K.
    """
    return _float(_over_bins(distribution, bins) @ bins.ages)


def cumulative(distribution: ArrayLike) -> FloatArray:
    """Accumulate a distribution from the youngest bin: P(age <= l_i).

    Args:
        distribution: (..., K).
    Returns:
        (..., K), the last entry 1 up to rounding.
    """
    return np.cumsum(np.asarray(distribution, dtype=np.float64), axis=-1)


def cumulative_at(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Evaluate the piecewise linear cumulative distribution, the inverse of :func:`quantile`.

    The mass of bin l is spread evenly over [l - 0.5, l + 0.5).

    Args:
        distribution: (..., K).
        bins: K age bins.
        ages: years, broadcast to the leading axes of ``distribution``.
    Returns:
        (...) probability of an age below, 0 … 1.
    Raises:
        ValueError: The last axis is not K.
    """
    mass = _over_bins(distribution, bins)
    below = np.clip(np.asarray(ages, dtype=np.float64)[..., None] - bins.ages + 0.5, 0.0, 1.0)
    return _float(np.clip((mass * below).sum(axis=-1) / mass.sum(axis=-1), 0.0, 1.0))


def quantile(distribution: ArrayLike, bins: AgeBins, q: ArrayLike) -> FloatArray:
    """Compute the age below which a share ``q`` of the mass lies.

    The cumulative distribution is piecewise linear: the mass of bin l is spread evenly over
    [l - 0.5, l + 0.5). The result is clipped to ``bins.minimum`` … ``bins.maximum``; q = 0 gives the
    minimum and q = 1 the maximum, whatever the distribution.

    Args:
        distribution: (..., K).
        bins: K age bins.
        q: 0 … 1, broadcast to the leading axes of ``distribution``.
    Returns:
        (...) years.
    Raises:
        ValueError: The last axis is not K, or ``q`` lies outside 0 … 1.
    """
    mass = _over_bins(distribution, bins)
    share = np.broadcast_to(np.asarray(q, dtype=np.float64), mass.shape[:-1])
    if not np.all((share >= 0) & (share <= 1)):
        raise ValueError(f"q must lie in 0 … 1, not {q!r}")
    upto = cumulative(mass)
    wanted = (share * upto[..., -1])[..., None]
    position = np.minimum((upto < wanted).sum(axis=-1, keepdims=True), len(bins) - 1)
    inside = np.take_along_axis(mass, position, axis=-1)
    excess = np.take_along_axis(upto, position, axis=-1) - wanted
    fraction = 1.0 - np.divide(excess, inside, out=np.zeros_like(excess), where=inside > 0)
    years = (bins.minimum + position - 0.5 + fraction)[..., 0]
    years = np.clip(years, bins.minimum, bins.maximum)
    return _float(np.where(share <= 0, bins.minimum, np.where(share >= 1, bins.maximum, years)))


def interval(distribution: ArrayLike, bins: AgeBins, level: float) -> tuple[FloatArray, FloatArray]:
    """Compute the central interval with a share ``level`` of the mass; half of the rest lies on each side.

    Its ends are two quantiles; level = 1 is the whole range of the bins.

    Args:
        distribution: (..., K).
        bins: K age bins.
        level: 0 … 1.
    Returns:
        (...) low and (...) high, years.
    Raises:
        ValueError: The last axis is not K, or ``level`` lies outside 0 … 1.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"level must lie in 0 … 1, not {level}")
    return quantile(distribution, bins, (1 - level) / 2), quantile(distribution, bins, (1 + level) / 2)


def probability_at_least(distribution: ArrayLike, bins: AgeBins, threshold: float) -> FloatArray:
    """Sum the bins at or above ``threshold``: P(age >= T) in completed years.

    A fractional threshold rounds up, for no completed age lies between: P(age >= 17.5) = P(age >= 18).

    Args:
        distribution: (..., K).
        bins: K age bins.
        threshold: years; at or below the youngest bin gives 1, above the oldest 0.
    Returns:
        (...) probability.
    Raises:
        InputError: ``threshold`` is not finite.
        ValueError: The last axis is not K.
    """
    if not np.isfinite(threshold):
        raise InputError(f"a threshold is a number of years, not {threshold}")
    mass = _over_bins(distribution, bins)
    return _float(np.clip(mass[..., bins.ages >= threshold].sum(axis=-1) / mass.sum(axis=-1), 0.0, 1.0))


def _over_bins(distribution: ArrayLike, bins: AgeBins) -> FloatArray:
    mass = np.asarray(distribution, dtype=np.float64)
    if mass.ndim == 0 or mass.shape[-1] != len(bins):
        raise ValueError(
            f"distribution has shape {mass.shape}, its last axis must be {len(bins)} (bins {bins})"
        )
    return mass


def _finite(values: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def _float(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
