"""The look of an aligned crop: sharpness, contrast, brightness, colour.

The measures are those that tell soft, grey, noisy and dark pictures from sharp colour ones at little cost:
`agelens.shift` widens the distribution of crops that look unlike those of the calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEASURES", "crop_appearance"]

MEASURES = ("sharpness", "contrast", "brightness", "colour")
"""The measures, in the order of the columns of :func:`crop_appearance`."""

_NEAR, _FAR = 1, 4  # pixels between the compared grey values


def crop_appearance(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure aligned crops.

    With grey g = (77 R + 150 G + 29 B) / 256, all in 0 … 255:

    * *sharpness*: half the logarithm of the mean squared difference of neighbours (+ 1) over that of pixels
      four apart (+ 1), along both axes. Blur and enlargement lower it, noise raises it.
    * *contrast*: log(1 + standard deviation of g).
    * *brightness*: mean of g / 255.
    * *colour*: log(1 + mean of max(R, G, B) - min(R, G, B)); 0 for a grey picture.

    Args:
        crops: (N, S, S, 3) uint8 RGB, as the network sees them.
    Returns:
        (N, 4), a column for each of :data:`MEASURES`.
    Raises:
        ValueError: ``crops`` has another shape or type.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
        raise ValueError(f"crops are (N, S, S, 3) uint8, not {crops.shape} {crops.dtype}")
    found = [_appearance(crop) for crop in crops]
    return np.array(found, np.float64).reshape(len(crops), len(MEASURES))


def _appearance(crop: NDArray[np.uint8]) -> tuple[float, ...]:
    red, green, blue = (np.ascontiguousarray(crop[..., channel]) for channel in range(3))
    grey = np.float32(77 / 256) * red + np.float32(150 / 256) * green + np.float32(29 / 256) * blue
    range_of_colours = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    mean = float(grey.mean(dtype=np.float64))
    return (
        0.5 * float(np.log((_difference(grey, _NEAR) + 1) / (_difference(grey, _FAR) + 1))),
        float(np.log1p(_mean_square(grey - np.float32(mean)) ** 0.5)),
        mean / 255,
        float(np.log1p(range_of_colours.mean(dtype=np.float64))),
    )


def _difference(grey: NDArray[np.float32], step: int) -> float:
    """Mean squared difference of pixels ``step`` apart, over both axes; 0 in a crop that has none."""
    if min(grey.shape) <= step:
        return 0.0
    along, across = grey[:, step:] - grey[:, :-step], grey[step:] - grey[:-step]
    return (_mean_square(along) + _mean_square(across)) / 2


def _mean_square(values: NDArray[Any]) -> float:
    flat = values.ravel()
    return float(flat @ flat) / flat.size
