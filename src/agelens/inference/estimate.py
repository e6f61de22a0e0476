"""One call for one photo: the estimator behind it is opened once and kept."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from agelens.faces.image import Channels
from agelens.inference.estimator import AgeEstimator, Source
from agelens.inference.face import Face

__all__ = ["estimate"]


def estimate(image: Source, *, model: str | Path | None = None, channels: Channels = "rgb") -> list[Face]:
    """Estimate the age of every face in a photo.

    Detector, threads, face chips and batches are settings of `AgeEstimator`; this function keeps one
    estimator per model, with default settings.

    Args:
        image: A path, an encoded image, a Pillow image, or (H, W, 3) uint8.
        model: Name of a shipped model, or a model file; None is the default model.
        channels: Order of an array's colours: ``rgb``, or ``bgr`` as OpenCV has them.
    Returns:
        The faces, the largest first; empty if there is none.
    Raises:
        ImageError: The image cannot be read.
        InputError: ``image`` is of a type that is no image.
        ModelFileError: No such model, or not a model file of agelens.
    """
    return _estimator(None if model is None else str(model)).estimate(image, channels=channels)


@lru_cache(maxsize=4)
def _estimator(model: str | None) -> AgeEstimator:
    return AgeEstimator(model)
