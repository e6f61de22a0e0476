"""Facial age estimation: train and refine an estimator, prove how good it is, ship it small.

``agelens.AgeEstimator`` and ``agelens.Face`` are imported when first used, so that importing the
package itself costs nothing. Start reading at ``agelens/inference/estimator.py``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agelens.inference.estimator import AgeEstimator
    from agelens.inference.face import Face

__all__ = ["AgeEstimator", "Face", "__version__"]

__version__ = "0.1.0"

# onnxruntime reports its use to its publisher unless this is set before its first import, and every import
# of ours passes here. A value of the user's own stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_DEFINED_IN = {"AgeEstimator": "agelens.inference.estimator", "Face": "agelens.inference.face"}


def __getattr__(name: str) -> object:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'agelens' has no attribute {name!r}")
    return getattr(importlib.import_module(_DEFINED_IN[name]), name)
