"""Which prediction belongs to which image of a manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.predictions import Predictions
from agelens.errors import InputError, PredictionsError

__all__ = ["Match", "match_manifest"]

_NAMED = 5  # paths that a message names


@dataclass(frozen=True, eq=False)
class Match:
    """Which prediction belongs to which row of a manifest.

    Attributes:
        predicted: (M,) positions in the predictions: one face with an age for each matched image.
        labelled: (M,) positions in the manifest, in its order.
        failed: Path and error of the images for which the system gave no age.
        unanswered: (F,) positions in the manifest of the failed images, in the same order.
        missing: Paths of the manifest without any prediction.
        unknown: Paths of the predictions that the manifest lacks.
        further_faces: Faces beyond the first of an image; they are not evaluated.
    """

    predicted: NDArray[np.int64]
    labelled: NDArray[np.int64]
    failed: tuple[tuple[str, str], ...]
    unanswered: NDArray[np.int64]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    further_faces: int


def match_manifest(
    predictions: Predictions,
    manifest: pd.DataFrame,
    split: str | None = None,
    allow_missing: bool = False,
) -> Match:
    """Find the prediction of each image of a manifest.

    A path of the predictions matches the manifest's own text, or its absolute path (relative ones are tried
    from the working folder and from the folder of the table). An image with several faces takes its first,
    the largest in our own tables.

    Args:
        predictions: Checked predictions.
        manifest: Checked manifest.
        split: Only these rows are wanted; predictions for other rows of the manifest are then passed over.
        allow_missing: Count and name the paths that only one side has instead of raising.
    Returns:
        The match.
    Raises:
        InputError: The manifest has no row of this split.
        PredictionsError: A path occurs on one side only and ``allow_missing`` is false, or none matches.
    """
    wanted = np.ones(len(manifest), dtype=bool)
    if split is not None:
        found = manifest["split"] if "split" in manifest else pd.Series("", index=manifest.index)
        wanted = (found == split).to_numpy(dtype=bool)
        if not wanted.any():
            raise InputError(f"the manifest has no rows with split {split!r}; --split all takes every row")
    rows = _manifest_rows(manifest)
    folder = Path(predictions.source).parent
    first: dict[int, int] = {}
    unknown: list[str] = []
    further_faces = 0
    names = predictions.frame["path"].astype(str).tolist()
    order = np.argsort(predictions.frame["face"].to_numpy(), kind="stable")
    for position in order.tolist():
        text = names[position]
        row = _find_row(text, rows, folder)
        if row is None:
            unknown.append(text)
        elif row in first:
            further_faces += int(wanted[row])
        else:
            first[row] = position
    texts = manifest["path"].astype(str).tolist()
    wanted_rows = np.flatnonzero(wanted).tolist()
    missing = [texts[row] for row in wanted_rows if row not in first]
    if not allow_missing:
        _refuse_missing(predictions.source, missing, len(wanted_rows), sorted(set(unknown)))
    errors = predictions.frame["error"].tolist()
    without_age = predictions.frame["age"].isna().tolist()
    answered = [row for row in wanted_rows if row in first]
    unanswered = [row for row in answered if without_age[first[row]]]
    matched = [row for row in answered if not without_age[first[row]]]
    if not matched:
        raise PredictionsError(predictions.source, "no image of the manifest has a predicted age")
    return Match(
        predicted=np.array([first[row] for row in matched], dtype=np.int64),
        labelled=np.array(matched, dtype=np.int64),
        failed=tuple((texts[row], errors[first[row]]) for row in unanswered),
        unanswered=np.array(unanswered, dtype=np.int64),
        missing=tuple(missing),
        unknown=tuple(sorted(set(unknown))),
        further_faces=further_faces,
    )


def _manifest_rows(manifest: pd.DataFrame) -> dict[str, int]:
    """Map every text and every absolute path of a manifest to its row."""
    texts = [os.path.normpath(text) for text in manifest["path"].astype(str)]
    rows: dict[str, int] = {}
    root = manifest.attrs.get("root")
    if root is not None:
        folder = os.path.abspath(root)
        rows.update({os.path.normpath(os.path.join(folder, text)): row for row, text in enumerate(texts)})
    rows.update({text: row for row, text in enumerate(texts)})
    return rows


def _find_row(text: str, rows: dict[str, int], folder: Path) -> int | None:
    row = rows.get(os.path.normpath(text))
    if row is None:
        row = rows.get(os.path.abspath(text))
    return rows.get(os.path.abspath(folder / text)) if row is None else row


def _refuse_missing(source: str, missing: list[str], wanted: int, unknown: list[str]) -> None:
    reasons = []
    if missing:
        reasons.append(
            f"{len(missing)} of {wanted} images of the manifest have no prediction: {_some(missing)}"
        )
    if unknown:
        reasons.append(f"{len(unknown)} predicted paths are not in the manifest: {_some(unknown)}")
    if reasons:
        raise PredictionsError(source, "; ".join(reasons))


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")
