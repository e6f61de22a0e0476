"""The manifest: one table of images and labels, and the one place that checks it.

``docs/contracts.md`` lists the columns and their meaning. Required are ``path`` and a label, or ``path`` and
``subject`` in a manifest of identities. The label of a row is one of

- an *exact* age: ``age``;
- an *apparent* age: ``age``, the mean of several guesses, with their deviation ``age_std``;
- a *band*: ``age_low`` … ``age_high``, completed years, both included, and no ``age``. An empty
  ``age_high`` is an open band ("more than 70"): it ends at :data:`MAXIMUM_AGE`.

A row with an age inside its band has an exact age; the band is kept and not used.
In memory a missing text is ``""`` and a missing number ``NaN``, whatever the file format says.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.columns import GENDERS, LABELS, MAXIMUM_AGE, SPLITS
from agelens.errors import ManifestError, MissingExtraError, OutputError
from agelens.files import write_atomically
from agelens.reading import TABLE_BYTES, open_regular, open_table

__all__ = [
    "COLUMNS",
    "band_text",
    "check_manifest",
    "image_paths",
    "inspect_manifest",
    "is_band",
    "label_bounds",
    "label_kinds",
    "read_manifest",
    "write_manifest",
]

COLUMNS = (
    "path",
    "age",
    "age_std",
    "age_low",
    "age_high",
    "subject",
    "gender",
    "ethnicity",
    "pose",
    "split",
    "dataset",
    "labels",
    "box",
    "landmarks",
    "digest",
    "alignment",
    "note",
)
ALIGNMENTS = ("landmarks", "eyes", "fallback")

_BAND = ("age_low", "age_high")
_NUMBERS = ("age", "age_std", *_BAND, "pose")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FORMATS = (".csv", ".parquet")


def read_manifest(path: str | Path, *, ages: bool = True) -> pd.DataFrame:
    """Read and check a manifest.

    Every column of the file is kept. In a CSV file, columns the contract does not name are text.

    Args:
        path: A ``.csv`` (UTF-8, comma separated, with a header) or ``.parquet`` file.
        ages: Whether rows must have labels (the column ``age``, or ``age_low``); a manifest of identities has
            ``subject`` instead.
    Returns:
        The checked table; ``attrs["root"]`` is the folder that relative image paths start from,
        ``attrs["path"]`` the file.
    Raises:
        ManifestError: No such file, not a table, or a row breaks the contract.
        MissingExtraError: A Parquet file without pyarrow.
    """
    table, problems = inspect_manifest(path, ages=ages)
    if problems:
        raise problems[0]
    return table


def inspect_manifest(path: str | Path, *, ages: bool = True) -> tuple[pd.DataFrame, list[ManifestError]]:
    """Read a manifest and list everything that is wrong in its rows, for an audit.

    Args:
        path: As in :func:`read_manifest`.
        ages: As in :func:`read_manifest`.
    Returns:
        The table in the contract's types, with a wrong number as NaN and a wrong text as it is; and the
        problems, empty for a good manifest.
    Raises:
        ManifestError: No such file, not a table, a required column missing, or no row at all.
        MissingExtraError: A Parquet file without pyarrow.
    """
    path = Path(path)
    suffix = _format(path)
    try:
        table = _read_csv(path) if suffix == ".csv" else _read_parquet(path)
    except OSError as error:
        raise ManifestError(path, f"cannot read: {error.strerror or error}") from error
    table, problems = _inspect(table, path, ages)
    table.attrs = {"root": path.absolute().parent, "path": path.absolute()}
    return table, problems


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ManifestError(path, "a manifest ends in .csv or .parquet")
    return suffix


def _read_csv(path: Path) -> pd.DataFrame:
    rows: list[list[str]] = []
    # surrogateescape: a file name need not be valid UTF-8 on the disk it names.
    with open_table(path) as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise ManifestError(path, "the file is empty")
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise ManifestError(
                        path, f"{len(fields)} fields under {len(header)} columns", row=len(rows) + 1
                    )
                rows.append(fields)
        except csv.Error as error:
            raise ManifestError(path, f"not a CSV table: {error}", row=len(rows) + 1) from error
    return pd.DataFrame(rows, columns=pd.Index(header, dtype=object), dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    _require_pyarrow()
    with open_regular(path, TABLE_BYTES) as handle:
        try:
            return pd.read_parquet(handle, engine="pyarrow")
        except (ValueError, OSError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ManifestError(path, f"not a Parquet table: {reason}") from error


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pyarrow", "report") from error


def check_manifest(df: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Check a table against the contract and bring it to the contract's types.

    Args:
        df: The table; it is not changed.
        path: The file it came from or will go to, for messages.
    Returns:
        A copy with a fresh index: numbers as float64 (missing = NaN), contract texts as ``str``
        (missing = ``""``), other columns as they were. ``attrs`` are kept.
    Raises:
        ManifestError: A required column is missing or twice there, the table has no row, or a value
            breaks the contract (path, row with 1 = the first data row, column, value).
    """
    table, problems = _inspect(df, path, ages=False)
    if problems:
        raise problems[0]
    return table


