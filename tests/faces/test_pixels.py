"""The pixels of any mode, in strips as in one piece, and in every orientation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from agelens.faces.image import read_image
from agelens.faces.pixels import rgb_pixels

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def drawn(mode: str) -> Image.Image:
    """A picture of 19 × 23 random pixels."""
    random = np.random.default_rng(0)
    if mode == "F":
        values = random.uniform(-5, 70_000, (23, 19)).astype(np.float32)
        values[3, 4], values[5, 6] = np.nan, np.inf
        return Image.fromarray(values)
    if mode == "I":
        return Image.fromarray(random.integers(-9, 99_999, (23, 19), np.int32))
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65_536, (23, 19), np.uint16))
    rgba = Image.fromarray(random.integers(0, 256, (23, 19, 4), np.uint8), "RGBA")
    if mode == "transparent P":
        picture = rgba.convert("RGB").quantize(16)
        picture.info["transparency"] = bytes(range(0, 256, 16))
        return picture
    return (
        rgba.convert("L").convert(mode)
        if mode in {"1", "L", "LA", "P"}
        else rgba.convert("RGB").convert(mode)
    )


MODES = ("1", "L", "LA", "P", "transparent P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")


@pytest.mark.parametrize("mode", MODES)
def test_strips_make_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rgb_pixels(drawn(mode))
    assert whole.shape == (23, 19, 3)
    assert len(np.unique(whole)) > 1
    monkeypatch.setattr("agelens.faces.pixels._STRIP", 40)  # two rows
    np.testing.assert_array_equal(rgb_pixels(drawn(mode)), whole)


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_pillows(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agelens.faces.pixels._STRIP", 60)
    picture = drawn("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture.save(stream, "PNG", exif=exif)
    wanted = picture.transpose(TURNS[orientation]) if orientation in TURNS else picture
    np.testing.assert_array_equal(read_image(stream.getvalue()), np.asarray(wanted))
