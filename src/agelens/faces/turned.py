"""Faces in pictures that lie on a side or stand on their head, without an EXIF orientation that says so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agelens.faces.detection import DetectedFace, FaceDetector, ReducingSearch, TurnHints, largest_first

__all__ = ["detect_turned"]


class Limits(NamedTuple):
    """Scores that settle how a picture is turned.

    Attributes:
        upright: Score of a face below which the image is searched on its sides too.
        turned: Score that a face of the turned image must pass, there and in the mirror image.
    """

    upright: float
    turned: float


BY_CONFIDENCE = Limits(0.98, 0.995)
"""For faces that have no score but their confidence.

Measured with MTCNN on 201 photographs of FG-NET and 11 of dlib's examples. Of the upright ones 97 % have a
face of at least 0.98. Turned the wrong way, 0.5 % show a false face of at least 0.995 (a dog), and none shows
one in the mirror image too. Of 150 turned scans of FG-NET, 114 come out right, 3 wrong, 33 without a face.
"""

BY_UPRIGHT = Limits(0.88, 0.86)
"""For faces that have a score as upright ones, as those of ``yunet-onet``.

Measured on 101 photographs of FG-NET, 64 of LFW and 11 of dlib's examples: 4 upright ones are searched again,
and none is turned. Of the 528 turned ones 518 come out right, 3 wrong (all of FG-NET), and 7 without a face,
3 of them of dogs.
"""


SEVERAL = 3
"""Faces of certain confidence that show that a picture stands upright: none of dlib's 11 photographs has more
than one of them when it is turned."""


def detect_turned(image: NDArray[np.uint8], detector: FaceDetector) -> list[DetectedFace]:
    """Find faces; without a certain one, also in the image turned by a quarter, a half and three quarters.

    Of the turned images the one with the most certain face counts. It must have landmarks, by which it can be
    aligned, and a high score in the turned image and in its mirror image; else the upright faces stay.

    Args:
        image: (H, W, 3) uint8 RGB.
        detector: Finds upright faces.
    Returns:
        The faces in pixels of the image as it is given, the largest first.
    """
    if isinstance(detector, ReducingSearch):  # once, not for each way that it is turned
        smaller, search = detector.reduced(image)
        across, down = image.shape[1] / smaller.shape[1], image.shape[0] / smaller.shape[0]
        return [face.scaled(across, down) for face in _detect_turned(smaller, search)]
    return _detect_turned(image, detector)


def _detect_turned(image: NDArray[np.uint8], detector: FaceDetector) -> list[DetectedFace]:
    faces = detector.detect(image)
    best, limits = _best(faces)
    if best >= limits.upright or _several(faces) or (faces and all(face.landmarks is None for face in faces)):
        return faces
    height, width = image.shape[:2]
    for quarters in likely_turns(image, detector):
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        found = [face for face in detector.detect(turned) if face.landmarks is not None]
        score, limits = _best(found)
        if score <= max(best, limits.turned):
            continue
        mirrored = np.ascontiguousarray(turned[:, ::-1])
        if _best(detector.detect(mirrored))[0] > limits.turned:
            best = score
            faces = largest_first([_turned_back(face, quarters, width, height) for face in found])
    return faces


def likely_turns(image: NDArray[np.uint8], detector: FaceDetector) -> tuple[int, ...]:
    """List the quarters by which an image is worth turning: those of `TurnHints`, or all."""
    return detector.turns(image) if isinstance(detector, TurnHints) else (1, 2, 3)


def _several(faces: list[DetectedFace]) -> bool:
    """Whether so many faces are certain that the picture stands upright, small as they may be."""
    return sum(face.confidence >= BY_CONFIDENCE.upright for face in faces) >= SEVERAL


def _best(faces: list[DetectedFace]) -> tuple[float, Limits]:
    """The highest score of a face, and the limits of its kind."""
    limits = BY_UPRIGHT if any(face.upright is not None for face in faces) else BY_CONFIDENCE
    scores = (face.confidence if face.upright is None else face.upright for face in faces)
    return max(scores, default=0.0), limits


def _turned_back(face: DetectedFace, quarters: int, width: int, height: int) -> DetectedFace:
    """The face of an image that was turned by quarters, against the clock, in pixels of the original."""

    def original(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[:, 0], points[:, 1]
        across, down = {
            1: (width - y, x),
            2: (width - x, height - y),
            3: (y, height - x),
        }[quarters]
        return np.stack([across, down], axis=1)

    corners = original(np.array(face.box).reshape(2, 2))
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    landmarks = None if face.landmarks is None else original(face.landmarks)
    return DetectedFace((x1, y1, x2, y2), face.confidence, landmarks, upright=face.upright)
