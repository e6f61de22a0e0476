"""Running an estimator over the images of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import pandas as pd

from agelens.data.geometry import crop_geometry, require_geometry
from agelens.data.manifest import image_paths
from agelens.data.prediction_columns import PREDICTION_COLUMNS
from agelens.data.predictions import Predictions, check_predictions
from agelens.data.splits import split_rows
from agelens.errors import InputError
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import NOT_SQUARE, ImageKind
from agelens.inference.estimator import Source
from agelens.inference.face import Photo
from agelens.inference.writers import problem
from agelens.model_file import ModelCard

__all__ = [
    "Estimator",
    "image_kind",
    "predict_manifest",
    "refuse_other_crops",
    "refuse_photos",
    "selected_rows",
    "taken_for_crops",
]


class Estimator(Protocol):
    """The part of :class:`~agelens.inference.estimator.AgeEstimator` that is used here."""

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
    images: ImageKind | str = ImageKind.ALIGNED,
    interval_level: float = 0.9,
    threshold: float = 18,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Estimate the age on each image of a manifest; a photo's largest face counts.

    Args:
        estimator: The estimator.
        manifest: Checked manifest.
        split: Only these rows; None for all.
        images: Content of the images: ``aligned`` (crops in the model's geometry), ``chips`` (still to be
            detected and aligned) or ``photos``.
        interval_level: Coverage of the columns ``low`` and ``high``.
        threshold: Years of the column ``p_at_least``.
        progress: Called with the number of images done so far, and of all.
    Returns:
        A row an image, in the manifest's order; an image that could not be used, or shows no face, has its
        ``error``.
    Raises:
        InputError: An argument cannot be used, or the manifest has no row of this split.
    """
    kind = image_kind(images)
    selected = selected_rows(manifest, split)
    bins = estimator.card.age_bins
    distribution = np.full((len(selected), len(bins)), np.nan)
    rows: list[dict[str, object]] = []
    photos = estimator.estimate_many(
        image_paths(selected), crops=kind is ImageKind.CHIP, aligned=kind is ImageKind.ALIGNED
    )
    for path, photo in zip(selected["path"], photos, strict=True):
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
            progress(len(rows), len(selected))
    frame = check_predictions(pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)), estimator.card.name)
    return Predictions(frame, distribution, bins, estimator.card.name)


def image_kind(images: ImageKind | str) -> ImageKind:
    """Translate the name of a kind of images.

    Raises:
        InputError: There is no such kind.
    """
    try:
        return ImageKind(images)
    except ValueError:
        raise InputError(f"images are {', '.join(ImageKind)} (value: {images!r})") from None


def selected_rows(manifest: pd.DataFrame, split: str | None) -> pd.DataFrame:
    """Select the rows of one split; None for all.

    Raises:
        InputError: The manifest has no row of this split.
    """
    if split is None:
        return manifest
    rows = split_rows(manifest, split)
    if rows.empty:
        raise InputError(f"the manifest has no rows with split {split!r}; --split all takes every row")
    return rows


def refuse_other_crops(manifest: pd.DataFrame, images: ImageKind | str, geometry: CropGeometry) -> None:
    """Refuse aligned crops in which the face stands otherwise than a model was made for.

    Args:
        manifest: Rows that are to be estimated.
        images: What the images are taken for.
        geometry: Of the model.
    Raises:
        InputError: The crops are of another geometry, or of several.
    """
    if image_kind(images) is ImageKind.ALIGNED and crop_geometry(manifest) is not None:
        require_geometry(manifest, geometry)


def taken_for_crops(manifest: pd.DataFrame, images: ImageKind | str) -> bool:
    """Tell whether images are taken for aligned crops though no geometry or alignment says so."""
    aligned = image_kind(images) is ImageKind.ALIGNED
    return aligned and "alignment" not in manifest and crop_geometry(manifest) is None


def refuse_photos(predictions: Predictions, manifest: pd.DataFrame, images: ImageKind | str) -> None:
    """Refuse photographs that were taken for aligned crops.

    Only a manifest that ``prepare`` did not write is suspected: its crops are aligned, and one that cannot be
    used is an image like any other without an estimate.

    Args:
        predictions: For the images of the manifest.
        manifest: Checked manifest.
        images: What the images were taken for.
    Raises:
        InputError: Images that should be aligned crops are not square.
    """
    if image_kind(images) is not ImageKind.ALIGNED or "alignment" in manifest:
        return
    frame = predictions.frame
    wrong = frame[frame["error"].str.startswith(NOT_SQUARE)]
    if not wrong.empty:
        place = manifest.attrs.get("path", "the manifest")
        raise InputError(
            f"{place}: {len(wrong)} of {len(frame)} images are no aligned crops ({wrong['path'].iloc[0]}: "
            f"{wrong['error'].iloc[0]}); --images photos detects and aligns the faces of photographs, "
            "--images chips those of face chips"
        )
