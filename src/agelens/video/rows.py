"""Rows of the people of a clip and of its frames, as CSV, JSON Lines or columns for a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agelens.faces.quality import FaceQuality
from agelens.inference.writers import visible
from agelens.video.person import FrameAges, PersonAge

__all__ = ["FRAME_COLUMNS", "PERSON_COLUMNS", "Clip", "RowFormat", "frame_rows", "person_rows"]

PERSON_COLUMNS = (
    *("path", "person", "first", "last", "frames", "age", "low", "high", "p_at_least"),
    *("deviation", "shown_deviation", "error", "remarks"),
)
"""Columns of a person; a clip without one has one row, whose ``error`` says why."""

FRAME_COLUMNS = (
    *("path", "frame", "time", "person", "age", "shown", "low", "high", "p_at_least", "settled", "weight"),
    *("yaw", "eye_distance", "blur", "confidence", "x1", "y1", "x2", "y2"),
)
"""Columns of a person in a frame: ``age`` is of it alone, ``shown`` to ``p_at_least`` of all so far."""

_DIGITS = {"p_at_least": 4, "confidence": 4, "weight": 3, "blur": 3, "time": 3, "first": 3, "last": 3}


@dataclass(frozen=True)
class Clip:
    """Outcome of a clip.

    Attributes:
        path: As it was given; ``-`` for a stream.
        people: Its people.
        error: Why it could not be read at all.
        remarks: Sentences on defects that did not prevent reading it.
        frames: Frames that were looked at.
        broken: It ended before its end.
    """

    path: str
    people: tuple[PersonAge, ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()
    frames: int = 0
    broken: bool = False


def person_rows(clip: Clip, *, level: float, threshold: float) -> list[dict[str, Any]]:
    """Give the rows of a clip: one a person, or one that says why there is none.

    Args:
        clip: The clip.
        level: Coverage of ``low`` … ``high``.
        threshold: Age in years of ``p_at_least``.
    Returns:
        `PERSON_COLUMNS`; a missing value is None.
    """
    empty: dict[str, Any] = dict.fromkeys(PERSON_COLUMNS)
    empty |= {"path": clip.path, "error": clip.error, "remarks": "; ".join(clip.remarks)}
    if not clip.people:
        return [empty | {"error": clip.error or "no face found"}]
    rows = []
    for person in clip.people:
        told = person.to_dict(level, threshold)
        rows.append(empty | {name: told[name] for name in PERSON_COLUMNS if name in told})
    return rows


def frame_rows(path: str, frame: FrameAges, *, level: float, threshold: float) -> list[dict[str, Any]]:
    """Give the rows of a frame, one a person; arguments as in `person_rows`.

    A frame in which faces were not looked for has none.
    """
    rows: list[dict[str, Any]] = []
    if not frame.looked:
        return rows
    for person in frame.people:
        quality: FaceQuality | None = person.face.quality
        assert quality is not None
        low, high = person.shown.interval(level)
        row: dict[str, Any] = {
            "path": path,
            "frame": frame.number,
            "time": frame.time,
            "person": person.person,
            "age": person.face.age,
            "shown": person.shown.age,
            "low": low,
            "high": high,
            "p_at_least": person.shown.probability_at_least(threshold),
            "settled": int(person.settled),
            "weight": person.weight,
            "yaw": quality.yaw,
            "eye_distance": quality.eye_distance,
            "blur": quality.blur,
            "confidence": person.face.confidence,
        }
        sides = person.face.box or (None,) * 4
        rows.append(row | dict(zip(("x1", "y1", "x2", "y2"), sides, strict=True)))
    return rows


class RowFormat:
    """Rows as text.

    Args:
        name: ``csv``, ``jsonl`` or ``table``.
        columns: Of the rows.
    """

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        self._name, self._columns = name, columns

    @property
    def head(self) -> str:
        """Text before the rows."""
        if self._name == "jsonl":
            return ""
        return self._line([*self._columns])

    def text(self, rows: Sequence[dict[str, Any]]) -> str:
        """Write rows: numbers to one to four decimals, a missing value empty (null in JSON)."""
        if self._name == "jsonl":
            return "".join(
                json.dumps({name: _rounded(name, row[name]) for name in row}) + "\n" for row in rows
            )
        return "".join(self._line([_cell(name, row[name]) for name in self._columns]) for row in rows)

    def _line(self, cells: Sequence[str]) -> str:
        if self._name == "table":
            widths = [max(len(name), 6) for name in self._columns]
            pairs = zip(cells, widths, strict=True)
            return "  ".join(visible(cell).ljust(width) for cell, width in pairs).rstrip() + "\n"
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(cells)
        return out.getvalue()


def _rounded(name: str, value: Any) -> Any:
    return round(value, _DIGITS.get(name, 2)) if isinstance(value, float) else value


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{_DIGITS.get(name, 2)}f}"
    return "" if value is None else str(value)
