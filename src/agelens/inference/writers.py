"""Predictions as text: the rows of ``predictions.csv`` and a JSON array."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from agelens.data.prediction_columns import BOX_COLUMNS, PREDICTION_COLUMNS
from agelens.inference.face import Photo

__all__ = ["prediction_rows", "problem", "source_name", "write_csv", "write_json"]


def source_name(photo: Photo) -> str:
    """Name a photo: its path; ``-`` for one that came as bytes or pixels."""
    return str(photo.source) if isinstance(photo.source, str | Path) else "-"


def problem(photo: Photo) -> str:
    """Say why a photo has no age, without its path; empty if it has one."""
    if photo.error is not None:
        return str(getattr(photo.error, "reason", photo.error))
    if photo.faces:
        return ""
    size = "" if photo.smallest_face is None else f" of {photo.smallest_face:.0f} pixels or more"
    return f"no face{size} found"


def prediction_rows(photo: Photo, *, level: float, threshold: float) -> Iterator[dict[str, str]]:
    """Give the rows of one photo: one a face, counted from 1, or one that says why there is none.

    Args:
        photo: The photo.
        level: Coverage of ``low`` … ``high``.
        threshold: Age in years that ``p_at_least`` speaks of.
    Yields:
        `PREDICTION_COLUMNS`: years to two decimals, pixels to one, probabilities to four; a missing value is
        empty.
    Raises:
        InputError: ``level`` is out of range.
    """
    empty = dict.fromkeys(PREDICTION_COLUMNS, "") | {"path": source_name(photo), "error": problem(photo)}
    if not photo.faces:
        yield empty
    for number, face in enumerate(photo.faces, start=1):
        low, high = face.interval(level)
        row = empty | {
            "face": str(number),
            "age": f"{face.age:.2f}",
            "low": f"{low:.2f}",
            "high": f"{high:.2f}",
        }
        row["p_at_least"] = f"{face.probability_at_least(threshold):.4f}"
        if face.box is not None:
            row |= {side: f"{pixel:.1f}" for side, pixel in zip(BOX_COLUMNS, face.box, strict=True)}
        if face.confidence is not None:
            row["confidence"] = f"{face.confidence:.4f}"
        yield row


def write_csv(photos: Iterable[Photo], out: TextIO, *, level: float = 0.9, threshold: float = 18) -> None:
    """Write photos as they come, in the form of ``predictions.csv``; arguments as in `prediction_rows`."""
    writer = csv.DictWriter(out, PREDICTION_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for photo in photos:
        writer.writerows(prediction_rows(photo, level=level, threshold=threshold))


def write_json(photos: Iterable[Photo], out: TextIO, *, level: float = 0.9, threshold: float = 18) -> None:
    """Write photos as they come, as a JSON array of ``path, error, faces`` (`Face.to_dict`), a line each."""
    out.write("[")
    for number, photo in enumerate(photos):
        faces = [face.to_dict(level, threshold) for face in photo.faces]
        entry = {"path": source_name(photo), "error": problem(photo) or None, "faces": faces}
        out.write((",\n" if number else "\n") + json.dumps(entry))
    out.write("\n]\n")