def _inspect(df: pd.DataFrame, path: str | Path, ages: bool) -> tuple[pd.DataFrame, list[ManifestError]]:
    names = [str(name) for name in df.columns]
    labelled = ages or "subject" not in names or bool({"age", *_BAND} & set(names))
    for name in ("path", "age") if labelled and "age_low" not in names else ("path",):
        if name not in names:
            raise ManifestError(path, f"the column is missing (found: {', '.join(names)})", column=name)
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ManifestError(path, "the column appears more than once", column=twice)
    if len(df) == 0:
        raise ManifestError(path, "the table has no rows")
    table = df.reset_index(drop=True)
    table.columns = pd.Index(names, dtype=object)
    if labelled and "age" not in names:
        names.append("age")
        table["age"] = np.nan
    problems: list[ManifestError] = []

    def problem(reason: str, row: int, column: str, value: object) -> None:
        problems.append(ManifestError(path, reason, row=row, column=column, value=value))

    given = {name: table[name].tolist() for name in COLUMNS if name in names}
    for name, values in given.items():
        if name in _NUMBERS:
            numbers = np.full(len(values), np.nan)
            for row, value in enumerate(values, start=1):
                numbers[row - 1], reason = _number(value, name)
                if reason:
                    problem(reason, row, name, value)
            table[name] = numbers
        else:
            texts = ["" if _missing(value) else str(value) for value in values]
            table[name] = pd.Series(texts, dtype=object)
            if check := _TEXT_CHECKS.get(name):
                for row, text in enumerate(texts, start=1):
                    if text and (reason := check(text)):
                        problem(reason, row, name, text)
    if labelled:
        wrong = {problem.row for problem in problems if problem.column in ("age", "age_std", *_BAND)}
        for row, (reason, column) in _label_problems(table):
            if row not in wrong:
                problem(reason, row, column, given[column][row - 1])
    first: dict[str, int] = {}
    for row, text in enumerate(table["path"], start=1):
        if not text:
            problem("the path is empty", row, "path", text)
        elif text in first:
            problem(f"the path is already in row {first[text]}", row, "path", text)
        else:
            first[text] = row
    table.attrs = dict(df.attrs)
    return table, problems


def _missing(value: object) -> bool:
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    )


