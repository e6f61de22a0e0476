"""The pixels of any mode of Pillow as upright 8-bit RGB.

They are converted strip by strip: nothing but the decoded picture and the result are in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.faces.colour import to_srgb

__all__ = ["rgb_pixels"]

_STRIP = 2**20  # pixels that are converted at once
_TRANSLUCENT = {"LA", "La", "PA", "RGBA", "RGBa"}


def rgb_pixels(picture: Image.Image, orientation: int = 1) -> NDArray[np.uint8]:
    """Bring a decoded picture of any mode to 8-bit RGB, upright.

    Colours of an embedded profile are converted to sRGB. Transparency is laid on white. 16-bit values are
    divided by 257. Float and 32-bit grey values are taken for 0…1, 0…255 or 0…65535, whichever is the first
    (floats) that holds them all, else stretched from their minimum to their maximum.

    Args:
        picture: The picture; ``format`` tells whether it came from a PNG file.
        orientation: Of its EXIF block, 1 to 8.
    Returns:
        (H, W, 3) uint8 RGB, may be read-only; height and width are exchanged by the orientations 5 to 8.
    """
    width, height = picture.size
    converted = _converter(picture)
    if width * height <= _STRIP and orientation == 1:
        return converted(picture)
    shape = (width, height) if orientation > 4 else (height, width)
    upright = np.empty((*shape, 3), np.uint8)
    rows = _as_stored(upright, orientation)
    for top, strip in _strips(picture):
        rows[top : top + strip.height] = converted(strip)
    return upright


def _as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The view of an upright image in which its pixels stand as the file stores them: EXIF 2.32, table 6."""
    views: dict[int, Callable[[], NDArray[np.uint8]]] = {
        2: lambda: upright[:, ::-1],
        3: lambda: upright[::-1, ::-1],
        4: lambda: upright[::-1],
        5: lambda: upright.swapaxes(0, 1),
        6: lambda: upright.swapaxes(0, 1)[::-1],
        7: lambda: upright[::-1, ::-1].swapaxes(0, 1),
        8: lambda: upright[::-1].swapaxes(0, 1),
    }
    return views[orientation]() if orientation in views else upright


def _strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the picture in horizontal strips, each with its first row."""
    rows = max(1, _STRIP // picture.width)
    if rows >= picture.height:
        yield 0, picture
        return
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(picture.height, top + rows)))


def _converter(picture: Image.Image) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """Choose how the strips of a picture become (H, W, 3) uint8."""
    if picture.mode.startswith("I;16"):
        return lambda strip: _grey(np.asarray(strip).astype(np.float64) / 257)
    if picture.mode in {"I", "F"}:
        # Before version 11, Pillow opens 16-bit PNG files in its 32-bit mode.
        low, factor = (0.0, 1 / 257) if picture.format == "PNG" else _range(picture)
        return lambda strip: _grey((_finite(strip) - low) * factor)
    coloured = to_srgb(picture)
    if coloured is None or "transparency" in picture.info:
        coloured = _unchanged
    if picture.mode in _TRANSLUCENT or "transparency" in picture.info:
        return lambda strip: _on_white(coloured(strip))
    return lambda strip: _opaque(coloured(strip))


def _unchanged(strip: Image.Image) -> Image.Image:
    return strip


def _opaque(strip: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _on_white(strip: Image.Image) -> NDArray[np.uint8]:
    white = Image.new("RGBA", strip.size, "white")
    return np.asarray(Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB"))


def _finite(strip: Image.Image) -> NDArray[np.float64]:
    """The values of a strip; 0 for those that are no number or infinite."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return np.nan_to_num(np.asarray(strip, dtype=np.float64), posinf=0.0, neginf=0.0)


def _range(picture: Image.Image) -> tuple[float, float]:
    """Offset and factor that map values of an unknown range to 0…255."""
    extremes = [(values.min(), values.max()) for _, strip in _strips(picture) for values in [_finite(strip)]]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    for maximum in (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= maximum:
            return 0.0, 255 / maximum
    return low, 255 / (high - low) if high > low else 0.0


def _grey(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(H, W) values 0…255 as (H, W, 3)."""
    return np.repeat(np.rint(values).astype(np.uint8)[:, :, None], 3, axis=2)
