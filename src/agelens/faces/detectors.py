"""The detectors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agelens.errors import InputError
from agelens.faces.detection import FaceDetector
from agelens.faces.haar import Haar
from agelens.faces.mtcnn import MTCNN
from agelens.faces.none import WholeImage
from agelens.faces.yunet import YuNet

__all__ = ["DETECTORS", "make_detector"]

DETECTORS: dict[str, Callable[..., FaceDetector]] = {
    "mtcnn": MTCNN,
    "haar": Haar,
    "yunet": YuNet,
    "none": WholeImage,
}
"""Every detector under the name it gives itself."""


def make_detector(name: str, **settings: Any) -> FaceDetector:
    """Make a detector.

    Args:
        name: A key of `DETECTORS`.
        **settings: What its class takes; all take ``threads``.
    Raises:
        InputError: There is no such detector, or it has no such setting, or a value cannot be used.
        MissingExtraError: What it needs is not installed.
    """
    if name not in DETECTORS:
        raise InputError(f"no detector is called {name!r}; there are {', '.join(DETECTORS)}")
    try:
        return DETECTORS[name](**settings)
    except TypeError as error:
        raise InputError(f"the detector {name!r} has no such setting: {error}") from error
