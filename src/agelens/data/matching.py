"""Predictions matched to the images of a manifest: by path, by source, by file name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
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
    """Pairs of predictions and rows of a manifest.

    Attributes:
        predicted: (M,) positions in the predictions: one face with an age for each matched image.
        labelled: (M,) positions in the manifest, in its order.
        failed: Path and error of the images for which the system gave no age.
        unanswered: (F,) positions in the manifest of the failed images, in the same order.
        missing: Paths of the manifest without any prediction.
        unknown: Paths of the predictions that the manifest lacks.
        further_faces: Faces beyond the first of an image; they are not evaluated.
        by_source: Number of the M + F images matched by the ``source`` that their crop was cut from.
        by_name: Number matched by a file name that occurs once on either side.
    """

    predicted: NDArray[np.int64]
    labelled: NDArray[np.int64]
    failed: tuple[tuple[str, str], ...]
    unanswered: NDArray[np.int64]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    further_faces: int
    by_source: int = 0
    by_name: int = 0


def match_manifest(
    predictions: Predictions,
    manifest: pd.DataFrame,
    split: str | None = None,
    allow_missing: bool = False,
) -> Match:
    """Match predictions to the images of a manifest.

    A path of the predictions matches the manifest's own text, or its absolute path (relative ones are tried
    from the working folder and from the folder of the table); else, in the same way, the ``source`` that a
    crop was cut from, where one crop alone was; else a file name, of a source or of a path, that occurs once
    in the manifest and once among the predictions. An image with several faces takes its first, the largest
    in our own tables.

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
        splits = manifest["split"] if "split" in manifest else pd.Series("", index=manifest.index)
        wanted = (splits == split).to_numpy(dtype=bool)
        if not wanted.any():
            raise InputError(f"the manifest has no rows with split {split!r}; --split all takes every row")
    folder = Path(predictions.source).parent
    names = predictions.frame["path"].astype(str).tolist()
    first: dict[int, int] = {}
    how: dict[int, str] = {}
    further_faces = 0
    left = np.argsort(predictions.frame["face"].to_numpy(), kind="stable").tolist()
    for way, find in _ways(manifest, folder, [names[position] for position in left]):
        unmatched: list[int] = []
        for position in left:
            row = find(names[position])
            if row is None or how.get(row, way) != way:  # a row that was matched in a better way stays so
                unmatched.append(position)
            elif row in first:
                further_faces += int(wanted[row])
            else:
                first[row], how[row] = position, way
        left = unmatched
    unknown = sorted({names[position] for position in left})
    texts = manifest["path"].astype(str).tolist()
    wanted_rows = np.flatnonzero(wanted).tolist()
    missing = [texts[row] for row in wanted_rows if row not in first]
    if not allow_missing:
        _refuse_missing(predictions.source, missing, len(wanted_rows), unknown)
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
        unknown=tuple(unknown),
        further_faces=further_faces,
        by_source=sum(how[row] == "source" for row in answered),
        by_name=sum(how[row] == "name" for row in answered),
    )


def _ways(
    manifest: pd.DataFrame, folder: Path, predicted: list[str]
) -> Iterator[tuple[str, Callable[[str], int | None]]]:
    """Yield the ways to find the row of a predicted path, the surest first."""
    root = manifest.attrs.get("root")
    base = None if root is None else os.path.abspath(root)
    paths = manifest["path"].astype(str).tolist()
    rows = _places(paths, base)
    yield "path", lambda text: _find_row(text, rows, folder)
    sources = paths
    if "source" in manifest:
        column = manifest["source"].astype(object)
        sources = column.where(column.notna(), "").astype(str).tolist()
        times = Counter(sources)
        cut = _places([source if times[source] == 1 else "" for source in sources], base)
        yield "source", lambda text: _find_row(text, cut, folder)
    times = Counter(os.path.basename(text) for text in set(predicted))
    files: dict[str, set[int]] = {}
    for texts in (paths, sources):
        for row, text in enumerate(texts):
            files.setdefault(os.path.basename(text), set()).add(row)
    only = {name: min(rows) for name, rows in files.items() if name and len(rows) == times[name] == 1}
    yield "name", lambda text: only.get(os.path.basename(text))


def _places(texts: list[str], root: str | None) -> dict[str, int]:
    """Map every text that is not empty, and its absolute path, to its row."""
    known = {row: os.path.normpath(text) for row, text in enumerate(texts) if text}
    rows: dict[str, int] = {}
    if root is not None:
        rows.update({os.path.normpath(os.path.join(root, text)): row for row, text in known.items()})
    rows.update({text: row for row, text in known.items()})
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
