"""From an image to the crops that the network sees: of a photo, a face chip, or a finished crop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import InputError
from agelens.faces.alignment import AlignedFace, CropGeometry, align_chip, align_detected
from agelens.faces.detection import DetectedFace, FaceDetector

__all__ = ["Crop", "crop_aligned", "crop_chip", "crop_photo"]


class Crop(NamedTuple):
    """One crop in the model's geometry.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        face: The face it shows; None if none was looked for or found.
        alignment: What it was aligned by: ``landmarks``, ``eyes``, ``fallback`` or ``aligned``.
    """

    pixels: NDArray[np.uint8]
    face: DetectedFace | None
    alignment: str


def crop_photo(image: NDArray[np.uint8], detector: FaceDetector, geometry: CropGeometry) -> list[Crop]:
    """Detect and align every face: `agelens.faces.alignment.align_detected`."""
    return [_crop(align_detected(image, face, geometry)) for face in detector.detect(image)]


def crop_chip(image: NDArray[np.uint8], detector: FaceDetector, geometry: CropGeometry) -> list[Crop]:
    """Align the one face of a chip: `agelens.faces.alignment.align_chip`."""
    return [_crop(align_chip(image, detector, geometry))]


def crop_aligned(image: NDArray[np.uint8], geometry: CropGeometry) -> list[Crop]:
    """Take an image that is a crop in the geometry already; only its size may differ.

    Raises:
        InputError: It is not square.
    """
    height, width = image.shape[:2]
    size = geometry.size
    if height != width:
        raise InputError(f"an aligned crop is square; this image is {width} x {height} pixels")
    if height != size:
        picture = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        image = np.asarray(picture)
    return [Crop(image, None, "aligned")]


def _crop(aligned: AlignedFace) -> Crop:
    return Crop(aligned.crop, aligned.face, aligned.alignment)
