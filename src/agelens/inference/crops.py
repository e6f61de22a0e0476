"""From an image to the crops that the network sees: of a photo, a face chip, or a finished crop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import InputError
from agelens.faces.alignment import CHIP_LANDMARKS, CropGeometry, align_chip, align_face
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
    """Detect and align every face; a bare box counts as a face chip of the usual layout."""
    found = []
    for face in detector.detect(image):
        if face.points is not None:
            points, alignment = face.points, "eyes" if face.landmarks is None else "landmarks"
        else:
            points = np.array(face.box[:2]) + CHIP_LANDMARKS * (face.width, face.height)
            alignment = "fallback"
        found.append(Crop(align_face(image, points, geometry), face, alignment))
    return found


def crop_chip(image: NDArray[np.uint8], detector: FaceDetector, geometry: CropGeometry) -> list[Crop]:
    """Align the one face of a chip: `agelens.faces.alignment.align_chip`."""
    chip = align_chip(image, detector, geometry)
    return [Crop(chip.crop, chip.face, chip.alignment)]


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
