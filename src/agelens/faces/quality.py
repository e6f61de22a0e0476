"""Visibility of a face: size, blur, pose and truncation.

What is measured is what the age network gets to see: blur on the aligned crop, the rest on the detected face.

[1] Crété et al., The blur effect: perception and estimation with a new no-reference perceptual blur metric,
    SPIE Human Vision and Electronic Imaging 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.faces.alignment import estimate_yaw
from agelens.faces.detection import DetectedFace

__all__ = ["FaceQuality", "blur_effect", "estimate_pitch", "face_quality", "share_outside"]

_WINDOW = 9  # pixels of the mean filter of [1]
# The median face of `CHIP_LANDMARKS`: where the nose tip stands between the eyes (0) and the mouth (1), and
# how far it stands out (half the eye distance, as in `estimate_yaw`), in the distance from eyes to mouth.
_NOSE_PLACE = 0.576
_NOSE_DEPTH_IN_FACE_HEIGHTS = 0.488


@dataclass(frozen=True)
class FaceQuality:
    """Measures of one face.

    Attributes:
        eye_distance: Pixels of the photo between the eyes; None if they are unknown.
        blur: Blur of the crop, 0 (sharp) to 1: `blur_effect`.
        yaw: Degrees the face is turned sideways; None without five landmarks.
        pitch: Degrees the face looks up; None without five landmarks.
        outside: Share of the face's box that lies beyond the photo's border; None without a box.
    """

    eye_distance: float | None
    blur: float
    yaw: float | None
    pitch: float | None
    outside: float | None


def face_quality(crop: NDArray[np.uint8], face: DetectedFace | None, width: int, height: int) -> FaceQuality:
    """Measure one face.

    Args:
        crop: (S, S, 3) uint8 RGB, the aligned face.
        face: The face as it was detected; None if none was looked for or found.
        width: Width of the photo in pixels.
        height: Height of the photo in pixels.
    Returns:
        The measures; those that need what the detector did not find are None.
    Raises:
        ValueError: ``crop`` has another shape.
    """
    landmarks = None if face is None else face.landmarks
    posed = landmarks is not None and bool(np.any(landmarks[0] != landmarks[1]))
    return FaceQuality(
        eye_distance=None if face is None else face.eye_distance,
        blur=blur_effect(crop),
        yaw=estimate_yaw(landmarks) if posed and landmarks is not None else None,
        pitch=estimate_pitch(landmarks) if posed and landmarks is not None else None,
        outside=None if face is None else share_outside(face.box, width, height),
    )


def blur_effect(image: NDArray[np.uint8]) -> float:
    """Measure how blurred an image is by how little a further blur changes it: [1].

    Along each axis: the share of the neighbouring pixels' differences that survives a mean filter of nine
    pixels; the larger of the two. It does not depend on contrast. An image without any difference counts
    as blurred.

    Args:
        image: (H, W, 3) uint8 RGB.
    Returns:
        0 (sharp) to 1 (blurred).
    Raises:
        ValueError: ``image`` has another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is (H, W, 3), not {image.shape}")
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return max(_blur_along(grey, 0), _blur_along(grey, 1))


def _blur_along(grey: NDArray[np.float32], axis: int) -> float:
    """The measure of [1] along an axis of (H, W), whose border pixels are repeated.

    Neighbours in the mean filter's result differ by a ninth of the pixel that came in less the one that went.
    """
    places, last = np.arange(grey.shape[axis] - 1), grey.shape[axis] - 1
    came = grey.take(np.minimum(places + _WINDOW // 2 + 1, last), axis)
    went = grey.take(np.maximum(places - _WINDOW // 2, 0), axis)
    before = np.abs(np.diff(grey, axis=axis))
    lost = np.maximum(before - np.abs(came - went) / _WINDOW, 0)
    total = float(before.sum(dtype=np.float64))
    return 1 - float(lost.sum(dtype=np.float64)) / total if total > 0 else 1.0


def estimate_pitch(landmarks: NDArray[Any]) -> float:
    """Estimate how far a face looks up or down, in degrees.

    The counterpart of `agelens.faces.alignment.estimate_yaw`: from afar, a face that looks up by pitch
    shows the distance from eyes to mouth shortened by ``cos(pitch)``, and the nose tip, which stands out in
    front of them, raised by its depth times ``sin(pitch)``. The tilt of the head in the image does not
    matter.

    Args:
        landmarks: (5, 2) ``x y`` pixels.
    Returns:
        Degrees, -90 to 90; positive = the face looks up. 0 where eyes and mouth stand at one height.
    Raises:
        ValueError: The landmarks have another shape or the eyes coincide.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (5, 2):
        raise ValueError(f"landmarks are (5, 2), not {landmarks.shape}")
    eye_line = landmarks[1] - landmarks[0]
    if not np.any(eye_line):
        raise ValueError("the eyes coincide")
    down = np.array([-eye_line[1], eye_line[0]]) / np.linalg.norm(eye_line)
    eyes = landmarks[:2].mean(axis=0)
    nose, mouth = float((landmarks[2] - eyes) @ down), float((landmarks[3:].mean(axis=0) - eyes) @ down)
    if mouth == 0:
        return 0.0
    return math.degrees(math.atan((_NOSE_PLACE - nose / mouth) / _NOSE_DEPTH_IN_FACE_HEIGHTS))


def share_outside(box: tuple[float, float, float, float], width: int, height: int) -> float:
    """Give the share of a box's area that lies beyond the border of its image.

    Args:
        box: ``(x1, y1, x2, y2)`` in pixels.
        width: Width of the image.
        height: Height of the image.
    Returns:
        0 (wholly inside) to 1; 0 for a box without area.
    """
    x1, y1, x2, y2 = box
    area = (x2 - x1) * (y2 - y1)
    if area <= 0:
        return 0.0
    inside = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    return max(0.0, 1 - inside / area)
