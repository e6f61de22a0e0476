"""Conditions of photographs, laid over aligned crops: light, quality, alignment, covered parts.

Each has one fixed strength, so that models are compared on the same pictures; lengths are in shares of the
crop's side, so that crops of every size look alike.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["CONDITIONS", "under_condition"]

Points = NDArray[np.float64]
Random = np.random.Generator
Condition = Callable[[Image.Image, Points, Random], Image.Image]

_GLASS = (24, 24, 28)
_FRAME = (40, 34, 30)
_MASK = (158, 196, 216)
_PLEAT = (128, 168, 190)


def under_condition(
    crop: NDArray[np.uint8], condition: str, landmarks: Points, seed: int = 0
) -> NDArray[np.uint8]:
    """Give a copy of an aligned crop under a condition.

    Args:
        crop: (S, S, 3) uint8 RGB.
        condition: A key of :data:`CONDITIONS`.
        landmarks: (5, 2) ``x y`` of eyes, nose and corners of the mouth in the crop, pixels.
        seed: Of what is drawn at random (noise), so that every model sees the same.
    Returns:
        (S, S, 3) uint8.
    """
    picture = CONDITIONS[condition](Image.fromarray(crop), landmarks, np.random.default_rng(seed))
    return np.asarray(picture, np.uint8)


def _grey(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """Without colour."""
    return picture.convert("L").convert("RGB")


def _dark(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """A dim room: gamma 2 and 60 % of the light."""
    return _toned(picture, lambda values: 0.6 * values**2)


def _bright(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """Overexposed: twice the light, cut at white."""
    return _toned(picture, lambda values: 2 * values)


def _faded(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """A faded print: 45 % of the contrast."""
    return _toned(picture, lambda values: 0.55 + 0.45 * (values - 0.5))


def _blurred(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """Gaussian blur, deviation 1/64 of the side."""
    return picture.filter(ImageFilter.GaussianBlur(picture.width / 64))


def _small(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """A crop that was 32 pixels wide in its photo."""
    return picture.resize((32, 32), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)


def _compressed(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """JPEG of quality 10."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=10)
    return Image.open(file).convert("RGB")


def _noisy(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """A sensor in the dark: noise of deviation 20 in each channel."""
    values = np.asarray(picture, np.float64)
    return Image.fromarray(np.clip(values + random.normal(0, 20, values.shape), 0, 255).astype(np.uint8))


def _turned(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """Turned by 15 degrees: a detector whose landmarks err."""
    return _moved(picture, 15.0, 1.0)


def _large(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """Cut too close, by 15 %."""
    return _moved(picture, 0.0, 1.15)


def _masked(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """A surgical mask from the bridge of the nose to below the chin."""
    left, right, nose, mouth_left, mouth_right = landmarks
    eyes = float(right[0] - left[0])
    mouth = float((mouth_left[1] + mouth_right[1]) / 2)
    x, y = float(nose[0]), float(nose[1])
    top, bottom = y - 0.18 * eyes, mouth + 0.62 * eyes
    outline = [
        (x - 0.92 * eyes, top),
        (x - 0.25 * eyes, top - 0.2 * eyes),
        (x + 0.25 * eyes, top - 0.2 * eyes),
        (x + 0.92 * eyes, top),
        (x + 0.72 * eyes, bottom - 0.12 * eyes),
        (x + 0.3 * eyes, bottom + 0.12 * eyes),
        (x - 0.3 * eyes, bottom + 0.12 * eyes),
        (x - 0.72 * eyes, bottom - 0.12 * eyes),
    ]
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    draw.polygon(outline, fill=_MASK)
    for part in (0.3, 0.5, 0.7):
        height = top + part * (bottom - top)
        draw.line(
            [(x - 0.75 * eyes, height), (x + 0.75 * eyes, height)],
            fill=_PLEAT,
            width=max(1, round(eyes / 30)),
        )
    return drawn


def _sunglasses(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """Dark glasses over both eyes."""
    return _with_glasses(picture, landmarks, _GLASS)


def _glasses(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """A frame around both eyes."""
    return _with_glasses(picture, landmarks, None)


def _half(picture: Image.Image, landmarks: Points, random: Random) -> Image.Image:
    """The left half behind something grey: a hand, a door, another head."""
    drawn = picture.copy()
    ImageDraw.Draw(drawn).rectangle((0, 0, float(landmarks[2, 0]), picture.height), fill=(120, 112, 104))
    return drawn


CONDITIONS: dict[str, Condition] = {
    "grey": _grey,
    "dark": _dark,
    "bright": _bright,
    "faded": _faded,
    "blurred": _blurred,
    "small": _small,
    "compressed": _compressed,
    "noisy": _noisy,
    "turned": _turned,
    "large": _large,
    "glasses": _glasses,
    "sunglasses": _sunglasses,
    "masked": _masked,
    "half": _half,
}
"""The conditions by name."""


def _toned(picture: Image.Image, curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Image.Image:
    table = np.clip(255 * curve(np.arange(256) / 255), 0, 255).round().astype(np.uint8)
    return Image.fromarray(table[np.asarray(picture, np.uint8)])


def _moved(picture: Image.Image, degrees: float, scale: float) -> Image.Image:
    """Turn and enlarge about the centre; what comes in at the border repeats the border's pixels."""
    side = picture.width
    margin = side // 2
    wide = Image.fromarray(np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), "edge"))
    turned = wide.rotate(degrees, Image.Resampling.BICUBIC)
    reach = side / 2 / scale
    centre = wide.width / 2
    box = (centre - reach, centre - reach, centre + reach, centre + reach)
    return turned.resize(picture.size, Image.Resampling.BICUBIC, box=box)


def _with_glasses(picture: Image.Image, landmarks: Points, glass: tuple[int, int, int] | None) -> Image.Image:
    left, right = landmarks[0], landmarks[1]
    eyes = float(right[0] - left[0])
    width = max(1, round(eyes / 18))
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    height = float(left[1] + right[1]) / 2
    for eye, outer in ((left, -1), (right, 1)):
        x, y = float(eye[0]), float(eye[1])
        box = (x - 0.36 * eyes, y - 0.26 * eyes, x + 0.36 * eyes, y + 0.3 * eyes)
        draw.rounded_rectangle(box, radius=0.2 * eyes, fill=glass, outline=_FRAME, width=width)
        draw.line([(x + outer * 0.36 * eyes, y), (x + outer * 0.8 * eyes, y)], fill=_FRAME, width=width)
    draw.line(
        [(float(left[0]) + 0.36 * eyes, height), (float(right[0]) - 0.36 * eyes, height)],
        fill=_FRAME,
        width=width,
    )
    return drawn
