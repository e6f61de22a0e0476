"""Faces in many small windows by few calls of a detector: windows stand side by side in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agelens.faces.detection import DetectedFace, FaceDetector

__all__ = ["search_windows"]

_MOST = 16  # windows in one picture
_BETWEEN = 128  # grey of the places without a window


def search_windows(
    detector: FaceDetector, windows: Sequence[NDArray[np.uint8]], *, together: bool
) -> list[list[DetectedFace]]:
    """Find the faces of each window.

    Args:
        detector: The detector.
        windows: (S, S, 3) uint8 RGB each, of one size.
        together: Search up to sixteen in one picture, which costs little more than one. A face across the
            edge of two windows belongs to that of its middle.
    Returns:
        The faces of each, in its pixels.
    """
    if not together:
        return [detector.detect(window) for window in windows]
    found: list[list[DetectedFace]] = []
    for start in range(0, len(windows), _MOST):
        found += _side_by_side(detector, windows[start : start + _MOST])
    return found


def _side_by_side(detector: FaceDetector, windows: Sequence[NDArray[np.uint8]]) -> list[list[DetectedFace]]:
    side, columns = windows[0].shape[0], math.ceil(math.sqrt(len(windows)))
    rows = math.ceil(len(windows) / columns)
    picture = np.full((rows * side, columns * side, 3), _BETWEEN, np.uint8)
    for index, window in enumerate(windows):
        row, column = divmod(index, columns)
        picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = window
    found: list[list[DetectedFace]] = [[] for _ in windows]
    for face in detector.detect(picture):
        column = int((face.box[0] + face.box[2]) / 2 // side)
        row = int((face.box[1] + face.box[3]) / 2 // side)
        index = row * columns + column
        if 0 <= column < columns and 0 <= row < rows and index < len(windows):
            found[index].append(_shifted(face, -column * side, -row * side))
    return found


def _shifted(face: DetectedFace, across: float, down: float) -> DetectedFace:
    x1, y1, x2, y2 = face.box
    shift = np.array([across, down])
    return DetectedFace(
        (x1 + across, y1 + down, x2 + across, y2 + down),
        face.confidence,
        None if face.landmarks is None else face.landmarks + shift,
        None if face.eyes is None else face.eyes + shift,
    )
