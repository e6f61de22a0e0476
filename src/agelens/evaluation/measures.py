"""The metrics as statistics of per-image columns, computed for every group from shared bootstrap draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens import label_distribution, metrics
from agelens.calibration import Calibration
from agelens.evaluation.groups import BY_AGE, Grouping
from agelens.evaluation.results import SMALL_GROUP, GroupResult, ReliabilityBin
from agelens.metrics import BootstrapInterval

__all__ = [
    "INTERVAL_LEVELS",
    "IN_CROSSINGS",
    "Measure",
    "group_results",
    "interval_measures",
    "point_measures",
    "reliability_bins",
    "score_measures",
    "stated_measures",
    "threshold_measures",
]

FloatArray = NDArray[np.float64]

INTERVAL_LEVELS = (0.5, 0.8, 0.9, 0.95)
"""The levels whose coverage and width are reported."""


IN_CROSSINGS = ("MAE", "bias", "CA(5)", "coverage(90%)", "band accuracy", "band distance")
"""The metrics of crossed groupings and of ``five_years``."""


_DRAWN = 25_000_000  # means that are held at once


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric as a statistic of the means of per-image columns (N, M)."""

    name: str
    columns: NDArray[Any]
    statistic: Callable[[FloatArray], FloatArray]

    @classmethod
    def mean(cls, name: str, column: NDArray[Any]) -> Measure:
        """The mean of one column (N,)."""
        return cls(name, column[:, None], _mean)

    @classmethod
    def percent(cls, name: str, column: NDArray[Any]) -> Measure:
        """The share of one column (N,) of hits, per cent."""
        return cls(name, column[:, None], _percent)


def point_measures(estimates: FloatArray, labels: pd.DataFrame) -> list[Measure]:
    """Measure the estimates: errors, CA(n), AAR, and the ε-error where every image has its voters' deviation.

    Args:
        estimates: (N,) years.
        labels: N rows of a checked manifest.
    """
    ages = labels["age"].to_numpy(dtype=np.float64)
    errors = metrics.absolute_errors(estimates, ages)[:, None]
    measures = [
        Measure("MAE", errors, _mean),
        Measure("RMSE", errors**2, _root),
        Measure("bias", (estimates - ages)[:, None], _mean),
        *(Measure(f"CA({n})", errors < n, _percent) for n in (3, 5, 7)),
        Measure("AAR", metrics.aar_columns(estimates, ages), metrics.aar_from_means),
    ]
    if "age_std" in labels and labels["age_std"].notna().all():
        deviations = labels["age_std"].to_numpy(dtype=np.float64)
        measures.append(
            Measure("ε-error", metrics.epsilon_scores(estimates, ages, deviations)[:, None], _mean)
        )
    return measures


def stated_measures(said: pd.DataFrame, ages: FloatArray) -> list[Measure]:
    """Measure the intervals of the table's own columns ``low`` and ``high``, whatever their level."""
    if not {"low", "high"} <= set(said.columns) or said[["low", "high"]].isna().to_numpy().any():
        return []
    low, high = (said[column].to_numpy(dtype=np.float64) for column in ("low", "high"))
    return _covered("stated", ages, low, high)


def interval_measures(
    distribution: FloatArray,
    bins: label_distribution.AgeBins,
    ages: FloatArray,
    calibration: Calibration | None,
) -> list[Measure]:
    """Measure the central intervals of `INTERVAL_LEVELS`: coverage and width.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) true ages, years.
        calibration: Gives conformal intervals; None: central mass.
    """
    measures = []
    for level in INTERVAL_LEVELS:
        if calibration is None:
            low, high = label_distribution.interval(distribution, bins, level)
        else:
            low, high = calibration.interval(distribution, bins, level)
        measures += _covered(f"{level:.0%}", ages, low, high)
    return measures


def score_measures(
    distribution: FloatArray, bins: label_distribution.AgeBins, ages: FloatArray
) -> list[Measure]:
    """Score the whole distributions: CRPS and NLL."""
    return [
        Measure("CRPS", metrics.crps_scores(distribution, bins, ages)[:, None], _mean),
        Measure("NLL", metrics.log_scores(distribution, bins, ages)[:, None], _mean),
    ]


def threshold_measures(
    probability: FloatArray, reached: NDArray[np.bool_], threshold: float
) -> list[Measure]:
    """Measure P(age >= threshold): accuracy (P >= 0.5) and Brier score.

    Args:
        probability: (N,) 0 … 1.
        reached: (N,) whether the true age reaches the threshold.
        threshold: Years.
    """
    right = (probability >= 0.5) == reached
    return [
        Measure(f"accuracy({threshold:g}+)", right[:, None], _percent),
        Measure(f"Brier({threshold:g}+)", ((probability - reached) ** 2)[:, None], _mean),
    ]


