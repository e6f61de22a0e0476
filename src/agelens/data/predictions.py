"""Predictions: one table and its distributions, from us or from any other system.

``predictions.csv`` needs the columns ``path`` and ``age``; ours add ``face, low, high, p_at_least, x1, y1,
x2, y2, confidence, error``. A row with an ``error`` says why there is no age. ``distributions.npz`` beside it
holds ``path`` (N,), ``distribution`` (N, K) float32 and ``age_bins`` (K,); where a path has several faces
they stand in the order of the table. Nothing in it is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.prediction_columns import BOX_COLUMNS, DISTRIBUTIONS_NAME
from agelens.errors import InputError, PredictionsError
from agelens.files import write_atomically
from agelens.label_distribution import AgeBins
from agelens.reading import open_table, reason
from agelens.stored_arrays import read_arrays

__all__ = [
    "Predictions",
    "check_predictions",
    "read_predictions",
    "write_predictions",
]

FloatArray = NDArray[np.float64]

_NUMBERS = ("low", "high", "p_at_least", *BOX_COLUMNS, "confidence")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Checked predictions of one system.

    Attributes:
        frame: N rows: ``path`` (text), ``age`` (years, NaN where it failed), ``error`` (text, empty if none),
            ``face`` (0 = the first of its path), and whatever else the table has.
        distribution: (N, K) float64, NaN where it failed; None if the system gives none.
        bins: K age bins of the distribution; None if there is none.
        source: The file they came from, or the system, for messages.
    """

    frame: pd.DataFrame
    distribution: FloatArray | None
    bins: AgeBins | None
    source: str

    def __post_init__(self) -> None:
        if (self.distribution is None) != (self.bins is None):
            raise ValueError("distribution and bins go together")
        if self.distribution is not None and self.bins is not None:
            expected = (len(self.frame), len(self.bins))
            if self.distribution.shape != expected:
                raise ValueError(f"distribution {self.distribution.shape} must be {expected}: rows by bins")


