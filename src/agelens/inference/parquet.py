"""Predictions as Parquet: the columns of the printed table with their types, row group by row group."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, ClassVar

from agelens.errors import InputError, MissingExtraError
from agelens.files import write_atomically
from agelens.inference.face import Photo
from agelens.inference.tally import Tally
from agelens.inference.writers import PRINTED_COLUMNS, prediction_rows

__all__ = ["RowsFormat", "read_paths", "require_pyarrow", "write_parquet", "write_rows"]

_GROUP = 8192  # rows of a row group; so many are in memory at once
_TEXTS = ("path", "alignment", "warnings", "error")


@dataclass(frozen=True)
class RowsFormat:
    """The rows of a photo as JSON, from which :func:`write_rows` makes Parquet.

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
        """Write the rows of one photo: numbers, text, and null for what is missing."""
        rows = prediction_rows(photo, level=self.level, threshold=self.threshold)
        return json.dumps([{name: _value(name, row[name]) for name in PRINTED_COLUMNS} for row in rows])


def _value(name: str, cell: str) -> str | float | int | None:
    if name == "path":  # bytes of a file name that are no text are escaped
        return cell.encode("utf-8", "backslashreplace").decode("utf-8")
    if name in _TEXTS:
        return cell or None
    if not cell:
        return None
    return int(cell) if name == "face" else float(cell)


def require_pyarrow() -> None:
    """Check that pyarrow is there.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet") from error


def write_parquet(
    photos: Iterable[Photo], out: str | Path, *, level: float = 0.9, threshold: float = 18
) -> Tally:
    """Write predictions to a Parquet file as they come; memory holds a few thousand rows.

    Args:
        photos: Of ``AgeEstimator.estimate_many``.
        out: The file; it is there when it is whole.
        level: Coverage of ``low`` … ``high``.
        threshold: Age in years of ``p_at_least``.
    Returns:
        The counts.
    Raises:
        MissingExtraError: pyarrow is missing.
        InputError: ``level`` is out of range.
        OutputError: The file cannot be written.
    """
    form, tally = RowsFormat(level, threshold), Tally()

    def entries() -> Iterator[str]:
        for photo in photos:
            tally.add(Tally.of(photo))
            yield form.entry(photo)

    require_pyarrow()
    with write_atomically(out) as temporary, open(temporary, "wb") as handle:
        write_rows(entries(), handle)
    return tally


def write_rows(entries: Iterable[str], handle: IO[bytes], facts: dict[str, str] | None = None) -> int:
    """Write entries of :class:`RowsFormat` as a Parquet file of typed columns.

    Args:
        entries: Of photos, in order.
        handle: Of the file, open for writing bytes.
        facts: Kept in the file's metadata.
    Returns:
        Number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _type(pa, name)) for name in PRINTED_COLUMNS], metadata=facts)
    rows = (row for entry in entries for row in json.loads(entry))
    count = 0
    with pq.ParquetWriter(handle, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, _GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def _type(pa: Any, name: str) -> Any:
    if name in _TEXTS:
        return pa.string()
    return pa.int32() if name == "face" else pa.float64()


def read_paths(table: str | Path | IO[bytes]) -> list[str]:
    """Read the column ``path`` of a Parquet file, by its name or open for reading bytes.

    Raises:
        InputError: It is no Parquet file, or has no such column, or a cell is empty.
        MissingExtraError: pyarrow is missing.
    """
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(table, columns=["path"])["path"].to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(f"{table}: no Parquet file with a column 'path': {error}") from error
    for number, cell in enumerate(column, start=1):
        if not isinstance(cell, str) or not cell:
            raise InputError(f"{table}, row {number}, column 'path': {cell!r} is no path")
    paths: list[str] = column
    return paths
