"""The detectors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.errors import InputError
from agelens.faces.detection import DetectedFace, FaceDetector, ReducingSearch, SizedSearch
from agelens.faces.haar import Haar
from agelens.faces.mtcnn import MTCNN
from agelens.faces.none import WholeImage
from agelens.faces.turned import likely_turns
from agelens.faces.yunet import YuNet
from agelens.faces.yunet_onet import YuNetONet
from agelens.plugins import resolve

__all__ = ["DETECTORS", "ConfidentFaces", "SoundFaces", "make_detector"]

DETECTORS: dict[str, Callable[..., FaceDetector]] = {
    "yunet-onet": YuNetONet,
    "mtcnn": MTCNN,
    "haar": Haar,
    "yunet": YuNet,
    "none": WholeImage,
}
"""Every detector under the name it gives itself."""


class ConfidentFaces:
    """A detector whose less confident faces are left out.

    Args:
        detector: The detector.
        min_confidence: Lowest confidence of a face, 0 to 1.
    Raises:
        InputError: ``min_confidence`` is out of range.
    """

    def __init__(self, detector: FaceDetector, min_confidence: float) -> None:
        if not 0 <= min_confidence <= 1:
            raise InputError(f"min_confidence is 0 to 1, not {min_confidence}")
        self.detector, self.min_confidence = detector, min_confidence

    @property
    def name(self) -> str:
        """Name of the detector."""
        return self.detector.name

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces; see `FaceDetector`."""
        return [face for face in self.detector.detect(image) if face.confidence >= self.min_confidence]

    def reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], FaceDetector]:
        """Make a large image smaller, if the detector can; see `ReducingSearch`."""
        smaller, detector = _reduced(image, self.detector)
        return smaller, ConfidentFaces(detector, self.min_confidence)

    def turns(self, image: NDArray[np.uint8]) -> tuple[int, ...]:
        """List the quarters by which an image is worth turning; see `TurnHints`."""
        return likely_turns(image, self.detector)

    def smallest_face(self, width: int, height: int) -> float | None:
        """Compute the smallest face that the detector looks for; None if it does not say."""
        return self.detector.smallest_face(width, height) if isinstance(self.detector, SizedSearch) else None


class SoundFaces:
    """A detector whose faces can be cropped: those of a plug-in are checked like other input.

    Landmarks and eyes that are not finite, of another shape, or all at one point count as missing, so that
    the box decides.

    Args:
        detector: The detector.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector

    @property
    def name(self) -> str:
        """Name of the detector."""
        return self.detector.name

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces; see `FaceDetector`.

        Raises:
            InputError: A box is not finite or has no area.
        """
        return [self._sound(face) for face in self.detector.detect(image)]

    def reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], FaceDetector]:
        """Make a large image smaller, if the detector can; see `ReducingSearch`."""
        smaller, detector = _reduced(image, self.detector)
        return smaller, SoundFaces(detector)

    def turns(self, image: NDArray[np.uint8]) -> tuple[int, ...]:
        """List the quarters by which an image is worth turning; see `TurnHints`."""
        return likely_turns(image, self.detector)

    def _sound(self, face: DetectedFace) -> DetectedFace:
        if not (np.isfinite(face.box).all() and face.width > 0 and face.height > 0):
            raise InputError(f"the detector {self.name!r} returned a face whose box is {face.box}")
        if _usable(face.landmarks, 5) and _usable(face.eyes, 2):
            return face
        return replace(
            face,
            landmarks=face.landmarks if _usable(face.landmarks, 5) else None,
            eyes=face.eyes if _usable(face.eyes, 2) else None,
        )


def _reduced(image: NDArray[np.uint8], detector: FaceDetector) -> tuple[NDArray[np.uint8], FaceDetector]:
    return detector.reduced(image) if isinstance(detector, ReducingSearch) else (image, detector)


def _usable(points: NDArray[np.float64] | None, number: int) -> bool:
    """Whether points are missing, or can align a face."""
    if points is None:
        return True
    if np.shape(points) != (number, 2) or not np.isfinite(points).all():
        return False
    return bool(np.ptp(points, axis=0).max() > 1e-6)


def make_detector(name: str, **settings: Any) -> FaceDetector:
    """Make a detector.

    Args:
        name: A key of `DETECTORS`, an entry point ``agelens.detectors``, or ``package.module:name``.
        **settings: Arguments of its class; all take ``threads``. ``min_confidence`` works with every
            detector: `ConfidentFaces`.
    Raises:
        PluginError: There is no such detector, or its package cannot be imported.
        InputError: It has no such setting, or a value cannot be used.
        MissingExtraError: What it needs is not installed.
    """
    make = resolve("detectors", name, DETECTORS)
    min_confidence = settings.pop("min_confidence", None)
    try:
        detector = make(**settings)
    except TypeError as error:
        raise InputError(f"the detector {name!r} has no such setting: {error}") from error
    return detector if min_confidence is None else ConfidentFaces(detector, min_confidence)
