"""Predictions as text: tables of CSV, JSON, JSON Lines, and columns for a terminal, an entry a photo.

Every format is a head, an entry for each photo and a tail, so that predictions are written as they come and
an interrupted run can go on.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from agelens.data.prediction_columns import BOX_COLUMNS, PREDICTION_COLUMNS
from agelens.inference.face import Photo

__all__ = [
    "FORMATS",
    "PRINTED_COLUMNS",
    "PredictionFormat",
    "prediction_rows",
    "problem",
    "source_name",
    "visible",
]

PRINTED_COLUMNS = (*PREDICTION_COLUMNS[:-1], "alignment", "warnings", PREDICTION_COLUMNS[-1])
"""Columns of a printed table: those of ``predictions.csv`` with the alignment and the warnings of a face."""


class PredictionFormat(Protocol):
    """Form of predictions: a head, an entry for each photo, separated, and a tail."""

    @property
    def head(self) -> str:
        """Text before the first entry."""

    @property
    def separator(self) -> str:
        """Text between two entries."""

    @property
    def tail(self) -> str:
        """Text after the last entry."""

    def entry(self, photo: Photo) -> str:
        """Write one photo."""


def source_name(photo: Photo) -> str:
    """Name a photo: its path; ``-`` for one that came as bytes or pixels."""
    return os.fspath(photo.source) if isinstance(photo.source, str | os.PathLike) else "-"


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
        threshold: Age in years of ``p_at_least``.
    Yields:
        `PRINTED_COLUMNS`: years to two decimals, pixels to one, probabilities to four, codes of warnings
        separated by spaces; a missing value is empty.
    Raises:
        InputError: ``level`` is out of range.
    """
    empty = dict.fromkeys(PRINTED_COLUMNS, "") | {"path": source_name(photo), "error": problem(photo)}
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
        row["alignment"] = face.alignment
        row["warnings"] = " ".join(_warnings(photo, number - 1))
        yield row


def _warnings(photo: Photo, face: int) -> list[str]:
    """Codes of the warnings of a face and of its photo's file."""
    return [warning.code for warning in photo.faces[face].warnings] + ["damaged_file"] * bool(photo.remarks)


@dataclass(frozen=True)
class CsvFormat:
    """The form of ``predictions.csv``, with alignment and warnings.

    Attributes:
        level: Coverage of ``low`` … ``high``.
        threshold: Age in years of ``p_at_least``.
    """

    level: float = 0.9
    threshold: float = 18
    separator: ClassVar[str] = ""
    tail: ClassVar[str] = ""

    @property
    def head(self) -> str:
        """The names of the columns."""
        return self._line(PRINTED_COLUMNS)

    def entry(self, photo: Photo) -> str:
        """Write the rows of one photo."""
        rows = prediction_rows(photo, level=self.level, threshold=self.threshold)
        return "".join(self._line([row[column] for column in PRINTED_COLUMNS]) for row in rows)

    def _line(self, cells: Sequence[str]) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(cells)
        return out.getvalue()


class SpreadsheetFormat(CsvFormat):
    """CSV for spreadsheets: marked as UTF-8, and no cell of a file's name is read as a formula."""

    @property
    def head(self) -> str:
        """A byte order mark and the names of the columns."""
        return "\ufeff" + super().head

    def _line(self, cells: Sequence[str]) -> str:
        return super()._line([_no_formula(visible(cell)) for cell in cells])


def _no_formula(cell: str) -> str:
    """A cell that begins with a sign of formulas, with the apostrophe that makes it text."""
    if cell[:1] in ("=", "+", "@") or (cell[:1] == "-" and len(cell) > 1 and not _is_number(cell)):
        return "'" + cell
    return cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class JsonLinesFormat:
    """An object ``path, error, faces, remarks`` a line; faces by `Face.to_dict`, with their warnings.

    Attributes:
        level: Coverage of ``low`` … ``high``.
        threshold: Age in years of ``p_at_least``.
    """

    level: float = 0.9
    threshold: float = 18
    head: ClassVar[str] = ""
    separator: ClassVar[str] = ""
    tail: ClassVar[str] = ""

    def entry(self, photo: Photo) -> str:
        """Write one photo."""
        faces = [
            face.to_dict(self.level, self.threshold)
            | {"warnings": [warning.code for warning in face.warnings]}
            for face in photo.faces
        ]
        told = {
            "path": source_name(photo),
            "error": problem(photo) or None,
            "faces": faces,
            "remarks": list(photo.remarks),
        }
        return json.dumps(told) + "\n"


class JsonFormat(JsonLinesFormat):
    """One JSON array of the objects of `JsonLinesFormat`, a line each."""

    head = "[\n"
    separator = ",\n"
    tail = "\n]\n"

    def entry(self, photo: Photo) -> str:
        """Write one photo."""
        return super().entry(photo).rstrip("\n")


class TableFormat:
    """Columns for a terminal, as wide as the names and numbers need; names stay on their line.

    Args:
        level: Coverage of the interval.
        threshold: Age in years of the probability.
        names: Names of all photos, for the width of their column; at most 60 signs count.
    """

    separator = tail = ""

    def __init__(self, level: float = 0.9, threshold: float = 18, names: Sequence[str] = ()) -> None:
        self.level, self.threshold = level, threshold
        titles = ("photo", "face", "age", f"{level:.0%} interval", f"P(age >= {threshold:g})", "box")
        longest = max((len(visible(name)) for name in names), default=0)
        self._widths = [max(len(titles[0]), min(longest, 60)), 4, 4, len(titles[3]), len(titles[4]), 15]
        self.head = self._line((*titles, ""))

    def entry(self, photo: Photo) -> str:
        """Write the rows of one photo."""
        lines = []
        for row in prediction_rows(photo, level=self.level, threshold=self.threshold):
            box = " ".join(row[side].partition(".")[0] for side in BOX_COLUMNS).strip()
            between = f"{float(row['low']):.0f} to {float(row['high']):.0f}" if row["low"] else ""
            years = f"{float(row['age']):.1f}" if row["age"] else ""
            remark = row["error"] or row["warnings"]
            cells = (row["path"], row["face"], years, between, row["p_at_least"], box, remark)
            lines.append(self._line([visible(cell) for cell in cells]))
        return "".join(lines)

    def _line(self, cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, [*self._widths, 0], strict=True)]
        return "  ".join(padded).rstrip() + "\n"


def visible(text: str) -> str:
    """Escape control characters, which a terminal or a spreadsheet would obey instead of showing them."""
    return "".join(sign if sign.isprintable() or _is_surrogate(sign) else _escaped(sign) for sign in text)


def _is_surrogate(sign: str) -> bool:
    return "\udc80" <= sign <= "\udcff"  # a byte of a file name that is no text


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


FORMATS: dict[str, Callable[..., PredictionFormat]] = {
    "csv": CsvFormat,
    "json": JsonFormat,
    "jsonl": JsonLinesFormat,
    "spreadsheet": SpreadsheetFormat,
    "table": TableFormat,
}
"""The formats by name."""
