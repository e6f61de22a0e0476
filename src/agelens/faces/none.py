"""No detection: the image is the face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agelens.faces.detection import DetectedFace, check_image

__all__ = ["WholeImage"]


class WholeImage:
    """Takes every image for one face, for images that are cut to a face already.

    Args:
        threads: Of no use here; every detector takes it.
    """

    name = "none"

    def __init__(self, threads: int = 1) -> None:
        pass

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Return one face whose box is the image; see `FaceDetector`."""
        check_image(image)
        height, width = image.shape[:2]
        return [DetectedFace(box=(0.0, 0.0, float(width), float(height)), confidence=1.0)]