def _covered(name: str, ages: FloatArray, low: FloatArray, high: FloatArray) -> list[Measure]:
    inside = (low <= ages) & (ages <= high)
    return [
        Measure(f"coverage({name})", inside[:, None], _mean),
        Measure(f"width({name})", (high - low)[:, None], _mean),
    ]


def reliability_bins(
    probability: FloatArray, reached: NDArray[np.bool_], persons: NDArray[np.int64]
) -> tuple[ReliabilityBin, ...]:
    """Compare probabilities with outcomes, in ten bins of the probability.

    Args:
        probability: (N,) 0 … 1.
        reached: (N,) whether the true age reaches the threshold.
        persons: (N,) number of the person on each image.
    """
    tenth = np.minimum((probability * 10).astype(np.int64), 9)
    rows = []
    for index in range(10):
        members = tenth == index
        count = int(members.sum())
        predicted, observed = math.nan, math.nan
        if count:
            predicted, observed = float(probability[members].mean()), float(reached[members].mean())
        individuals = len(np.unique(persons[members]))
        rows.append(ReliabilityBin(index / 10, (index + 1) / 10, count, individuals, predicted, observed))
    return tuple(rows)


def group_results(
    measures: list[Measure],
    groupings: list[Grouping],
    persons: NDArray[np.int64],
    replicates: int,
    level: float,
    seed: int,
) -> list[GroupResult]:
    """Compute all measures of all groups; the groupings share their draws as far as memory allows."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in 0 … 1, not {level}")
    columns = np.concatenate([measure.columns for measure in measures], axis=1, dtype=np.float64)
    places: dict[str, slice] = {}
    start = 0
    for measure in measures:
        places[measure.name] = slice(start, start := start + measure.columns.shape[1])
    results: list[GroupResult] = []
    waiting: list[tuple[Grouping, list[Measure]]] = []
    held = 0

    def draw() -> None:
        partitions = []
        for grouping, shown in waiting:
            wanted = [column for measure in shown for column in range(*places[measure.name].indices(start))]
            partitions.append(
                metrics.Partition(
                    grouping.codes,
                    len(grouping.groups),
                    None if len(wanted) == start else tuple(wanted),
                )
            )
        means = metrics.bootstrap_group_means(columns, partitions, replicates, seed, persons)
        for (grouping, shown), drawn in zip(waiting, means, strict=True):
            own = {measure.name: columns[:, places[measure.name]] for measure in shown}
            results.extend(_results_of(grouping, shown, own, drawn, persons, level))

    for grouping in groupings:
        shown = [measure for measure in measures if _applies(measure.name, grouping.name)]
        size = replicates * len(grouping.groups) * sum(measure.columns.shape[1] for measure in shown)
        if waiting and held + size > _DRAWN:
            draw()
            waiting.clear()
            held = 0
        waiting.append((grouping, shown))
        held += size
    draw()
    return results


def _applies(metric: str, grouping: str) -> bool:
    if ":" in grouping or grouping == "five_years":
        return metric in IN_CROSSINGS
    return metric != "AAR" or grouping not in BY_AGE


def _results_of(
    grouping: Grouping,
    measures: list[Measure],
    columns: dict[str, FloatArray],
    drawn: FloatArray,
    persons: NDArray[np.int64],
    level: float,
) -> Iterator[GroupResult]:
    """Yield the result of each group; ``drawn`` (R, G, M) holds the drawn means of the measures' columns."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    for position, name in enumerate(grouping.groups):
        members = grouping.members(position)
        count, individuals = int(members.sum()), len(np.unique(persons[members]))
        values: dict[str, BootstrapInterval] = {}
        if count:
            estimates, replicated, start = [], [], 0
            for measure in measures:
                part = slice(start, start := start + measure.columns.shape[1])
                estimates.append(float(measure.statistic(columns[measure.name][members].mean(axis=0))))
                replicated.append(measure.statistic(drawn[:, position, part]))
            known = np.isfinite(estimates)
            bounds = np.full((2, len(estimates)), math.nan)
            bounds[:, known] = np.nanquantile(np.stack(replicated, axis=1)[:, known], tails, axis=0)
            for measure, value, low, high in zip(measures, estimates, *bounds.tolist(), strict=True):
                values[measure.name] = BootstrapInterval(value, low, high)
        yield GroupResult(grouping.name, name, count, individuals, individuals < SMALL_GROUP, values)


def _mean(means: FloatArray) -> FloatArray:
    return means[..., 0]


def _percent(means: FloatArray) -> FloatArray:
    return 100.0 * means[..., 0]


def _root(means: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(means[..., 0]))
