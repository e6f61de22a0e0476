"""One age of a person from many frames.

The age is the mean of the frames' ages, the distribution that of their distributions, both weighted by how
well each frame shows the face. Neighbouring frames err together: what a model gets wrong about a person it
gets wrong in every frame, so the distribution must not become narrower with the number of frames, as a
product of them would. A mean is as wide as its frames are on average, and wider where they disagree [1]. It
is made a little wider still, for frames are poorer than photos; then the interval is read from it by the
calibration of the model.

[1] Law of total variance; Genest, Zidek, Combining probability distributions, Statistical Science 1986
    (the linear opinion pool).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.faces.quality import FaceQuality
from agelens.video.settings import FUSION, FusionSettings

__all__ = ["RunningAge", "frame_weight", "mean_absolute_deviation"]


def frame_weight(quality: FaceQuality, settings: FusionSettings = FUSION) -> float:
    """Weigh a frame by how well it shows a face: the product of a ramp for each measure that is known.

    Args:
        quality: Of the face.
        settings: The ramps.
    Returns:
        ``settings.least`` … 1.
    """
    weight = _falling(quality.blur, settings.blur)
    if quality.eye_distance is not None:
        low, high = settings.eye_distance
        weight *= _falling(-quality.eye_distance, (-high, -low))
    if quality.yaw is not None:
        weight *= _falling(abs(quality.yaw), settings.yaw)
    if quality.pitch is not None:
        weight *= _falling(abs(quality.pitch), settings.pitch)
    if quality.outside is not None:
        weight *= _falling(quality.outside, settings.outside)
    return max(weight, settings.least)


def _falling(value: float, ramp: tuple[float, float]) -> float:
    """1 up to the ramp's start, 0 from its end on."""
    start, end = ramp
    return min(max((end - value) / (end - start), 0.0), 1.0)


@dataclass
class RunningAge:
    """The age of a person, of all frames so far.

    Attributes:
        frames: Number of frames.
        settings: The constants.
    """

    frames: int = 0
    settings: FusionSettings = FUSION
    _weight: float = 0.0
    _age: float = 0.0
    _distribution: NDArray[np.float64] | None = field(default=None, repr=False)

    def add(self, age: float, distribution: NDArray[np.float32], weight: float) -> None:
        """Add a frame.

        Args:
            age: Estimated age, years.
            distribution: (K,) probabilities.
            weight: Of the frame, positive.
        """
        self.frames += 1
        self._weight += weight
        share = weight / self._weight
        self._age += share * (age - self._age)
        if self._distribution is None:
            self._distribution = np.zeros(len(distribution))
        self._distribution += share * (distribution - self._distribution)

    @property
    def age(self) -> float:
        """Weighted mean of the frames' ages, years."""
        return self._age

    @property
    def distribution(self) -> NDArray[np.float32]:
        """(K,) weighted mean of the frames' distributions, widened by ``FUSION.widening``.

        Raises:
            ValueError: There is no frame yet.
        """
        if self._distribution is None:
            raise ValueError("an age of no frames")
        wide = self._distribution ** (1 / self.settings.widening)
        return np.asarray(wide / wide.sum(), np.float32)


def mean_absolute_deviation(ages: ArrayLike) -> float:
    """Compute the mean absolute deviation of ages from their mean: the frame noise of NIST's evaluations [1].

    Args:
        ages: (N,) years, N >= 1.
    Returns:
        Years.

    [1] Hanaoka et al., Face analysis technology evaluation: age estimation and verification, NIST IR 8525,
        2024.
    """
    years = np.asarray(ages, np.float64)
    return float(np.abs(years - years.mean()).mean())
