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
from agelens.plugins import resolve

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
        name: A key of `DETECTORS`, an entry point ``agelens.detectors``, or ``package.module:name``.
        **settings: What its class takes; all take ``threads``.
    Raises:
        PluginError: There is no such detector, or its package cannot be imported.
        InputError: It has no such setting, or a value cannot be used.
        MissingExtraError: What it needs is not installed.
    """
    make = resolve("detectors", name, DETECTORS)
    try:
        return make(**settings)
    except TypeError as error:
        raise InputError(f"the detector {name!r} has no such setting: {error}") from error
