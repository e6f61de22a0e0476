"""Degraded copies of aligned crops: the pictures that a model meets and its calibration set does not hold."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["DEGRADATIONS", "degraded"]

_SIDE = 128  # pixels of the crops that the blur is meant for; it grows with the crop

Random = np.random.Generator


def degraded(crop: NDArray[np.uint8], random: Random) -> NDArray[np.uint8]:
    """Give a copy of a crop, degraded in one of :data:`DEGRADATIONS`, each as likely.

    Args:
        crop: (S, S, 3) uint8 RGB.
        random: What the kind and its strength are drawn from.
    Returns:
        (S, S, 3) uint8.
    """
    kinds = tuple(DEGRADATIONS.values())
    picture = kinds[int(random.integers(len(kinds)))](Image.fromarray(crop), random)
    return np.asarray(picture, np.uint8)


def _blurred(picture: Image.Image, random: Random) -> Image.Image:
    return _gaussian(picture, random.uniform(1, 3.2))


def _small(picture: Image.Image, random: Random) -> Image.Image:
    """A face that was 24 to 56 pixels of the crop wide in its photo."""
    side = max(1, round(random.uniform(24, 56) * picture.width / _SIDE))
    return picture.resize((side, side), Image.Resampling.BILINEAR).resize(
        picture.size, Image.Resampling.BICUBIC
    )


def _grey(picture: Image.Image, random: Random) -> Image.Image:
    return picture.convert("L").convert("RGB")


def _tinted(picture: Image.Image, random: Random) -> Image.Image:
    """Up to half of the colour is kept, and a cast laid over it."""
    grey = np.asarray(picture.convert("L"), np.float64)[..., None]
    colour = np.asarray(picture, np.float64)
    cast = np.exp(random.normal(0, 0.18, 3))
    return _picture((grey + random.uniform(0, 0.5) * (colour - grey)) * cast)


def _compressed(picture: Image.Image, random: Random) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(random.integers(8, 30)))
    return Image.open(file).convert("RGB")


def _noisy(picture: Image.Image, random: Random) -> Image.Image:
    values = np.asarray(picture, np.float64)
    channels = int(random.choice([1, 3]))
    return _picture(values + random.normal(0, random.uniform(6, 25), (*values.shape[:2], channels)))


def _faint(picture: Image.Image, random: Random) -> Image.Image:
    """Too dark, or without contrast."""
    values = np.asarray(picture, np.float64) / 255
    if random.random() < 0.5:
        values = values ** random.uniform(1.5, 3) * random.uniform(0.5, 1)
    else:
        values = 0.5 + (values - 0.5) * random.uniform(0.3, 0.6) + random.uniform(-0.15, 0.2)
    return _picture(255 * values)


def _scanned(picture: Image.Image, random: Random) -> Image.Image:
    """An old print: soft and grey or tinted, every second one noisy or faint too."""
    print_ = _gaussian(picture, random.uniform(0.6, 2))
    print_ = (_grey if random.random() < 0.5 else _tinted)(print_, random)
    if random.random() < 0.5:
        print_ = (_noisy if random.random() < 0.5 else _faint)(print_, random)
    return print_


DEGRADATIONS: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "blurred": _blurred,
    "small": _small,
    "grey": _grey,
    "tinted": _tinted,
    "compressed": _compressed,
    "noisy": _noisy,
    "faint": _faint,
    "scanned": _scanned,
}
"""The kinds, by name."""


def _gaussian(picture: Image.Image, deviation: float) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(deviation * picture.width / _SIDE))


def _picture(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
