"""Systems that give ages: models, runs, tables of predictions, and one system of several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from agelens.calibration import Calibration
from agelens.data.predictions import Predictions, read_predictions
from agelens.errors import InputError
from agelens.evaluation.predict import Crops, predict_manifest
from agelens.inference.estimator import AgeEstimator
from agelens.inference.shipped_models import model_path

__all__ = ["System", "model_system", "over_seeds", "predictions_system"]


@dataclass(frozen=True, eq=False)
class System:
    """Something that gives ages.

    Attributes:
        name: Unique among the systems compared.
        kind: ``model``, ``run`` (exported for the occasion) or ``predictions``.
        source: Where it comes from, for the report.
        predictions: What it says of the images.
        model: Its model file, which is timed and weighed; None for a table of predictions.
        calibration: The model's, for its intervals.
        digest: Digest of the model's weights; empty for a table of predictions.
        repeats: The same system trained from other seeds, see :func:`over_seeds`; its cost is that of the
            first.
    """

    name: str
    kind: str
    source: str
    predictions: Predictions
    model: Path | None = None
    calibration: Calibration | None = None
    digest: str = ""
    repeats: tuple[System, ...] = ()

    @property
    def seeds(self) -> tuple[System, ...]:
        """All its trainings, one for most systems."""
        return (replace(self, repeats=()), *self.repeats)


def model_system(
    name: str,
    model: str | Path,
    manifest: pd.DataFrame,
    *,
    split: str | None = None,
    crops: Crops = "aligned",
    kind: str = "model",
    source: str | None = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> System:
    """Run a model over the images of a manifest.

    Args:
        name: Of the system.
        model: Name of a shipped model, or a model file.
        manifest: Checked manifest.
        split: Only these rows; None for all.
        crops: What the images are.
        kind: ``model`` or ``run``.
        source: Where it comes from; by default the model's path.
        threads: Threads of the network.
        progress: Called with the number of images done so far.
    Raises:
        ModelFileError: The model file cannot be used.
        InputError: An argument cannot be used, or the manifest has no row of this split.
    """
    estimator = AgeEstimator(model, threads=threads)
    predictions = predict_manifest(estimator, manifest, split=split, crops=crops, progress=progress)
    path = model_path(model)
    card = estimator.card
    return System(name, kind, source or str(path), predictions, path, card.calibration, card.digest)


def predictions_system(name: str, path: str | Path) -> System:
    """Take any system's table of predictions.

    Raises:
        PredictionsError: It cannot be read or breaks the contract.
    """
    return System(name, "predictions", str(path), read_predictions(path))


def over_seeds(systems: Sequence[System]) -> System:
    """Make one system of several trainings of it: what is told of it are means over them.

    Its intervals are those of the mean on other images, for these trainings: what the seed adds is in the MAE
    of each, told beside it.

    Args:
        systems: One or more of one name and kind.
    Raises:
        InputError: None, other names or kinds, or one of them twice.
    """
    if not systems:
        raise InputError("a system needs one training or more")
    first, *others = systems
    if names := {system.name for system in others} - {first.name}:
        raise InputError(f"{first.name!r} and {min(names)!r} are two systems, not seeds of one")
    if kinds := {system.kind for system in others} - {first.kind}:
        raise InputError(f"{first.name!r} is a {first.kind} and a {min(kinds)}: seeds are of one kind")
    for key in ("source", "digest"):
        values = [getattr(system, key) for system in systems]
        if twice := {value for value in values if value and values.count(value) > 1}:
            raise InputError(f"{first.name!r}: {key} {min(twice)} is there twice, seeds differ")
    return replace(first, repeats=tuple(others))
