"""The metrics of labels that are age bands, as statistics of per-image columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens import label_distribution, metrics
from agelens.calibration import Calibration
from agelens.data.manifest import is_band, label_bounds
from agelens.errors import InputError
from agelens.evaluation.measures import INTERVAL_LEVELS, Measure
from agelens.label_distribution import AgeBins

__all__ = ["all_bands", "band_measures", "censored_pit_histogram", "labels_are_bands", "require_ages"]

FloatArray = NDArray[np.float64]


def labels_are_bands(labels: pd.DataFrame) -> bool:
    """Whether the labels to judge by are bands; an evaluation is of one kind.

    Raises:
        InputError: Some are bands and some are ages.
    """
    bands = int(is_band(labels).sum())
    if 0 < bands < len(labels):
        raise InputError(
            f"{bands} images have age bands and {len(labels) - bands} have ages: their errors mean different "
            "things, so evaluate them apart (a manifest of each)"
        )
    return bands > 0


def all_bands(manifest: pd.DataFrame) -> FloatArray:
    """(M, 2) the bands of a checked manifest, each once."""
    bands: FloatArray = np.unique(label_bounds(manifest[is_band(manifest)]), axis=0)
    return bands


def require_ages(labels: pd.DataFrame, purpose: str) -> None:
    """Refuse labels that are bands.

    Raises:
        InputError: Some label is a band; ``purpose`` begins the message.
    """
    bands = int(is_band(labels).sum())
    if bands:
        raise InputError(f"{purpose} needs ages, and {bands} of {len(labels)} images have age bands")


def band_measures(
    estimates: FloatArray,
    labels: pd.DataFrame,
    distribution: FloatArray | None,
    bins: AgeBins | None,
    calibration: Calibration | None,
    bands: FloatArray,
) -> list[Measure]:
    """Measure estimates and distributions against bands.

    Args:
        estimates: (N,) years.
        labels: N rows of a checked manifest, all with bands.
        distribution: (N, K); None if the system gives none.
        bins: K age bins.
        calibration: Gives conformal intervals; None: central mass.
        bands: (M, 2) all bands of the data set, of which the most probable one is taken.
    Returns:
        ``band accuracy`` (of the most probable band; without distributions, of the estimate), ``band
        accuracy(estimate)`` (its completed year), ``band distance`` and ``band bias`` (signed) in years; and
        with distributions ``NLL`` of the bands and, for each level, the width of the intervals and their
        coverage: ``coverage(90%)`` with the age inside its band as the distribution says (censored),
        ``coverage(90%, certain)`` and ``coverage(90%, possible)`` whatever it is.
    """
    low, high = label_bounds(labels).T
    hits = metrics.band_hits(estimates, low, high)
    signed = np.where(estimates < low, estimates - low, np.maximum(estimates - high, 0.0))
    measures = [
        Measure.percent("band accuracy(estimate)", hits),
        Measure.mean("band distance", np.abs(signed)),
        Measure.mean("band bias", signed),
    ]
    if distribution is None or bins is None:
        return [Measure.percent("band accuracy", hits), *measures]
    guessed = bands[metrics.most_probable_band(distribution, bins, bands)]
    right = (guessed == np.stack([low, high], axis=1)).all(axis=1)
    own = np.take_along_axis(
        metrics.band_masses(distribution, bins, bands), _own_band(low, high, bands)[:, None], axis=1
    )[:, 0]
    measures.insert(0, Measure.percent("band accuracy", right))
    measures.append(Measure.mean("NLL", -np.log(np.maximum(own, 1e-12))))
    below, upto = _pit_range(distribution, bins, low, high)
    for level in INTERVAL_LEVELS:
        nominal = level if calibration is None else calibration.nominal_level(level)
        first, last = label_distribution.interval(distribution, bins, nominal)
        inside = np.minimum(upto, (1 + nominal) / 2) - np.maximum(below, (1 - nominal) / 2)
        share = np.divide(np.maximum(inside, 0.0), upto - below, out=np.zeros_like(below), where=upto > below)
        measures += [
            Measure.mean(f"coverage({level:.0%})", share),
            Measure.mean(f"coverage({level:.0%}, certain)", (first <= low) & (high <= last)),
            Measure.mean(f"coverage({level:.0%}, possible)", (first <= high) & (low <= last)),
            Measure.mean(f"width({level:.0%})", last - first),
        ]
    return measures


def censored_pit_histogram(
    distribution: FloatArray, bins: AgeBins, labels: pd.DataFrame
) -> tuple[float, ...]:
    """Share of the images in each tenth of F(age), an age being anywhere in its band as F says.

    Args:
        distribution: (N, K).
        bins: K age bins.
        labels: N rows of a checked manifest.
    Returns:
        Ten shares, 0.1 each if the distributions are calibrated.
    """
    low, high = label_bounds(labels).T
    below, upto = _pit_range(distribution, bins, low, high)
    width = np.maximum(upto - below, 1e-12)
    shares = []
    for tenth in np.arange(10) / 10:
        inside = np.minimum(below + width, tenth + 0.1) - np.maximum(below, tenth)
        shares.append(float((np.maximum(inside, 0.0) / width).mean()))
    return tuple(shares)


def _own_band(low: FloatArray, high: FloatArray, bands: FloatArray) -> NDArray[np.int64]:
    """(N,) the position of each label among the bands."""
    same = (bands[None, :, 0] == low[:, None]) & (bands[None, :, 1] == high[:, None])
    return np.asarray(same.argmax(axis=1), dtype=np.int64)


def _pit_range(
    distribution: FloatArray, bins: AgeBins, low: FloatArray, high: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """F at both ends of each band, whose last completed year is inside."""
    first, last = bins.index(low) + bins.minimum, bins.index(high) + bins.minimum
    return (
        label_distribution.cumulative_at(distribution, bins, first - 0.5),
        label_distribution.cumulative_at(distribution, bins, last + 0.5),
    )
