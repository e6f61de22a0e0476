"""Rates of people with exact bounds.

Bounds are exact (Clopper-Pearson [1]) and count people, not images: several images of one person tell less
than as many people. No rate is given for fewer than `LEAST_PEOPLE` people.

[1] Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 1934.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from agelens.evaluation.results import SMALL_GROUP

__all__ = ["LEAST_PEOPLE", "Rate", "binomial_interval", "rate", "rate_of"]

BoolArray = NDArray[np.bool_]

LEAST_PEOPLE = SMALL_GROUP
"""No rate is reported for fewer people than this."""


@dataclass(frozen=True)
class Rate:
    """The share of people with an outcome.

    Attributes:
        images: Number of images.
        people: Number of people on them.
        value: 0 … 1; NaN for fewer than `LEAST_PEOPLE` people.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
    """

    images: int
    people: int
    value: float
    low: float
    high: float

    @property
    def too_few(self) -> bool:
        """Whether there are too few people for a rate."""
        return self.people < LEAST_PEOPLE


def binomial_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Compute the exact two-sided interval of a binomial rate, Clopper and Pearson [1].

    Args:
        successes: 0 … trials; need not be whole (a share of people with several images each).
        trials: > 0.
        level: Coverage, 0 … 1.
    Returns:
        Low and high, 0 … 1.
    Raises:
        ValueError: An argument cannot be used.
    """
    if not (trials > 0 and 0 <= successes <= trials and 0 < level < 1):
        raise ValueError(f"no rate of {successes} in {trials} at level {level}")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return low, high


def rate(hits: ArrayLike, persons: ArrayLike) -> Rate:
    """Compute the rate of an outcome, and its bounds.

    Args:
        hits: (N,) whether it came about, image by image; N may be 0.
        persons: (N,) number of the person on each image.
    Returns:
        The rate; its value is a share of the images, its bounds count the people.
    Raises:
        ValueError: Shapes disagree.
    """
    happened, who = np.asarray(hits, dtype=bool), np.asarray(persons)
    if happened.shape != who.shape or happened.ndim != 1:
        raise ValueError(f"hits {happened.shape} and persons {who.shape} must be one (N,)")
    return rate_of(happened, len(np.unique(who)))


def rate_of(happened: BoolArray, individuals: int) -> Rate:
    """Compute a rate.

    Args:
        happened: (N,) whether it happened, image by image.
        individuals: Number of people on the images.
    """
    if individuals < LEAST_PEOPLE:
        return Rate(len(happened), individuals, math.nan, math.nan, math.nan)
    share = float(happened.mean())
    low, high = binomial_interval(share * individuals, individuals)
    return Rate(len(happened), individuals, share, min(low, share), max(high, share))
