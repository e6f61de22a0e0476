"""From what an owner's tables and names say to a checked manifest; what every adapter ends with.

An owner's table has rows without a file, files named twice, ages that cannot be. None of them stops the
reading and none goes unmentioned: each is a finding in ``attrs["problems"]``.
"""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agelens.data.duplicates import Progress, fingerprint_images
from agelens.data.manifest import MAXIMUM_AGE, Finding, check_manifest
from agelens.errors import InputError

__all__ = [
    "Row",
    "images_below",
    "make_manifest",
    "parse_number",
    "read_lines",
    "read_table",
    "require_columns",
    "without_header",
]

Row = dict[str, Any]
"""One image: ``path`` (relative to the data set's folder), ``age``, and more of the manifest's columns.

In place of ``age``, ``age_low`` and ``age_high`` (empty for an open band)."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def make_manifest(
    rows: Sequence[Row],
    folder: Path,
    problems: list[Finding],
    *,
    content: bool,
    workers: int | None,
    progress: Progress | None,
) -> pd.DataFrame:
    """Make the manifest of what an adapter read.

    Left out, each with a finding: rows whose file is not there, rows with an impossible age, repeated rows.
    A deviation that is none is a finding, too, and left empty.
    A file named twice with different ages stays as one row that no split uses (``note`` says why), for its
    age is not known.

    Args:
        rows: In the order of the manifest; a column may be missing in some of them.
        folder: Where the paths start.
        problems: What was found so far; more is added.
        content: Whether to read the images, for ``digest`` and for ``note`` where one is unreadable.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The checked manifest; ``attrs["root"]`` is the folder, ``attrs["problems"]`` the findings.
    Raises:
        InputError: No row is left.
    """
    kept = list(_usable(_once(rows, problems), folder, problems))
    if not kept:
        told = f"; the first of {len(problems)} problems: {problems[0].detail}" if problems else ""
        raise InputError(f"{folder}: no image with a usable age and a file{told}")
    table = pd.DataFrame(kept, dtype=object)  # str cannot hold a name that is no UTF-8
    if content:
        found = fingerprint_images(
            [folder / path for path in table["path"]], workers=workers, progress=progress
        )
        notes = table["note"].tolist() if "note" in table else [""] * len(table)
        for k, (path, error) in enumerate(zip(table["path"], found.errors, strict=True)):
            if error:
                problems.append(Finding("unreadable", (path,), str(error)))
                notes[k] = f"unreadable: {error}"
        table["digest"] = found.digests
        table["note"] = pd.Series(notes, dtype=object)
    table = check_manifest(table, folder)
    table.attrs = {"root": folder.absolute(), "problems": problems}
    return table


def _once(rows: Sequence[Row], problems: list[Finding]) -> Iterator[Row]:
    """Each file once."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row["path"]].append(place)
    for path, found in places.items():
        row = rows[found[0]]
        if len(found) > 1:
            where = ", ".join(str(place + 1) for place in found)
            ages = sorted({_label_text(rows[place]) for place in found})
            if len(ages) > 1:
                shown = "/".join(ages)
                problems.append(Finding("conflicting-ages", (path,), f"rows {where}: ages {shown}"))
                row = {**row, "split": "", "note": f"conflicting ages {shown} in rows {where}"}
            else:
                problems.append(Finding("bad-value", (path,), f"rows {where} repeat each other; one is used"))
        yield row


def _usable(rows: Iterator[Row], folder: Path, problems: list[Finding]) -> Iterator[Row]:
    for row in rows:
        age = parse_number(row.get("age", ""))
        if reason := _impossible(row, age):
            problems.append(Finding("impossible-age", (row["path"],), f"{reason}; left out"))
        elif not os.path.isfile(folder / row["path"]):
            problems.append(Finding("missing-file", (row["path"],), "labelled, but not there; left out"))
        else:
            deviation = row.get("age_std", "")
            if deviation != "" and not parse_number(deviation) >= 0:
                detail = f"age_std {deviation!r} is no deviation; left empty"
                problems.append(Finding("bad-value", (row["path"],), detail))
                row = {**row, "age_std": ""}
            yield {**row, "age": age}


def _label_text(row: Row) -> str:
    """A row's label as the owner gives it: the age, or both ends of the band."""
    if _has_band(row):
        return f"{row['age_low']}-{row.get('age_high', '')}"
    return str(row["age"])


def _has_band(row: Row) -> bool:
    return bool(row.get("age", "") == "" and row.get("age_low", "") != "")


def _impossible(row: Row, age: float) -> str:
    """What is wrong with a row's label; empty if nothing is."""
    if not _has_band(row):
        within = 0 <= age <= MAXIMUM_AGE
        return "" if within else f"age {row.get('age', '')!r} is not within 0 … {MAXIMUM_AGE:g} years"
    low, high = parse_number(row["age_low"]), parse_number(row.get("age_high", "") or MAXIMUM_AGE)
    if 0 <= low <= high <= MAXIMUM_AGE and low.is_integer() and high.is_integer():
        return ""
    return f"age band {_label_text(row)!r} is no range of whole years within 0 … {MAXIMUM_AGE:g}"


def parse_number(value: object) -> float:
    """Read a number; NaN for anything else (``1_000`` is none, either)."""
    try:
        return float(str(value).strip().replace("_", "?"))
    except ValueError:
        return math.nan


def read_table(
    path: Path, columns: Sequence[str] | None = None, *, delimiter: str = ","
) -> list[Mapping[str, str]]:
    """Read a table of text.

    Args:
        path: A CSV file, UTF-8.
        columns: Their names, for a file without a header; None: the first row names them.
        delimiter: Between the fields.
    Returns:
        The rows; a field that is missing at the end of a row is empty.
    Raises:
        InputError: It cannot be read, two columns have one name, or a row has more fields than there are
            columns (the row is named).
    """
    rows: list[Mapping[str, str]] = []
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            reader = csv.reader(handle, delimiter=delimiter)
            names = [name.strip() for name in (next(reader, []) if columns is None else columns)]
            if twice := [name for name in names if names.count(name) > 1]:
                raise InputError(f"{path}: the column {twice[0]!r} is there twice")
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) > len(names):
                    raise InputError(
                        f"{path}, row {len(rows) + 1}: {len(fields)} fields under {len(names)} columns"
                    )
                padded = [field.strip() for field in fields] + [""] * (len(names) - len(fields))
                rows.append(dict(zip(names, padded, strict=True)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise InputError(f"{path}, row {len(rows) + 1}: not a table: {error}") from error
    return rows


def without_header(rows: Sequence[Mapping[str, str]], name: str, number: str) -> Sequence[Mapping[str, str]]:
    """Drop the first row of a table read without a header if it is one after all.

    A header has no number, and its name is no file's: an image with a damaged number is a row.

    Args:
        rows: Of :func:`read_table`.
        name: The column of file names.
        number: A column of numbers.
    """
    if not rows or not math.isnan(parse_number(rows[0][number])):
        return rows
    return rows if rows[0][name].lower().endswith(SUFFIXES) else rows[1:]


def require_columns(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Raise InputError where a table lacks a column, or has no row."""
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    for column in columns:
        if column not in rows[0]:
            raise InputError(f"{path}: no column {column!r} (found: {', '.join(rows[0])})")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, stripped, without empty ones at the end.

    Raises:
        InputError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def images_below(folder: Path) -> Iterator[str]:
    """Paths of the images in a folder and below it, relative to it, in order; hidden files are not meant."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(os.path.relpath(os.path.join(parent, name), folder)).as_posix()
