"""The interface of face detectors and the face that they return."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DetectedFace",
    "FaceDetector",
    "ReducingSearch",
    "Reopened",
    "SizedSearch",
    "TurnHints",
    "check_image",
    "largest_first",
]


class Reopened:
    """A detector that is pickled by its settings; networks, ``_names``, are opened again where it arrives."""

    def _open(self) -> None:
        """Open the networks by the settings; called by ``__init__``."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """One face in an image.

    Attributes:
        box: ``(x1, y1, x2, y2)`` in pixels of the image; may reach beyond its border.
        confidence: The detector's own score, 0 to 1; scores of different detectors do not compare.
        landmarks: (5, 2) ``x y`` pixels: eye at image left, eye at image right, nose tip, mouth corner
            left, mouth corner right. None if the detector finds none.
        eyes: (2, 2) ``x y`` pixels: eye at image left, eye at image right. None if unknown, or if
            they are among ``landmarks``.
        upright: Score of the face as one that stands upright, 0 to 1; None if the detector has no other than
            the confidence.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: NDArray[np.float64] | None = None
    eyes: NDArray[np.float64] | None = None
    upright: float | None = None

    @property
    def points(self) -> NDArray[np.float64] | None:
        """(5, 2) landmarks, else (2, 2) eyes, else None: the points that alignment uses."""
        return self.landmarks if self.landmarks is not None else self.eyes

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]

    def scaled(self, x: float, y: float) -> DetectedFace:
        """Scale the face to an image that is ``x`` times as wide and ``y`` times as high."""
        x1, y1, x2, y2 = self.box
        return replace(
            self,
            box=(x1 * x, y1 * y, x2 * x, y2 * y),
            landmarks=None if self.landmarks is None else self.landmarks * (x, y),
            eyes=None if self.eyes is None else self.eyes * (x, y),
        )

    def box_inside(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Clip the box to an image of ``width`` x ``height`` pixels."""
        x1, y1, x2, y2 = self.box
        return (
            min(max(x1, 0.0), float(width)),
            min(max(y1, 0.0), float(height)),
            min(max(x2, 0.0), float(width)),
            min(max(y2, 0.0), float(height)),
        )

    @property
    def eye_distance(self) -> float | None:
        """Distance between the eyes in pixels; None if the eyes are unknown."""
        if self.points is None:
            return None
        return float(np.linalg.norm(self.points[1] - self.points[0]))


class FaceDetector(Protocol):
    """Detector of the faces in one image at a time."""

    @property
    def name(self) -> str:
        """The key of ``DETECTORS``."""

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find the faces of an image.

        Args:
            image: (H, W, 3) uint8 RGB.
        Returns:
            The faces, the largest box first; empty if there is none.
        Raises:
            ValueError: ``image`` has another shape or type.
        """


@runtime_checkable
class SizedSearch(Protocol):
    """Detector that looks for faces of a known smallest size."""

    def smallest_face(self, width: int, height: int) -> float | None:
        """Compute the pixels of the smallest face that is looked for in an image of this size."""


@runtime_checkable
class ReducingSearch(Protocol):
    """Detector that makes large images smaller before it searches them, and can do that by itself."""

    def reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], FaceDetector]:
        """Make an image (H, W, 3) as small as it is searched.

        Returns:
            The smaller image, or the same, and a detector that finds in it, in its pixels, the same faces.
        """


@runtime_checkable
class TurnHints(Protocol):
    """Detector that tells cheaply how an image may be turned."""

    def turns(self, image: NDArray[np.uint8]) -> tuple[int, ...]:
        """List the quarters, 1 to 3 against the clock, by which an image (H, W, 3) is worth turning."""


def check_image(image: NDArray[Any]) -> None:
    """Raise ValueError unless ``image`` is (H, W, 3) uint8 with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")


def largest_first(faces: list[DetectedFace]) -> list[DetectedFace]:
    """Order faces by the area of their boxes, the largest first."""
    return sorted(faces, key=lambda face: face.width * face.height, reverse=True)
