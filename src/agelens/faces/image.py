"""Reading images: whatever comes in, (H, W, 3) uint8 RGB comes out, or one of our errors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from agelens.errors import ImageTooLargeError, UnreadableImageError

__all__ = ["MAX_PIXELS", "read_image"]

MAX_PIXELS = 178_956_970


def read_image(
    source: str | Path | bytes | BinaryIO | Image.Image | NDArray[Any], *, max_pixels: int = 178_956_970
) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB, upright."""
    if isinstance(source, np.ndarray):
        return np.ascontiguousarray(source)
    if isinstance(source, Image.Image):
        return np.asarray(ImageOps.exif_transpose(source).convert("RGB"))
    name = str(source) if isinstance(source, str | Path) else "image"
    try:
        handle = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(handle) as picture:
            if picture.width * picture.height > max_pixels:
                raise ImageTooLargeError(name, f"{picture.width} x {picture.height} pixels")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise UnreadableImageError(name, str(error)) from error
