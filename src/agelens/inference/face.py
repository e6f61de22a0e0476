"""What the estimator says of one face, and of one photo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens import label_distribution
from agelens.calibration import Calibration
from agelens.errors import AgelensError
from agelens.label_distribution import AgeBins

__all__ = ["Face", "Photo"]


@dataclass(frozen=True, eq=False, slots=True)
class Face:
    """One face and its age.

    Attributes:
        age: Estimated age in years: what the model's decoding makes of its two heads.
        distribution: (K,) probability of each age bin, at the calibrated temperature.
        age_bins: The K ages the distribution runs over.
        calibration: How the interval reaches its coverage; None for a model that was not calibrated.
        alignment: What the crop was made from: ``landmarks``, ``eyes``, ``fallback`` or ``aligned``.
        box: ``(x1, y1, x2, y2)`` in pixels of the photo; None where nothing was detected (``aligned``).
        landmarks: (5, 2) ``x y`` pixels of the photo: eye at image left, eye at image right, nose tip, mouth
            corner left, mouth corner right; None if the detector finds none.
        confidence: The detector's score, 0 to 1; None where nothing was detected.
    """

    age: float
    distribution: NDArray[np.float32] = field(repr=False)
    age_bins: AgeBins
    calibration: Calibration | None = field(default=None, repr=False)
    alignment: str = "aligned"
    box: tuple[float, float, float, float] | None = None
    landmarks: NDArray[np.float64] | None = field(default=None, repr=False)
    confidence: float | None = None

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Give the ages between which the true age lies with probability ``level``.

        The two ends are quantiles of the calibrated distribution, so the interval is not centred on
        ``age``, which also hears the regression head; ``age`` may even lie outside a narrow one.

        Args:
            level: Wished-for coverage, 0.01 to 0.99. Without a calibration it is the plain central mass.
        Returns:
            ``(low, high)`` in years, low <= high.
        Raises:
            InputError: ``level`` is out of range.
        """
        if self.calibration is not None:
            low, high = self.calibration.interval(self.distribution, self.age_bins, level)
        else:
            low, high = label_distribution.interval(self.distribution, self.age_bins, level)
        return float(low), float(max(low, high))

    def probability_at_least(self, threshold: float) -> float:
        """Give the probability that the age in completed years is ``threshold`` or more."""
        return float(label_distribution.probability_at_least(self.distribution, self.age_bins, threshold))

    def to_dict(self, level: float = 0.9, threshold: float = 18) -> dict[str, Any]:
        """Give everything as JSON values.

        Args:
            level: Coverage of the interval ``low`` … ``high``.
            threshold: Age in years that ``p_at_least`` speaks of.
        Returns:
            ``age, low, high, level, p_at_least, threshold, box, landmarks, confidence, alignment, age_bins,
            distribution``.
        """
        low, high = self.interval(level)
        return {
            "age": self.age,
            "low": low,
            "high": high,
            "level": level,
            "p_at_least": self.probability_at_least(threshold),
            "threshold": threshold,
            "box": None if self.box is None else list(self.box),
            "landmarks": None if self.landmarks is None else self.landmarks.tolist(),
            "confidence": self.confidence,
            "alignment": self.alignment,
            "age_bins": str(self.age_bins),
            "distribution": self.distribution.tolist(),
        }


@dataclass(frozen=True, eq=False, slots=True)
class Photo:
    """One photo of several: its faces, or why there are none.

    Attributes:
        source: The photo as it was given.
        faces: Its faces, the largest first.
        error: Why it could not be used; None if it could.
    """

    source: str | Path | bytes | object
    faces: tuple[Face, ...]
    error: AgelensError | None = None
