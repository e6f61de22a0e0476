"""Your own table: any CSV or Parquet file with a column of image files and one of ages.

Owner and terms: yours.

Layout: FILE instead of a folder; its relative paths start from its own folder (or from the setting
``images``).

Settings: ``path`` and ``age`` name the columns if they are called otherwise. Also taken under the names
that tables of this field use: ``file``, ``filename``, ``file_name``, ``image``, ``img_path``, ``photo`` and
``real_age``; where two of them are there, say which. ``age_low`` and ``age_high`` are a band, in place of an
age. Every other column is kept, and checked if the manifest knows it; only a column called ``path`` or
``age`` that another one stands in for is not. A table that follows the manifest's contract already needs none
of this: give it as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import read_table
from agelens.errors import InputError, MissingExtraError

__all__ = ["TABLE", "table"]

_PATHS = ("path", "file", "filename", "file_name", "image", "img_path", "photo")
_AGES = ("age", "real_age")
_BAND = ("age_low", "age_high")


def table(
    folder: Path, *, path: str | None = None, age: str | None = None, images: str | None = None
) -> Iterator[Row | Finding | Root]:
    """Yield the rows of a table of one's own, in its order.

    Args:
        folder: The CSV or Parquet file (named as in the other adapters).
        path: The column of image files; None: the one of the usual names.
        age: The column of ages; likewise.
        images: The folder that relative paths start from; None: the table's.
    Raises:
        InputError: No such table, or a column is missing or ambiguous.
        ManifestError: A column that the manifest knows breaks its contract.
    """
    if folder.suffix.lower() not in (".csv", ".parquet") or not folder.is_file():
        raise InputError(f"{folder}: no .csv or .parquet file")
    records = _read_parquet(folder) if folder.suffix.lower() == ".parquet" else read_table(folder)
    if not records:
        raise InputError(f"{folder}: the table has no rows")
    of_path = _column(folder, list(records[0]), path, _PATHS, "path")
    banded = age is None and "age_low" in records[0] and not set(_AGES) & set(records[0])
    of_age = "" if banded else _column(folder, list(records[0]), age, _AGES, "age")
    yield Root(folder.parent if images is None else Path(images))
    kept = [name for name in records[0] if name not in (of_path, of_age, "path", "age")]
    others_of = [{name: record[name] for name in kept} for record in records]
    labels = [record[of_age] if of_age else "" for record in records]
    _check_columns([{k: v for k, v in others.items() if k not in _BAND} for others in others_of], folder)
    for place, (record, label, others) in enumerate(zip(records, labels, others_of, strict=True), start=1):
        name = str(record[of_path])
        if not name:
            yield Finding("bad-value", ("",), f"row {place}: the path is empty; left out")
            continue
        yield {"path": os.path.normpath(name), "age": label, **others}


def _check_columns(rows: list[Row], source: Path) -> None:
    """Check the columns that a manifest knows while a row is where the file has it."""
    import pandas as pd  # not to be needed by those who only list the data sets

    from agelens.data.manifest import check_manifest

    check_manifest(pd.DataFrame(rows, dtype=object).assign(path=range(len(rows)), age=0.0), source)


def _read_parquet(source: Path) -> list[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "report") from error
    try:
        frame = pyarrow.parquet.read_table(source).to_pandas()
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: not a Parquet table: {error}") from error
    return [
        {str(column): _cell(value) for column, value in record.items()} for record in frame.to_dict("records")
    ]


def _cell(value: Any) -> Any:
    """A missing value is an empty text, a list (of landmarks, say) its numbers separated by spaces."""
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(str(part) for part in np.ravel(np.asarray(value, dtype=object)))
    import pandas as pd

    return "" if pd.isna(value) else value


def _column(source: Path, present: list[str], wished: str | None, usual: tuple[str, ...], what: str) -> str:
    if wished is not None:
        if wished not in present:
            raise InputError(f"{source}: no column {wished!r} (found: {', '.join(present)})")
        return wished
    named = [name for name in usual if name in present]
    if what in named:
        return what
    if len(named) != 1:
        wrong = (
            f"several columns may be the {what}: {', '.join(named)}" if named else f"no column of the {what}"
        )
        raise InputError(f"{source}: {wrong}; say which with {what}=NAME (found: {', '.join(present)})")
    return named[0]


TABLE = DataSet(table, "row with an image and an age", own=True)
