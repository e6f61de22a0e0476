"""Facial age estimation: train and refine an estimator, prove how good it is, ship it small.

The names below are the public interface; ``docs/reference.md`` shows each with an example. A name is
imported when it is first used, so that ``import agelens`` itself loads neither numpy nor PyTorch.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in typing, whose import would take most of the time of importing agelens
if TYPE_CHECKING:
    from agelens.client import AgeClient
    from agelens.data.manifest import read_manifest
    from agelens.data.predictions import read_predictions
    from agelens.data.prepare import prepare
    from agelens.errors import (
        AgelensError,
        ImageError,
        InputError,
        ManifestError,
        MissingExtraError,
        ModelFileError,
        RecipeError,
        RunError,
        ServiceError,
    )
    from agelens.evaluation.compare import compare
    from agelens.evaluation.evaluate import evaluate, evaluate_system
    from agelens.evaluation.systems import open_system
    from agelens.experiments.train import train
    from agelens.export.from_run import export_run
    from agelens.inference.estimate import estimate
    from agelens.inference.estimator import AgeEstimator
    from agelens.inference.face import Face, Photo
    from agelens.inference.shipped_models import list_models
    from agelens.label_distribution import AgeBins
    from agelens.reports.report import write_report
    from agelens.training.recipe import Recipe
    from agelens.training.run import Run
    from agelens.video.estimate import estimate_video

__all__ = [
    "AgeBins",
    "AgeClient",
    "AgeEstimator",
    "AgelensError",
    "Face",
    "ImageError",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "ModelFileError",
    "Photo",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "ServiceError",
    "__version__",
    "compare",
    "estimate",
    "estimate_video",
    "evaluate",
    "evaluate_system",
    "export_run",
    "list_models",
    "open_system",
    "prepare",
    "read_manifest",
    "read_predictions",
    "train",
    "write_report",
]

__version__ = "0.1.0"

# onnxruntime reports its use to its publisher unless this is set before its first import, and every import
# of ours passes here. A value of the user's own stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_DEFINED_IN = {
    "AgeBins": "agelens.label_distribution",
    "AgeClient": "agelens.client",
    "AgeEstimator": "agelens.inference.estimator",
    "AgelensError": "agelens.errors",
    "Face": "agelens.inference.face",
    "ImageError": "agelens.errors",
    "InputError": "agelens.errors",
    "ManifestError": "agelens.errors",
    "MissingExtraError": "agelens.errors",
    "ModelFileError": "agelens.errors",
    "Photo": "agelens.inference.face",
    "Recipe": "agelens.training.recipe",
    "RecipeError": "agelens.errors",
    "Run": "agelens.training.run",
    "RunError": "agelens.errors",
    "ServiceError": "agelens.errors",
    "compare": "agelens.evaluation.compare",
    "estimate": "agelens.inference.estimate",
    "estimate_video": "agelens.video.estimate",
    "evaluate": "agelens.evaluation.evaluate",
    "evaluate_system": "agelens.evaluation.evaluate",
    "export_run": "agelens.export.from_run",
    "list_models": "agelens.inference.shipped_models",
    "open_system": "agelens.evaluation.systems",
    "prepare": "agelens.data.prepare",
    "read_manifest": "agelens.data.manifest",
    "read_predictions": "agelens.data.predictions",
    "train": "agelens.experiments.train",
    "write_report": "agelens.reports.report",
}


def __getattr__(name: str) -> object:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'agelens' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_DEFINED_IN[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_DEFINED_IN]
