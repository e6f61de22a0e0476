"""Running an estimator over the images of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from agelens.data.manifest import image_paths
from agelens.data.prediction_columns import PREDICTION_COLUMNS
from agelens.data.predictions import Predictions, check_predictions
from agelens.errors import InputError
from agelens.inference.estimator import Source
from agelens.inference.face import Photo
from agelens.inference.writers import problem
from agelens.model_file import ModelCard

__all__ = ["Crops", "Estimator", "predict_manifest"]

Crops = Literal["aligned", "chips", "photos"]
"""What the images of a manifest are."""


class Estimator(Protocol):
    """What is needed of :class:`~agelens.inference.estimator.AgeEstimator`."""

    card: ModelCard

    def estimate_many(
        self, sources: Iterable[Source], *, crops: bool = False, aligned: bool = False
    ) -> Iterator[Photo]:
        """Estimate many images, a `Photo` each, in order."""
        ...


def predict_manifest(
    estimator: Estimator,
    manifest: pd.DataFrame,
    *,
    split: str | None = None,
    crops: Crops = "aligned",
    interval_level: float = 0.9,
    threshold: float = 18,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Estimate the age on each image of a manifest; a photo's largest face counts.

    Args:
        estimator: The estimator.
        manifest: Checked manifest.
        split: Only these rows; None for all.
        crops: What the images are: ``aligned`` (in the model's geometry), ``chips`` (still to be detected and
            aligned) or ``photos``.
        interval_level: Coverage of the columns ``low`` and ``high``.
        threshold: Years of the column ``p_at_least``.
        progress: Called with the number of images done so far.
    Returns:
        A row an image, in the manifest's order; an image that could not be used, or shows no face, has its
        ``error``.
    Raises:
        InputError: An argument cannot be used, or the manifest has no row of this split.
    """
    if crops not in ("aligned", "chips", "photos"):
        raise InputError(f"crops are aligned, chips or photos (value: {crops!r})")
    chosen = manifest
    if split is not None:
        chosen = manifest[manifest["split"] == split] if "split" in manifest else manifest.iloc[:0]
        if chosen.empty:
            raise InputError(f"the manifest has no rows with split {split!r}")
    bins = estimator.card.age_bins
    distribution = np.full((len(chosen), len(bins)), np.nan)
    rows: list[dict[str, object]] = []
    photos = estimator.estimate_many(image_paths(chosen), crops=crops == "chips", aligned=crops == "aligned")
    for path, photo in zip(chosen["path"], photos, strict=True):
        if photo.faces:
            face = photo.faces[0]
            distribution[len(rows)] = face.distribution
            low, high = face.interval(interval_level)
            x1, y1, x2, y2 = (None,) * 4 if face.box is None else face.box
            rows.append(
                {
                    "path": path,
                    "face": 1,
                    "age": face.age,
                    "low": low,
                    "high": high,
                    "p_at_least": face.probability_at_least(threshold),
                    "x1": x1,
                    "y1": y1,
                    "x2": x2,
                    "y2": y2,
                    "confidence": face.confidence,
                    "error": "",
                }
            )
        else:
            rows.append({"path": path, "error": problem(photo)})
        if progress is not None:
            progress(len(rows))
    frame = check_predictions(pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)), estimator.card.name)
    return Predictions(frame, distribution, bins, estimator.card.name)
