"""Reading what owners ship: tables, lists and folders of images."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agelens.errors import InputError
from agelens.faces.image_files import SUFFIXES
from agelens.reading import TABLE_BYTES, open_table, read_text

__all__ = [
    "images_below",
    "parse_number",
    "read_lines",
    "read_table",
    "require_columns",
    "without_header",
]

_SUFFIXES = tuple(SUFFIXES)


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
        with open_table(path) as handle:
            reader = csv.reader(handle, delimiter=delimiter)
            names = [name.strip() for name in (next(reader, []) if columns is None else columns)]
            if len(set(names)) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise InputError(f"{path}: the column {twice!r} is there twice")
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
    return rows if rows[0][name].lower().endswith(_SUFFIXES) else rows[1:]


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
        text = read_text(path, TABLE_BYTES, encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def images_below(folder: Path) -> Iterator[str]:
    """Yield the paths of the visible images in a folder and below it, relative to it, in order."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(os.path.relpath(os.path.join(parent, name), folder)).as_posix()
