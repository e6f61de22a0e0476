"""Your own table: any CSV or Parquet file with a column of image files and one of ages.

Owner and terms: yours.

Layout: FILE instead of a folder; its relative paths start from its own folder (or from the setting
``images``).

Settings: ``path`` and ``age`` name the columns if they are called otherwise. Also taken under the names
that tables of this field use: ``file``, ``filename``, ``file_name``, ``image``, ``img_path``, ``photo`` and
``real_age``; where two of them are there, say which. ``age_low`` and ``age_high`` are a band, in place of an
age. Every other column is kept, and checked if the
manifest knows it; only a column called ``path`` or ``age`` that another one stands in for is not. A table
that follows the manifest's contract already needs none of this: give it as it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agelens.data.datasets.rows import Row, make_manifest, read_table
from agelens.data.duplicates import Progress
from agelens.data.manifest import Finding, check_manifest
from agelens.errors import InputError, MissingExtraError

__all__ = ["table"]

_PATHS = ("path", "file", "filename", "file_name", "image", "img_path", "photo")
_AGES = ("age", "real_age")
_BAND = ("age_low", "age_high")


def table(
    folder: str | Path,
    *,
    content: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
    path: str | None = None,
    age: str | None = None,
    images: str | None = None,
) -> pd.DataFrame:
    """Make the manifest of a table of one's own.

    Args:
        folder: The CSV or Parquet file (named as in the other adapters).
        content: Whether to read the images, for ``digest``. False reads the table only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
        path: The column of image files; None: the one of the usual names.
        age: The column of ages; likewise.
        images: The folder that relative paths start from; None: the table's.
    Returns:
        The manifest in the order of the table; ``attrs["problems"]`` has the rows that could not be used.
    Raises:
        InputError: No such table, or the columns cannot be told.
        ManifestError: A column that the manifest knows breaks its contract.
    """
    source = Path(folder)
    if source.suffix.lower() not in (".csv", ".parquet") or not source.is_file():
        raise InputError(f"{source}: no .csv or .parquet file")
    records = _read_parquet(source) if source.suffix.lower() == ".parquet" else read_table(source)
    if not records:
        raise InputError(f"{source}: the table has no rows")
    of_path = _column(source, list(records[0]), path, _PATHS, "path")
    banded = age is None and "age_low" in records[0] and not set(_AGES) & set(records[0])
    of_age = "" if banded else _column(source, list(records[0]), age, _AGES, "age")
    root = source.parent if images is None else Path(images)
    rows: list[Row] = []
    problems: list[Finding] = []
    kept = [name for name in records[0] if name not in (of_path, of_age, "path", "age")]
    others_of = [{name: record[name] for name in kept} for record in records]
    # Now, while a row is where the file has it, and before any image is read.
    labels = [record[of_age] if of_age else "" for record in records]
    unlabelled = [{k: v for k, v in others.items() if k not in _BAND} for others in others_of]
    check_manifest(pd.DataFrame(unlabelled, dtype=object).assign(path=range(len(records)), age=0.0), source)
    for place, (record, label, others) in enumerate(zip(records, labels, others_of, strict=True), start=1):
        name = str(record[of_path])
        if not name:
            problems.append(Finding("bad-value", ("",), f"row {place}: the path is empty; left out"))
            continue
        rows.append({"path": os.path.normpath(name), "age": label, **others})
    return make_manifest(rows, root, problems, content=content, workers=workers, progress=progress)


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
    return "" if pd.isna(value) else value


def _column(source: Path, found: list[str], wished: str | None, usual: tuple[str, ...], what: str) -> str:
    if wished is not None:
        if wished not in found:
            raise InputError(f"{source}: no column {wished!r} (found: {', '.join(found)})")
        return wished
    named = [name for name in usual if name in found]
    if what in named:
        return what
    if len(named) != 1:
        wrong = (
            f"several columns may be the {what}: {', '.join(named)}" if named else f"no column of the {what}"
        )
        raise InputError(f"{source}: {wrong}; say which with {what}=NAME (found: {', '.join(found)})")
    return named[0]
