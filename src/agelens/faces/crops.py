"""Crops of an image, as the network sees them: one decision for photos, face chips and finished crops."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import InputError
from agelens.faces.alignment import AlignedFace, CropGeometry, align_chip, align_detected
from agelens.faces.detection import DetectedFace, FaceDetector, SizedSearch
from agelens.faces.detectors import SoundFaces
from agelens.faces.turned import detect_turned

__all__ = ["NOT_SQUARE", "Crop", "CroppedImage", "ImageKind", "crop_faces"]

NOT_SQUARE = "an aligned crop is square"
"""Beginning of the error of an image that cannot be an aligned crop."""


Box = tuple[float, float, float, float]


class ImageKind(StrEnum):
    """Content of an image, which decides how its faces become crops."""

    PHOTO = "photos"
    """A photograph: every face that the detector finds, in a turned picture too, by its landmarks."""
    CHIP = "chips"
    """A face chip, cut to one face already: still detected and aligned; else the usual layout."""
    ALIGNED = "aligned"
    """A crop in the model's geometry: only its size may differ."""

    @classmethod
    def of(cls, *, crops: bool, aligned: bool) -> ImageKind:
        """Translate the two options of the public calls.

        Args:
            crops: The images are face chips.
            aligned: The images are crops in the model's geometry.
        Returns:
            The kind; `PHOTO` if neither is set.
        Raises:
            InputError: Both are set.
        """
        if crops and aligned:
            raise InputError("crops and aligned exclude each other: an image is a chip or a finished crop")
        return cls.CHIP if crops else cls.ALIGNED if aligned else cls.PHOTO


class Crop(NamedTuple):
    """One crop in the model's geometry.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        face: The detected face; None on an aligned image and on a chip without a detected face.
        alignment: Points that it was aligned by: ``landmarks``, ``eyes``, ``fallback`` or ``aligned``.
        image_size: ``(width, height)`` in pixels of the image that it was cut from.
    """

    pixels: NDArray[np.uint8]
    face: DetectedFace | None
    alignment: Literal["landmarks", "eyes", "fallback", "aligned"]
    image_size: tuple[int, int]


class CroppedImage(NamedTuple):
    """The crops of one image.

    Attributes:
        crops: A crop a face, the largest face first; exactly one for a chip or an aligned image.
        left_out: Faces that were detected beyond the limit, and not cropped.
        smallest_face: Pixels of the smallest face that was looked for in a photo; None if unknown.
    """

    crops: tuple[Crop, ...]
    left_out: int = 0
    smallest_face: float | None = None


def crop_faces(
    image: NDArray[np.uint8],
    kind: ImageKind,
    detector: FaceDetector | None,
    geometry: CropGeometry,
    *,
    most: int | None = None,
    box: Box | None = None,
    full_size: tuple[int, int] | None = None,
) -> CroppedImage:
    """Cut the faces out of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        kind: Content of the image.
        detector: Finds the faces; not used, and may be None, for an aligned image.
        geometry: Of the crops.
        most: Largest number of faces of a photo, the largest first; None for all.
        box: ``(x1, y1, x2, y2)`` in pixels of a photo: only the face that overlaps it most is cropped, and
            none if none does.
        full_size: ``(width, height)`` of the image in its file, if it was reduced while it was read: the
            faces of the crops are in its pixels.
    Returns:
        The crops.
    Raises:
        InputError: An aligned image is not square, or the detector returned a face without a box.
        ValueError: ``image`` has another shape or type, or a detector is missing.
    """
    if full_size is not None and full_size != (image.shape[1], image.shape[0]):
        return _enlarged(
            crop_faces(image, kind, detector, geometry, most=most, box=box), full_size, image.size // 3
        )
    if kind is ImageKind.ALIGNED:
        return CroppedImage((_resized(image, geometry.size),))
    if detector is None:
        raise ValueError(f"images of the kind {kind!r} need a detector")
    sound = SoundFaces(detector)
    if kind is ImageKind.CHIP:
        return CroppedImage((_crop(align_chip(image, sound, geometry), image),))
    height, width = image.shape[:2]
    faces = detect_turned(image, sound)
    if box is not None:
        faces = [face for face in faces if _overlap(face.box, box) > 0]
        faces = sorted(faces, key=lambda face: _overlap(face.box, box), reverse=True)[:1]
    crops = tuple(_crop(align_detected(image, face, geometry), image) for face in faces[:most])
    smallest_face = detector.smallest_face(width, height) if isinstance(detector, SizedSearch) else None
    return CroppedImage(crops, len(faces) - len(crops), smallest_face)


def _enlarged(cropped: CroppedImage, full_size: tuple[int, int], size: int) -> CroppedImage:
    """The crops with their faces in pixels of the full image."""
    crops, smallest_face = [], cropped.smallest_face
    for crop in cropped.crops:
        factors = full_size[0] / crop.image_size[0], full_size[1] / crop.image_size[1]
        face = None if crop.face is None else crop.face.scaled(*factors)
        crops.append(crop._replace(face=face, image_size=full_size))
    if smallest_face is not None:
        smallest_face *= math.sqrt(full_size[0] * full_size[1] / size)
    return cropped._replace(crops=tuple(crops), smallest_face=smallest_face)


def _crop(aligned: AlignedFace, image: NDArray[np.uint8]) -> Crop:
    return Crop(aligned.crop, aligned.face, aligned.alignment, (image.shape[1], image.shape[0]))


def _overlap(box: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)) - width * height
    return width * height / union


def _resized(image: NDArray[np.uint8], size: int) -> Crop:
    """The crop of an aligned image."""
    height, width = image.shape[:2]
    if height != width:
        raise InputError(f"{NOT_SQUARE}; this image is {width} x {height} pixels")
    return Crop(resize_aligned(image, size), None, "aligned", (width, height))


def resize_aligned(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring an aligned image (H, H, 3) to the side of a model's input: (size, size, 3)."""
    if len(image) == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