def check_predictions(frame: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Check a table of predictions and give it its types.

    Args:
        frame: Text or numbers; an empty text or NaN is no value.
        path: Where it comes from, for the messages.
    Returns:
        A copy with ``path`` and ``error`` as text, ``age`` and the other numbers as float, ``face`` as int.
    Raises:
        PredictionsError: A column is missing, there are no rows, a path is empty, a row has neither age nor
            error, a number is no number, ``low`` exceeds ``high``, or a face of a path occurs twice.
    """
    for column in ("path", "age"):
        if column not in frame.columns:
            raise PredictionsError(path, "the column is missing", column=column)
    if frame.columns.has_duplicates:
        twice = str(frame.columns[frame.columns.duplicated()][0])
        raise PredictionsError(path, "the column occurs twice", column=twice)
    if frame.empty:
        raise PredictionsError(path, "there are no rows")
    checked = frame.reset_index(drop=True).copy()
    checked["path"] = _texts(checked["path"])
    checked["error"] = _texts(checked["error"]) if "error" in checked else ""
    _refuse(path, checked, "path", checked["path"] == "", "the path is empty")
    for column in ("age", *_NUMBERS):
        if column in checked:
            checked[column] = _numbers(checked[column], path)
    nothing = checked["age"].isna() & (checked["error"] == "")
    _refuse(path, frame, "age", nothing.reset_index(drop=True), "no age and no error")
    if {"low", "high"} <= set(checked.columns):
        _refuse(path, checked, "low", checked["low"] > checked["high"], "low exceeds high")
    if "p_at_least" in checked:
        outside = (checked["p_at_least"] < 0) | (checked["p_at_least"] > 1)
        _refuse(path, checked, "p_at_least", outside, "a probability lies in 0 … 1")
    checked["face"] = _faces(checked, path)
    twice_seen = checked.duplicated(["path", "face"])
    _refuse(path, checked, "path", twice_seen, "this face of this path occurs twice")
    return checked


def read_predictions(path: str | Path, distributions: str | Path | None = None) -> Predictions:
    """Read predictions and, if there are any, their distributions.

    Args:
        path: ``predictions.csv``, UTF-8.
        distributions: The ``.npz`` file; by default ``distributions.npz`` beside the table if it exists.
    Returns:
        The checked predictions.
    Raises:
        PredictionsError: A file cannot be read or breaks the contract.
    """
    try:
        with open_table(path) as handle:
            frame = pd.read_csv(handle, dtype=str, keep_default_na=False)
    except OSError as error:
        raise PredictionsError(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:  # bytes that are no UTF-8, in the header
        raise PredictionsError(path, "cannot be read as CSV: it is no UTF-8 text") from error
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise PredictionsError(path, f"cannot be read as CSV: {error}") from error
    checked = check_predictions(frame, path)
    beside = Path(path).parent / DISTRIBUTIONS_NAME
    if distributions is None and not beside.exists():
        return Predictions(checked, None, None, str(path))
    distribution, bins = _read_distributions(beside if distributions is None else distributions, checked)
    return Predictions(checked, distribution, bins, str(path))


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write the table to ``path`` and the distributions beside it, each file whole or not at all.

    Args:
        predictions: What to write.
        path: ``predictions.csv``.
    Raises:
        OutputError: A file cannot be written.
    """
    target = Path(path)
    if predictions.distribution is not None and predictions.bins is not None:
        given = predictions.frame["age"].notna().to_numpy()
        with write_atomically(target.parent / DISTRIBUTIONS_NAME) as temporary:
            np.savez_compressed(
                temporary,
                path=predictions.frame["path"].to_numpy(dtype=np.str_)[given],
                distribution=predictions.distribution[given].astype(np.float32),
                age_bins=predictions.bins.ages.astype(np.int64),
            )
    with write_atomically(target) as temporary:
        predictions.frame.to_csv(temporary, index=False, errors="surrogateescape", lineterminator="\n")


def _texts(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").astype(str).str.strip()


def _numbers(column: pd.Series, path: str | Path) -> pd.Series:
    """Give a column as floats, NaN where it is empty."""
    empty = _texts(column) == ""
    numbers = pd.to_numeric(column.where(~empty), errors="coerce").astype(np.float64)
    wrong = ~empty & ~np.isfinite(numbers)
    _refuse(path, column.to_frame(), str(column.name), wrong, "not a finite number")
    return numbers


def _faces(frame: pd.DataFrame, path: str | Path) -> pd.Series:
    """Number the faces of each path; a table without the column has one face a path."""
    if "face" not in frame:
        return pd.Series(0, index=frame.index, dtype=np.int64)
    numbers = _numbers(frame["face"], path).fillna(0)
    _refuse(path, frame, "face", (numbers < 0) | (numbers % 1 != 0), "not a number of a face")
    return numbers.astype(np.int64)


def _refuse(path: str | Path, frame: pd.DataFrame, column: str, wrong: pd.Series, reason: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy(dtype=bool))
    if rows.size:
        row = int(rows[0])
        value = frame[column].iloc[row]
        value = value.item() if isinstance(value, np.generic) else value
        raise PredictionsError(path, reason, row=row + 1, column=column, value=value)


def _read_distributions(path: str | Path, frame: pd.DataFrame) -> tuple[FloatArray, AgeBins]:
    try:
        arrays = read_arrays(path, ("path", "distribution", "age_bins"))
    except (OSError, ValueError) as error:
        raise PredictionsError(path, f"cannot be read as distributions: {reason(error)}") from error
    paths, stored, ages = arrays["path"], arrays["distribution"], arrays["age_bins"]
    bins = _bins(ages, path)
    if paths.ndim != 1 or stored.shape != (len(paths), len(bins)):
        raise PredictionsError(path, f"distribution {stored.shape} must be ({len(paths)}, {len(bins)})")
    mass = stored.astype(np.float64)
    wrong = ~(np.isfinite(mass).all(axis=1) & (mass >= 0).all(axis=1) & (abs(mass.sum(axis=1) - 1) < 1e-3))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise PredictionsError(
            path,
            "a distribution is not >= 0 with sum 1",
            row=row + 1,
            column="distribution",
            value=paths[row],
        )
    given = frame.loc[frame["age"].notna()]
    asked = pd.MultiIndex.from_arrays([given["path"], given.groupby("path").cumcount()])
    names = pd.Series(paths.astype(np.str_))
    held = pd.MultiIndex.from_arrays([names, names.groupby(names).cumcount()])
    positions = held.get_indexer(asked)
    if (positions < 0).any():
        row = int(given.index[int(np.flatnonzero(positions < 0)[0])])
        raise PredictionsError(
            path,
            f"no distribution for row {row + 1} of the table",
            column="path",
            value=frame["path"].iat[row],
        )
    distribution = np.full((len(frame), len(bins)), np.nan)
    distribution[given.index.to_numpy()] = mass[positions]
    return distribution, bins


def _bins(ages: NDArray[np.generic], path: str | Path) -> AgeBins:
    if ages.ndim != 1 or ages.size < 2 or ages.dtype.kind not in "iuf" or not (np.diff(ages) == 1).all():
        raise PredictionsError(path, "age_bins must be whole ages that rise by one", value=ages.tolist()[:5])
    try:
        return AgeBins(int(ages[0]), int(ages[-1]))
    except InputError as error:
        raise PredictionsError(path, str(error), column="age_bins") from error
