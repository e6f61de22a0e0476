"""Published results: every table of figures of the papers that agelens builds on, and later results.

``published_results.csv`` holds a row a printed figure, as it is printed: LRN (Tables 1 to 11), CEN (1 to 7),
LAE (Table 2; its Table 1 only names the age groups), ordinal-dark KD (I to IX), and the strongest later
results. Columns: ``paper, year, table, data_set, protocol, method, pre_training, parameters, metric, value``,
then ``group`` (empty: all images), ``deviation`` (over runs), ``method_year`` (where the table gives one) and
``note``. Where a paper's text and its table disagree, the table is quoted (LRN Sec. 4.4 gives AP's row of
Table 5 as its own). What we call KD is printed there as "Ours".

Quoted figures come from other images, other software and sometimes other splits: they stand beside measured
ones for orientation, and never enter a paired comparison.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agelens.errors import InputError, PublishedResultsError
from agelens.reading import open_table, reason

__all__ = ["PUBLISHED", "PublishedResult", "QuotedSystem", "quoted_systems", "read_published"]

PUBLISHED = Path(__file__).with_name("published_results.csv")
"""The shipped table."""

_COLUMNS = (
    *("paper", "year", "table", "data_set", "protocol", "method", "pre_training", "parameters"),
    *("metric", "value", "group", "deviation", "method_year", "note"),
)
_REQUIRED = ("paper", "year", "method", "metric", "value")
_SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_MEGABYTES = {"size (MB)": 1.0, "size (GB)": 1024.0}


@dataclass(frozen=True)
class PublishedResult:
    """One printed figure.

    Attributes:
        paper: Short name of the paper that prints it (``LRN``, ``CEN``, ``LAE``, ``ordinal-dark KD`` …).
        year: Of that paper.
        table: Its number there, as printed, or ``abstract``, ``README``; empty where it is not known.
        data_set: What it was measured on; empty for facts about a network.
        protocol: Split and label.
        method: The system.
        pre_training: What it was trained on first; empty where none is named.
        parameters: Number of weights as printed (``11.2M``); empty if not given.
        metric: ``MAE``, ``CA(5)``, ``ε-error``, ``AAR``, ``size (MB)`` …
        value: The figure as printed.
        group: ``gender=male``, ``age=1-10`` …; empty: all images.
        deviation: Standard deviation over runs as printed; empty if not given.
        method_year: Year of the method where the table gives it.
        note: What else must be said.
    """

    paper: str
    year: int
    table: str
    data_set: str
    protocol: str
    method: str
    pre_training: str
    parameters: str
    metric: str
    value: str
    group: str
    deviation: str
    method_year: str
    note: str

    @property
    def number(self) -> float:
        """The value as a number."""
        return float(self.value)

    @property
    def parameter_count(self) -> float | None:
        """The number of weights; None if not given."""
        return _count(self.parameters) if self.parameters else None


@dataclass(frozen=True)
class QuotedSystem:
    """The figures of one system in one table.

    Attributes:
        name: The method, with its pre-training.
        source: ``LRN 2020, Table 3``.
        data_set: What it was measured on.
        protocol: Split and label.
        metrics: Name to printed value.
        parameters: Number of weights; None if not given.
        size: Bytes; None if not given.
        note: What else must be said.
    """

    name: str
    source: str
    data_set: str
    protocol: str
    metrics: dict[str, str]
    parameters: float | None
    size: float | None
    note: str


def read_published(path: str | Path = PUBLISHED) -> tuple[PublishedResult, ...]:
    """Read and check a table of published results.

    Args:
        path: CSV with the columns named above; by default the shipped one.
    Returns:
        Its rows in order.
    Raises:
        PublishedResultsError: It cannot be read, lacks a column, a required cell is empty, a year, value,
            deviation or number of parameters is no number, or a row occurs twice.
    """
    try:
        with open_table(path, encoding="utf-8", errors="strict") as handle:
            reader = csv.DictReader(handle, strict=True)
            header = tuple(reader.fieldnames or ())
            if missing := [column for column in _COLUMNS if column not in header]:
                raise PublishedResultsError(path, "the column is missing", column=missing[0])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PublishedResultsError(path, f"cannot be read: {reason(error)}") from error
    seen: dict[tuple[str, ...], int] = {}
    results = []
    for number, row in enumerate(rows, start=1):
        result = _checked(row, path, number)
        key = tuple(row[column] for column in _COLUMNS if column not in ("value", "deviation"))
        if key in seen:
            raise PublishedResultsError(path, f"the same as row {seen[key]}", row=number)
        seen[key] = number
        results.append(result)
    return tuple(results)


def quoted_systems(
    results: Iterable[PublishedResult], data_set: str, protocol: str = ""
) -> tuple[QuotedSystem, ...]:
    """Collect the figures of all images of one data set, a row a system and table.

    Args:
        results: Of :func:`read_published`.
        data_set: Its name, in any case: ``UTKFace``.
        protocol: Only protocols that contain this text.
    Returns:
        In the order of the table.
    Raises:
        InputError: There is nothing of that data set, or nothing of it by that protocol.
    """
    rows = list(results)
    of_set = [row for row in rows if row.data_set.casefold() == data_set.casefold() and not row.group]
    if not of_set:
        known = ", ".join(sorted({row.data_set for row in rows if row.data_set}))
        raise InputError(f"no published result on {data_set!r}; there are results on {known}")
    selected = [row for row in of_set if protocol.casefold() in row.protocol.casefold()]
    if not selected:
        known = "; ".join(sorted({row.protocol for row in of_set}))
        raise InputError(f"no published result on {data_set} by protocol {protocol!r}; there are: {known}")
    gathered: dict[tuple[str, ...], list[PublishedResult]] = {}
    for row in selected:
        key = (row.paper, row.table, row.method, row.pre_training, row.protocol, row.note * _is_sweep(row))
        gathered.setdefault(key, []).append(row)
    return tuple(_quoted(rows) for rows in gathered.values())


def _is_sweep(row: PublishedResult) -> bool:
    """The rows of a sweep share a method where the sweeps cross."""
    return row.note.startswith("sweep of")


def _quoted(rows: Sequence[PublishedResult]) -> QuotedSystem:
    first = rows[0]
    sizes = [row.number * _MEGABYTES[row.metric] * 2**20 for row in rows if row.metric in _MEGABYTES]
    return QuotedSystem(
        name=first.method + (f" [{first.pre_training}]" if first.pre_training else ""),
        source=f"{first.paper} {first.year}" + _place(first.table),
        data_set=first.data_set,
        protocol=first.protocol,
        metrics={
            row.metric: row.value + (f" ± {row.deviation}" if row.deviation else "")
            for row in rows
            if row.metric not in _MEGABYTES
        },
        parameters=first.parameter_count,
        size=sizes[0] if sizes else None,
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
    )


def _place(table: str) -> str:
    if not table:
        return ""
    return f", Table {table}" if re.fullmatch("[0-9]+|[IVX]+", table) else f", {table}"


def _checked(row: dict[str, str], path: str | Path, number: int) -> PublishedResult:
    if None in row or None in row.values():
        raise PublishedResultsError(path, "has another number of cells than the header", row=number)
    for column in _REQUIRED:
        if not row[column].strip():
            raise PublishedResultsError(path, "is empty", row=number, column=column)
    for column in ("value", "deviation"):
        if row[column] and not _is_number(row[column]):
            raise PublishedResultsError(path, "is no number", row=number, column=column, value=row[column])
    if re.fullmatch("(19|20)[0-9]{2}", row["year"]) is None:
        raise PublishedResultsError(path, "is no year", row=number, column="year", value=row["year"])
    if row["parameters"] and not re.fullmatch(r"[0-9]+(\.[0-9]+)?[KMG]?", row["parameters"]):
        raise PublishedResultsError(
            path, "is no number such as 11.2M", row=number, column="parameters", value=row["parameters"]
        )
    cells = {column: row[column] for column in _COLUMNS if column != "year"}
    return PublishedResult(year=int(row["year"]), **cells)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _count(text: str) -> float:
    scale = text[-1] if text[-1] in "KMG" else ""
    return float(text.removesuffix(scale)) * _SCALES[scale]
