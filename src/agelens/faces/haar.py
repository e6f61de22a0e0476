"""Faces and eyes by OpenCV's cascades of Haar-like features.

[1] Viola and Jones, Robust real-time face detection, International Journal of Computer Vision 2004.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.errors import InputError, MissingExtraError
from agelens.faces.detection import DetectedFace, Reopened, check_image, largest_first

__all__ = ["Haar"]

_WORKING_SIDE = 120  # pixels to which a face is scaled before its eyes are looked for


class Haar(Reopened):
    """OpenCV's frontal face cascade, and its eye cascade inside each face [1].

    A face whose two eyes are found has `DetectedFace.eyes`; the others have a box only. The cascades give
    no score: the confidence is ``1 - exp(-level / 5)`` of the cascade's last-stage weight, which orders
    faces and means nothing more.

    Args:
        min_face_size: Smallest face in pixels.
        neighbours: How many overlapping hits make a face.
        threads: Of no use here; every detector takes it.
    Raises:
        InputError: A setting is out of range.
        MissingExtraError: OpenCV is not installed, or is version 5, which has no cascades.
    """

    name = "haar"

    def __init__(self, min_face_size: int = 36, neighbours: int = 5, threads: int = 1) -> None:
        if min_face_size < 1 or neighbours < 1:
            raise InputError(
                f"min_face_size and neighbours are at least 1, not {min_face_size} and {neighbours}"
            )
        self.min_face_size = min_face_size
        self.neighbours = neighbours
        self._open()

    def _open(self) -> None:
        self._cv2, folder = _opencv()
        self._face = self._cascade(folder / "haarcascade_frontalface_default.xml")
        self._eye = self._cascade(folder / "haarcascade_eye.xml")

    def _cascade(self, path: Path) -> Any:
        cascade = self._cv2.CascadeClassifier(str(path))
        if cascade.empty():
            raise MissingExtraError("opencv-python-headless<5", "opencv")
        return cascade

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find frontal faces and their eyes; see `FaceDetector`."""
        check_image(image)
        grey = self._cv2.cvtColor(np.ascontiguousarray(image), self._cv2.COLOR_RGB2GRAY)
        boxes, _, weights = self._face.detectMultiScale3(
            self._cv2.equalizeHist(grey),
            scaleFactor=1.1,
            minNeighbors=self.neighbours,
            minSize=(self.min_face_size, self.min_face_size),
            outputRejectLevels=True,
        )
        faces = []
        for (x, y, width, height), weight in zip(boxes, np.ravel(weights), strict=True):
            faces.append(
                DetectedFace(
                    box=(float(x), float(y), float(x + width), float(y + height)),
                    confidence=float(-np.expm1(-max(float(weight), 0.0) / 5)),
                    eyes=self._eyes(grey[y : y + height, x : x + width], (x, y)),
                )
            )
        return largest_first(faces)

    def smallest_face(self, width: int, height: int) -> float:
        """Give the smallest face that is looked for; see `SizedSearch`."""
        return self.min_face_size

    def _eyes(self, face: NDArray[np.uint8], corner: tuple[int, int]) -> NDArray[np.float64] | None:
        """(2, 2) eyes in the upper part of a face: the largest hit in its left and in its right half."""
        zoom = _WORKING_SIDE / face.shape[1]
        upper = self._cv2.resize(face[: max(1, round(0.6 * len(face)))], None, fx=zoom, fy=zoom)
        upper = self._cv2.equalizeHist(upper)
        hits = self._eye.detectMultiScale(
            upper, scaleFactor=1.05, minNeighbors=3, minSize=(20, 20), maxSize=(60, 60)
        )
        hits = np.reshape(hits, (-1, 4)).astype(np.float64)
        centres = hits[:, :2] + hits[:, 2:] / 2
        found = []
        for side in (centres[:, 0] < _WORKING_SIDE / 2, centres[:, 0] >= _WORKING_SIDE / 2):
            if not side.any():
                return None
            found.append(centres[side][np.argmax(hits[side, 2])])
        eyes = np.stack(found)
        across, down = eyes[1] - eyes[0]
        if across < 0.25 * _WORKING_SIDE or abs(down) > 0.5 * across:
            return None
        located: NDArray[np.float64] = eyes / zoom + np.array(corner)
        return located


def _opencv() -> tuple[Any, Path]:
    """OpenCV and the folder of its cascades."""
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless<5", "opencv") from error
    if not hasattr(cv2, "CascadeClassifier") or not hasattr(cv2, "data"):
        raise MissingExtraError("opencv-python-headless<5", "opencv")
    return cv2, Path(cv2.data.haarcascades)
