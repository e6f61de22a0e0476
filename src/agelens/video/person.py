"""Ages of the people in a clip: one of all frames, and one as it is shown in each frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.inference.face import Face
from agelens.label_distribution import AgeBins

__all__ = ["FrameAges", "PersonAge", "SeenPerson"]


@dataclass(frozen=True, eq=False, slots=True)
class PersonAge:
    """The age of a person over the frames of a clip.

    Attributes:
        person: Number of the person in the clip, from 1.
        first: Time of the first frame with the person, seconds.
        last: Time of the last one.
        frames: Frames with an estimate.
        estimate: Age, distribution and calibration as of one face, of all these frames.
        deviation: Mean absolute deviation of the single frames' ages from their mean, years.
        shown_deviation: The same of the ages as they were shown, each of all frames up to its own.
    """

    person: int
    first: float
    last: float
    frames: int
    estimate: Face = field(repr=False)
    deviation: float
    shown_deviation: float

    @property
    def age(self) -> float:
        """Estimated age in years."""
        return self.estimate.age

    @property
    def distribution(self) -> NDArray[np.float32]:
        """(K,) probability of each age bin."""
        return self.estimate.distribution

    @property
    def age_bins(self) -> AgeBins:
        """The K ages that the distribution runs over."""
        return self.estimate.age_bins

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Compute the ages between which the true age lies with probability ``level``: `Face.interval`."""
        return self.estimate.interval(level)

    def probability_at_least(self, threshold: float) -> float:
        """Compute the probability that the age in completed years is ``threshold`` or more."""
        return self.estimate.probability_at_least(threshold)

    def to_dict(self, level: float = 0.9, threshold: float = 18) -> dict[str, Any]:
        """Convert everything to JSON values.

        Args:
            level: Coverage of the interval ``low`` … ``high``.
            threshold: Age in years of ``p_at_least``.
        Returns:
            ``person, first, last, frames, age, low, high, level, p_at_least, threshold, deviation,
            shown_deviation, age_bins, distribution``.
        """
        low, high = self.interval(level)
        return {
            "person": self.person,
            "first": self.first,
            "last": self.last,
            "frames": self.frames,
            "age": self.age,
            "low": low,
            "high": high,
            "level": level,
            "p_at_least": self.probability_at_least(threshold),
            "threshold": threshold,
            "deviation": self.deviation,
            "shown_deviation": self.shown_deviation,
            "age_bins": str(self.age_bins),
            "distribution": self.distribution.tolist(),
        }


@dataclass(frozen=True, eq=False, slots=True)
class SeenPerson:
    """A person in one frame.

    Attributes:
        person: Number of the person in the clip, from 1.
        face: The face with the estimate of this frame alone.
        shown: Age, distribution and calibration of all frames up to this one.
        weight: Weight of this frame.
        settled: The person has been followed for long enough that the shown age hardly moves.
    """

    person: int
    face: Face = field(repr=False)
    shown: Face = field(repr=False)
    weight: float
    settled: bool


@dataclass(frozen=True, eq=False, slots=True)
class FrameAges:
    """The people of one frame.

    Attributes:
        number: Number of the frame, from 0.
        time: Seconds from the first frame.
        pixels: (H, W, 3) uint8 RGB, upright.
        people: By their numbers.
        cut: The picture changed at once.
        looked: Faces were looked for; else the people are those of the last look, a moment ago.
    """

    number: int
    time: float
    pixels: NDArray[np.uint8] = field(repr=False)
    people: tuple[SeenPerson, ...]
    cut: bool
    looked: bool
