"""Estimates of a distribution: its peak, its median, its mean, in the place of a system's own age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agelens.data.predictions import Predictions
from agelens.errors import InputError, PredictionsError
from agelens.label_distribution import AgeBins, expected_age, quantile

__all__ = ["ESTIMATES", "with_estimate"]

FloatArray = NDArray[np.float64]


def _argmax(distribution: FloatArray, bins: AgeBins) -> FloatArray:
    return np.asarray(bins.ages[distribution.argmax(axis=1)], dtype=np.float64)


def _median(distribution: FloatArray, bins: AgeBins) -> FloatArray:
    return quantile(distribution, bins, 0.5)


ESTIMATES: dict[str, Callable[[FloatArray, AgeBins], FloatArray]] = {
    "argmax": _argmax,
    "median": _median,
    "mean": expected_age,
}
"""Name to (N, K) distributions and their bins to (N,) years. A system's temperature does not move the peak;
it does move the mean."""


def with_estimate(predictions: Predictions, estimate: str) -> Predictions:
    """Replace the ages of predictions by an estimate of their distributions.

    Args:
        predictions: Of a system.
        estimate: ``age`` (the predictions as they are) or one of `ESTIMATES`.
    Returns:
        The predictions with another column ``age``; a row without an age stays without one.
    Raises:
        InputError: There is no such estimate.
        PredictionsError: The system gives no distributions.
    """
    if estimate == "age":
        return predictions
    if estimate not in ESTIMATES:
        raise InputError(f"an estimate is age, {', '.join(ESTIMATES)} (value: {estimate!r})")
    if predictions.distribution is None or predictions.bins is None:
        raise PredictionsError(predictions.source, f"has no distributions to take the {estimate} of")
    frame = predictions.frame.copy()
    given = frame["age"].notna().to_numpy()
    ages = frame["age"].to_numpy(dtype=np.float64, copy=True)
    ages[given] = ESTIMATES[estimate](predictions.distribution[given], predictions.bins)
    frame["age"] = ages
    return replace(predictions, frame=frame)
