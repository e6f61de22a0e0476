"""Estimates: one face with its age and interval, one photo with its faces or its error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens import label_distribution
from agelens.calibration import Calibration
from agelens.errors import AgelensError
from agelens.faces.crops import Crop
from agelens.faces.quality import FaceQuality, face_quality
from agelens.faces.quality_warnings import QualityWarning, face_warnings
from agelens.label_distribution import AgeBins
from agelens.model_file import ModelCard

__all__ = ["Face", "Photo"]


@dataclass(frozen=True, eq=False, slots=True)
class Face:
    """One face and its age.

    Attributes:
        age: Estimated age in years: what the model's decoding makes of its two heads.
        distribution: (K,) probability of each age bin, at the calibrated temperature.
        age_bins: The K ages the distribution runs over.
        calibration: How the interval reaches its coverage; None for a model that was not calibrated.
        alignment: Points that the crop was aligned by: ``landmarks``, ``eyes``, ``fallback`` (the usual
            layout of a chip was assumed) or ``aligned``.
        box: ``(x1, y1, x2, y2)`` in pixels of the photo, inside it; None where nothing was detected.
        landmarks: (5, 2) ``x y`` pixels of the photo: eye at image left, eye at image right, nose tip, mouth
            corner left, mouth corner right; None if the detector finds none.
        confidence: The detector's score, 0 to 1; None where nothing was detected.
        crop: The crop that the network saw; None for the estimate of a service.
    """

    age: float
    distribution: NDArray[np.float32] = field(repr=False)
    age_bins: AgeBins
    calibration: Calibration | None = field(default=None, repr=False)
    alignment: str = "aligned"
    box: tuple[float, float, float, float] | None = None
    landmarks: NDArray[np.float64] | None = field(default=None, repr=False)
    confidence: float | None = None
    crop: Crop | None = field(default=None, repr=False)

    @classmethod
    def of_crop(
        cls,
        crop: Crop,
        age: float,
        distribution: NDArray[np.float32],
        card: ModelCard,
    ) -> Face:
        """Put the network's outputs for a crop beside the detected face.

        Args:
            crop: The crop.
            age: Estimated age in years.
            distribution: (K,) probabilities.
            card: Of the model.
        """
        found = crop.face
        return cls(
            age=float(age),
            distribution=distribution,
            age_bins=card.age_bins,
            calibration=card.calibration,
            alignment=crop.alignment,
            box=None if found is None else found.box_inside(*crop.image_size),
            landmarks=None if found is None else found.landmarks,
            confidence=None if found is None else found.confidence,
            crop=crop,
        )

    @property
    def quality(self) -> FaceQuality | None:
        """Size, blur, pose and truncation, measured anew at each access; None without the crop."""
        return (
            None
            if self.crop is None
            else face_quality(self.crop.pixels, self.crop.face, *self.crop.image_size)
        )

    @property
    def warnings(self) -> list[QualityWarning]:
        """Reasons to doubt the estimate; empty without the crop."""
        quality = self.quality
        return [] if quality is None else face_warnings(quality, layout_assumed=self.layout_assumed)

    @property
    def layout_assumed(self) -> bool:
        """Whether no face was detected on a chip, and its usual layout was assumed."""
        return self.alignment == "fallback" and self.box is None

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Compute the ages between which the true age lies with probability ``level``.

        The two ends are quantiles of the calibrated distribution. ``age`` also averages in a regression head,
        so the interval need not be centred on it, and a narrow one need not contain it.

        Args:
            level: Nominal coverage, 0.01 to 0.99. Without a calibration it is the plain central mass.
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
        """Compute the probability that the age in completed years is ``threshold`` or more."""
        return float(label_distribution.probability_at_least(self.distribution, self.age_bins, threshold))

    def to_dict(self, level: float = 0.9, threshold: float = 18) -> dict[str, Any]:
        """Convert everything to JSON values.

        Args:
            level: Coverage of the interval ``low`` … ``high``.
            threshold: Age in years of ``p_at_least``.
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
        remarks: Sentences on defects of its file that did not prevent reading it.
        smallest_face: Pixels of the smallest face that was looked for; None if unknown.
    """

    source: str | Path | bytes | object
    faces: tuple[Face, ...]
    error: AgelensError | None = None
    remarks: tuple[str, ...] = ()
    smallest_face: float | None = None
