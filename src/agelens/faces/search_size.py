"""The size at which a detector searches an image: the smallest face decides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import InputError

__all__ = ["FACES_ACROSS", "LEAST_FACE", "SEARCHED_FACE", "SearchSize"]

LEAST_FACE = 12
"""Pixels of the smallest face that can be asked for."""
SEARCHED_FACE = 40
"""Pixels of the smallest face in an image as it is searched."""
FACES_ACROSS = 60
"""Smallest faces that stand side by side in a large image."""
_SHORTEST_SIDE = 32


@dataclass(frozen=True)
class SearchSize:
    """The smallest face and the largest image of a search.

    Attributes:
        min_face_size: Smallest face that is looked for, in pixels of the image. By default 40; in images of
            more than 5.8 megapixels a 60th of the side of a square of the same area.
        max_side: A larger image is shrunk to this length of its longer side before it is searched. By default
            an image is shrunk until the smallest face has 40 pixels.
    Raises:
        InputError: A setting is out of range.
    """

    min_face_size: float | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.min_face_size is not None and not self.min_face_size >= LEAST_FACE:
            raise InputError(f"min_face_size is at least {LEAST_FACE} pixels, not {self.min_face_size}")
        if self.max_side is not None and not self.max_side >= _SHORTEST_SIDE:
            raise InputError(f"max_side is at least {_SHORTEST_SIDE} pixels, not {self.max_side}")

    def of(self, width: int, height: int) -> tuple[float, float]:
        """The smallest face, in pixels of the image as it is searched, and the scale at which it is."""
        smallest = self.min_face_size or max(SEARCHED_FACE, math.sqrt(width * height) / FACES_ACROSS)
        shrink = min(1.0, SEARCHED_FACE / smallest)
        if self.max_side is not None:
            shrink = min(shrink, self.max_side / max(height, width))
        return max(LEAST_FACE, smallest * shrink), shrink

    def smallest_face(self, width: int, height: int) -> float:
        """Compute the smallest face that is looked for, in pixels of an image of this size."""
        smallest, shrink = self.of(width, height)
        return smallest / shrink

    def searched(self, image: NDArray[np.uint8]) -> tuple[Image.Image, float]:
        """Shrink an image (H, W, 3) to the size at which it is searched; with the smallest face in it."""
        height, width = image.shape[:2]
        smallest, shrink = self.of(width, height)
        picture = Image.fromarray(image)
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        return picture, smallest
