"""Names of the files and columns of predictions: the format that :mod:`agelens.data.predictions` checks."""

from __future__ import annotations

__all__ = ["BOX_COLUMNS", "DISTRIBUTIONS_NAME", "PREDICTIONS_NAME", "PREDICTION_COLUMNS"]

PREDICTIONS_NAME = "predictions.csv"
"""The table of predictions."""

DISTRIBUTIONS_NAME = "distributions.npz"
"""The file of distributions beside a table of predictions."""

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
"""The face's box, pixels of the image."""

PREDICTION_COLUMNS = (
    *("path", "face", "age", "low", "high", "p_at_least"),
    *BOX_COLUMNS,
    *("confidence", "error"),
)
"""The columns of our own tables; ``path`` and ``age`` suffice for another system's."""