def _number(value: Any, column: str) -> tuple[float, str]:
    """A number (NaN if it is missing or wrong) and what is wrong with it."""
    if _missing(value) or (isinstance(value, str) and not value.strip()):
        return math.nan, ""
    try:
        # Python reads 1_000 as a thousand; a table does not mean that.
        number = float(value.replace("_", "?") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return math.nan, "not a number"
    if not math.isfinite(number):
        return math.nan, "not a finite number"
    if column != "pose" and number < 0:
        return math.nan, "must not be negative"
    if column in ("age", *_BAND) and number > MAXIMUM_AGE:
        return math.nan, f"above {MAXIMUM_AGE:g} years"
    if column in _BAND and number != math.floor(number):
        return math.nan, "must be a whole number of completed years"
    return number, ""


def _label_problems(table: pd.DataFrame) -> Iterator[tuple[int, tuple[str, str]]]:
    """Rows (1 = the first) whose label is none of the three kinds: the reason and the column."""
    absent = np.full(len(table), np.nan)
    columns = [table.get(name, absent) for name in ("age", "age_std", *_BAND)]
    for row, (age, deviation, low, high) in enumerate(zip(*columns, strict=True), start=1):
        if math.isnan(low) and not math.isnan(high):
            yield row, ("a band with an upper end needs age_low (0 if it is open below)", "age_high")
        elif high < low:
            yield row, (f"the band is reversed: age_low {low:g} is above age_high {high:g}", "age_low")
        elif math.isnan(low) and math.isnan(age):
            none = "the age is missing" + (", and so is the band" if "age_low" in table else "")
            yield row, (none, "age")
        elif math.isnan(age) and not math.isnan(deviation):
            yield row, ("a deviation belongs to an age, and this row has a band", "age_std")
        elif age < low or age >= (math.inf if math.isnan(high) else high + 1):
            yield row, (f"outside the row's band {band_text(low, high)}", "age")


def is_band(table: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) the rows of a checked manifest whose label is a band."""
    if "age_low" not in table:
        return np.zeros(len(table), np.bool_)
    return np.asarray(table["age"].isna() & table["age_low"].notna())


def label_kinds(table: pd.DataFrame) -> dict[str, int]:
    """Number of rows of each kind of label that occurs: ``exact``, ``apparent`` (it deviates), ``band``."""
    aged = table["age"].notna().to_numpy(dtype=np.bool_)
    deviates = np.zeros(len(table), np.bool_)
    if "age_std" in table:
        deviates = table["age_std"].notna().to_numpy(dtype=np.bool_)
    kinds = {"exact": aged & ~deviates, "apparent": aged & deviates, "band": is_band(table)}
    return {kind: int(rows.sum()) for kind, rows in kinds.items() if rows.any()}


def label_bounds(table: pd.DataFrame) -> NDArray[np.float64]:
    """Lower and upper end of every label of a checked manifest.

    Args:
        table: N rows.
    Returns:
        (N, 2) years: the age twice where there is one; else the band, an open one up to
        :data:`MAXIMUM_AGE`; NaN for a row without a label.
    """
    ages = table["age"].to_numpy(dtype=np.float64)
    bounds = np.stack([ages, ages], axis=1)
    bands = is_band(table)
    if bands.any():
        low = table["age_low"].to_numpy(dtype=np.float64)
        high = (
            table["age_high"].to_numpy(dtype=np.float64) if "age_high" in table else np.full_like(low, np.nan)
        )
        high = np.where(np.isnan(high), MAXIMUM_AGE, high)
        bounds[bands] = np.stack([low, high], axis=1)[bands]
    return bounds


def band_text(low: float, high: float) -> str:
    """A label as people write it: ``20-29``, ``70+`` (``high`` NaN or the maximum), or ``25`` of an age."""
    if math.isnan(high) or high >= MAXIMUM_AGE > low:
        return f"{low:g}+"
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    return lambda value: "" if value in allowed else f"must be one of {', '.join(allowed)} or empty"


def _count_of_numbers(text: str, count: int) -> str:
    try:
        finite = [math.isfinite(float(part)) for part in text.split()]
    except ValueError:
        finite = []
    return "" if len(finite) == count and all(finite) else f"must be {count} numbers separated by spaces"


def _box_problem(text: str) -> str:
    if reason := _count_of_numbers(text, 4):
        return reason
    x1, y1, x2, y2 = map(float, text.split())
    return "" if x1 < x2 and y1 < y2 else "must be 'x1 y1 x2 y2' with x1 < x2 and y1 < y2"


_TEXT_CHECKS: dict[str, Callable[[str], str]] = {
    "gender": _one_of(GENDERS),
    "split": _one_of(SPLITS),
    "labels": _one_of(LABELS),
    "alignment": _one_of(ALIGNMENTS),
    "box": _box_problem,
    "landmarks": lambda text: _count_of_numbers(text, 10),
    "digest": lambda text: "" if _DIGEST.fullmatch(text) else "must be a sha256 in 64 lower-case hex digits",
}


def write_manifest(df: pd.DataFrame, path: str | Path) -> None:
    """Check a manifest and write it; an older file is replaced only by a complete new one.

    Relative image paths start from ``df.attrs["root"]`` if it is there; they are rewritten so that they
    start from the folder of ``path``. Without it they are taken to be right already.

    Args:
        df: The table.
        path: A ``.csv`` or ``.parquet`` file. Both keep every value: floats are written in full.
    Raises:
        ManifestError: The table breaks the contract, or the suffix is neither.
        MissingExtraError: Parquet without pyarrow.
        OutputError: Writing failed.
    """
    path = Path(path)
    suffix = _format(path)
    table = check_manifest(df, path)
    root = table.attrs.get("root")
    table.attrs = {}  # pandas would write them into the Parquet file
    if root is not None and Path(root).absolute() != path.absolute().parent:
        folder = path.absolute().parent
        table["path"] = pd.Series(
            [p if os.path.isabs(p) else os.path.relpath(Path(root) / p, folder) for p in table["path"]],
            dtype=object,
        )
    if suffix == ".parquet":
        _require_pyarrow()
    with write_atomically(path) as temporary:
        if suffix == ".csv":
            table.to_csv(
                temporary, index=False, encoding="utf-8", errors="surrogateescape", lineterminator="\n"
            )
        else:
            try:
                table.to_parquet(temporary, engine="pyarrow", index=False)
            except (ValueError, TypeError) as error:
                raise OutputError(path, f"Parquet cannot hold the table: {error}") from error


def image_paths(df: pd.DataFrame) -> list[Path]:
    """Give the absolute image paths of a manifest.

    Args:
        df: A manifest; relative paths start from ``attrs["root"]``, or from the working folder without it.
    Returns:
        One path a row, in the order of the rows.
    """
    root = Path(df.attrs.get("root", ".")).absolute()
    return [root / path for path in df["path"]]
