"""Distributions for photographs unlike those that a model was calibrated on: wider, and less sure of the age.

A network is too sure of itself on pictures of another kind, and leans to the ages that were common where it
learned. The correction of a calibrated distribution p over the ages k is

    q(k) ∝ p(k)^(1 / s) · r(k),   log s = base + Σ_m w_m⁻ max(0, (low_m - x_m) / (high_m - low_m))
                                               + w_m⁺ max(0, (x_m - high_m) / (high_m - low_m))

with s an input-dependent temperature [1], x_m the measures of :mod:`agelens.faces.appearance`, low_m … high_m
their usual range and weights w ≥ 0: a crop further outside of the range never gets a narrower distribution.
r shifts the prior over ages [2]; its logarithm is linear between a few ages. ``agelens calibrate`` fits it.

[1] Tomani, Cremers, Buettner, Parameterized temperature scaling for boosting the expressive power in post-hoc
    uncertainty calibration, ECCV 2022.
[2] Saerens, Latinne, Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities,
    Neural Computation 2002.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.faces.appearance import MEASURES
from agelens.label_distribution import AgeBins, softmax

__all__ = ["FARTHEST", "VERSION", "ShiftCorrection", "UsualRange", "strangeness"]

VERSION = 1
"""The form of the record in a model file that this agelens writes and reads."""

FARTHEST = 3.0
"""Distance from the usual range, in its lengths, from which on a crop counts as no stranger."""

_LEAST = 1e-12  # probability that an age has at least, before its logarithm is taken


@dataclass(frozen=True)
class UsualRange:
    """A measure's range on the photographs of the calibration, and what it costs to leave it.

    Attributes:
        low, high: The range.
        below, above: Widening, log s for each length of the range by which a crop lies below or above it.
    """

    low: float
    high: float
    below: float
    above: float


@dataclass(frozen=True)
class ShiftCorrection:
    """Corrects calibrated distributions by the look of the crop; part of a calibration.

    Attributes:
        base: log s of crops inside all ranges.
        ranges: The usual range of each of ``MEASURES``.
        ages: Ages, rising, at which log r is known; beyond them it is constant.
        log_factors: log r at these ages.
    """

    base: float
    ranges: tuple[UsualRange, ...]
    ages: tuple[float, ...]
    log_factors: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = [self.base, *self.ages, *self.log_factors]
        for name, usual in zip(MEASURES, self.ranges, strict=True):
            if not usual.low < usual.high:
                raise ValueError(
                    f"{name}: its usual range must have a length, not {usual.low} … {usual.high}"
                )
            if usual.below < 0 or usual.above < 0:
                raise ValueError(f"{name}: a weight must not be negative")
            numbers += [usual.low, usual.high, usual.below, usual.above]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("numbers must be finite")
        if not self.ages or len(self.ages) != len(self.log_factors) or np.any(np.diff(self.ages) <= 0):
            raise ValueError("ages must rise, with a log_factor for each")

    def widening(self, measures: ArrayLike) -> NDArray[np.float64]:
        """Compute s, the temperature of each crop.

        Args:
            measures: (..., 4), `crop_appearance`.
        Returns:
            (...) s > 0.
        """
        return np.asarray(np.exp(self.base + strangeness(measures, self.ranges) @ self._weights()))

    def corrected(self, distribution: ArrayLike, bins: AgeBins, measures: ArrayLike) -> NDArray[np.float32]:
        """Correct calibrated distributions.

        Args:
            distribution: (..., K).
            bins: K age bins.
            measures: (..., 4), `crop_appearance` of the same crops.
        Returns:
            (..., K) distribution.
        """
        logs = np.log(np.maximum(np.asarray(distribution, dtype=np.float64), _LEAST))
        prior = np.interp(bins.ages, self.ages, self.log_factors)
        return softmax(logs / self.widening(measures)[..., None] + prior).astype(np.float32)

    def _weights(self) -> NDArray[np.float64]:
        return np.array([*(usual.below for usual in self.ranges), *(usual.above for usual in self.ranges)])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "version": VERSION,
            "base": self.base,
            "measures": {
                name: {"low": usual.low, "high": usual.high, "below": usual.below, "above": usual.above}
                for name, usual in zip(MEASURES, self.ranges, strict=True)
            },
            "ages": list(self.ages),
            "log_factors": list(self.log_factors),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShiftCorrection:
        """Rebuild a correction from the fields of :meth:`to_dict`.

        Raises:
            ValueError: A field is missing or damaged (the message names it), or of a newer form.
        """
        try:
            if values["version"] != VERSION:
                raise ValueError(
                    f"shift: form {values['version']!r} is unknown, this agelens reads {VERSION}"
                )
            if set(values["measures"]) != set(MEASURES):
                raise ValueError(f"shift: measures must be {', '.join(MEASURES)}")
            ranges = [values["measures"][name] for name in MEASURES]
            return cls(
                base=float(values["base"]),
                ranges=tuple(
                    UsualRange(*(float(usual[key]) for key in ("low", "high", "below", "above")))
                    for usual in ranges
                ),
                ages=tuple(float(age) for age in values["ages"]),
                log_factors=tuple(float(factor) for factor in values["log_factors"]),
            )
        except KeyError as error:
            raise ValueError(f"shift lacks {error}") from error
        except TypeError as error:
            raise ValueError(f"shift is damaged: {error}") from error


def strangeness(measures: ArrayLike, ranges: tuple[UsualRange, ...]) -> NDArray[np.float64]:
    """Measure how far crops lie outside the usual ranges.

    Args:
        measures: (..., 4).
        ranges: Of each measure.
    Returns:
        (..., 8): below each range, then above each, in lengths of the range, 0 … :data:`FARTHEST`.
    """
    values = np.asarray(measures, dtype=np.float64)
    low, high = (np.array([getattr(usual, end) for usual in ranges]) for end in ("low", "high"))
    outside = np.concatenate([(low - values) / (high - low), (values - high) / (high - low)], axis=-1)
    return np.asarray(np.clip(outside, 0.0, FARTHEST))
