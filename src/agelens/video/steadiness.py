"""Steadiness of ages over frames: noise from frame to frame, and what turning the head does.

Frame noise is printed as NIST's evaluations print it: the mean absolute deviation of the ages over a clip of
one person [1]; here its mean over people. Dependence on yaw is the change of the age against the same
person's frames that look ahead.

[1] Hanaoka et al., Face analysis technology evaluation: age estimation and verification, NIST IR 8525, 2024.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.errors import PredictionsError
from agelens.reading import open_table, reason
from agelens.video.fusion import mean_absolute_deviation

__all__ = ["FrameTable", "Steadiness", "YawBin", "read_frames", "steadiness"]

YAW_BINS = (0.0, 10.0, 20.0, 30.0, 45.0, 90.0)
"""Limits of the absolute yaw in degrees; the first bin looks ahead."""


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Ages of frames, ours or another system's.

    Attributes:
        name: Its file or folder.
        frames: (N,) ``path, frame, person`` of each row as text; frame and person may be empty.
        ages: (N,) years.
        shown: (N,) years as shown, of all frames so far; None where the table has none.
        yaw: (N,) degrees; NaN where it is unknown.
    """

    name: str
    frames: tuple[tuple[str, str, str], ...]
    ages: NDArray[np.float64]
    shown: NDArray[np.float64] | None
    yaw: NDArray[np.float64]


@dataclass(frozen=True)
class YawBin:
    """People whose faces turn so far.

    Attributes:
        low, high: Absolute yaw, degrees: from low, below high.
        people: People with frames here and with frames that look ahead.
        frames: Their frames here.
        change: Mean over these people of their mean age here less that ahead, years.
        margin: Half of the 95 % interval of ``change``, years: 1.96 standard errors over people; NaN for one.
        apart: Mean over these people of the absolute value of that, years.
    """

    low: float
    high: float
    people: int
    frames: int
    change: float
    margin: float
    apart: float


@dataclass(frozen=True)
class Steadiness:
    """Steadiness of a system's ages.

    Attributes:
        name: File of its table.
        people: People, those with at least two frames.
        frames: Their frames.
        deviation: Mean over people of the mean absolute deviation of their ages, years.
        shown_deviation: The same of the ages as shown; None where the table has none.
        yaw: A bin for each range of the yaw; empty where no yaw is known.
    """

    name: str
    people: int
    frames: int
    deviation: float
    shown_deviation: float | None
    yaw: tuple[YawBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def read_frames(path: str | Path) -> FrameTable:
    """Read the table of frames of a system: CSV with ``path`` and ``age``.

    ``person`` (else all frames of a path are one person), ``frame``, ``shown`` and ``yaw`` may be there, too;
    other columns are left alone. Rows without an age are passed over.

    Args:
        path: As ``agelens video --frames`` writes it, or another system's; of a folder all ``.frames.csv``.
    Raises:
        PredictionsError: It cannot be read, lacks a column, or a value is no number.
    """
    frames: list[tuple[str, str, str]] = []
    values: list[list[float]] = []
    parts = sorted(Path(path).glob("*.frames.csv")) if Path(path).is_dir() else [Path(path)]
    if not parts:
        raise PredictionsError(path, "has no file *.frames.csv, as agelens video --out --frames writes it")
    for part in parts:
        _read_part(part, frames, values)
    if not frames:
        raise PredictionsError(path, "has no frame with an age")
    ages, shown, yaw = np.array(values, np.float64).T
    return FrameTable(str(path), tuple(frames), ages, None if np.isnan(shown).all() else shown, yaw)


def _read_part(path: str | Path, frames: list[tuple[str, str, str]], values: list[list[float]]) -> None:
    """Add the rows of one file."""
    try:
        with open_table(path) as handle:
            table = csv.DictReader(handle)
            columns = table.fieldnames or []
            for name in ("path", "age"):
                if name not in columns:
                    raise PredictionsError(path, f"has no column {name!r}", column=name)
            for number, row in enumerate(table, start=1):
                if not row["age"]:
                    continue
                frames.append((row["path"] or "", row.get("frame") or "", row.get("person") or ""))
                values.append([_number(path, row, name, number) for name in ("age", "shown", "yaw")])
    except OSError as error:
        raise PredictionsError(path, f"cannot be read: {reason(error)}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise PredictionsError(path, f"is no table: {error}") from error


def _number(path: str | Path, row: dict[str, str | Any], column: str, number: int) -> float:
    text = row.get(column)
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise PredictionsError(path, "is no number", row=number, column=column, value=text)
    return value


def steadiness(tables: Sequence[FrameTable]) -> list[Steadiness]:
    """Measure the steadiness of each table.

    A table without yaw takes it from the first one that knows it of the same path, frame and person, or of
    the same path and frame where that has one person in it.

    Args:
        tables: Of one system each.
    """
    known: dict[tuple[str, ...], float] = {}
    for table in tables:
        for frame, yaw in zip(table.frames, table.yaw, strict=True):
            if not math.isnan(yaw) and frame[1]:
                known.setdefault(frame, yaw)
    alone: dict[tuple[str, ...], list[float]] = {}
    for place, yaw in known.items():
        alone.setdefault(place[:2], []).append(yaw)
    single = {place: yaws[0] for place, yaws in alone.items() if len(yaws) == 1}
    return [_measured(table, known, single) for table in tables]


def _measured(
    table: FrameTable, known: dict[tuple[str, ...], float], single: dict[tuple[str, ...], float]
) -> Steadiness:
    yaw = np.array(
        [
            own if not math.isnan(own) else known.get(frame, single.get(frame[:2], math.nan))
            for own, frame in zip(table.yaw, table.frames, strict=True)
        ]
    )
    rows: dict[tuple[str, str], list[int]] = {}
    for index, (path, _, person) in enumerate(table.frames):
        rows.setdefault((path, person), []).append(index)
    people = [np.array(own) for own in rows.values() if len(own) > 1]
    shown = None
    if table.shown is not None:
        courses = [table.shown[own][~np.isnan(table.shown[own])] for own in people]
        shown = _mean([mean_absolute_deviation(course) for course in courses if len(course)])
    return Steadiness(
        name=table.name,
        people=len(people),
        frames=sum(map(len, people)),
        deviation=_mean([mean_absolute_deviation(table.ages[own]) for own in people]),
        shown_deviation=shown,
        yaw=() if np.isnan(yaw).all() else tuple(_yaw_bins(table.ages, np.abs(yaw), people)),
    )


def _yaw_bins(
    ages: NDArray[np.float64], yaw: NDArray[np.float64], people: Sequence[NDArray[np.intp]]
) -> list[YawBin]:
    bins = []
    for low, high in pairwise(YAW_BINS):
        changes, frames = [], 0
        for own in people:
            here = own[(yaw[own] >= low) & (yaw[own] < high)]
            ahead = own[yaw[own] < YAW_BINS[1]]
            if len(here) and len(ahead):
                changes.append(float(ages[here].mean() - ages[ahead].mean()))
                frames += len(here)
        margin = (
            1.96 * float(np.std(changes, ddof=1)) / math.sqrt(len(changes)) if len(changes) > 1 else math.nan
        )
        bins.append(YawBin(low, high, len(changes), frames, _mean(changes), margin, _mean(np.abs(changes))))
    return bins


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
