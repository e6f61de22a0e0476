"""Metrics of age estimation, by group, with bootstrap intervals.

Each metric is one function of per-image arrays and pools all images: sums, never averages of averages.
Their names print as the papers print them: ``MAE``, ``CA(5)``. Ages are in years; accuracies are in per cent,
shares and probabilities in 0 … 1. Arrays that are empty, disagree in shape or hold NaN raise ``ValueError``.

[1] Li et al., Deep label refinement for age estimation (LRN), Pattern Recognition 2020.
[2] Bao et al., LAE: Long-tailed age estimation, CAIP 2021.
[3] Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation, JASA 2007.
[4] Efron and Tibshirani, An introduction to the bootstrap, 1993.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.label_distribution import AgeBins, cumulative, cumulative_at

__all__ = [
    "AAR",
    "AAR_GROUPS",
    "BootstrapInterval",
    "GroupValue",
    "PairedComparison",
    "Partition",
    "aar",
    "aar_columns",
    "aar_from_means",
    "absolute_errors",
    "bias",
    "bootstrap_group_means",
    "bootstrap_interval",
    "bootstrap_means",
    "by_group",
    "coverage",
    "crps",
    "crps_scores",
    "cumulative_accuracy",
    "epsilon_error",
    "epsilon_scores",
    "interval_width",
    "log_scores",
    "mae",
    "negative_log_likelihood",
    "paired_bootstrap",
    "pit",
    "rmse",
]

FloatArray = NDArray[np.float64]

AAR_GROUPS = ((1, 10), (11, 20), (21, 30), (31, 40), (41, 50), (51, 60), (61, 70), (71, 81))
"""The eight age groups of Table 1 of [2], first and last completed year."""

LEAST_PROBABILITY = 1e-12
"""Probabilities below this count as this in the log score, so that one face cannot make it infinite."""


def absolute_errors(predicted: ArrayLike, ages: ArrayLike) -> FloatArray:
    """Take the error of each image, without its sign.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        (N,) years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    estimates, years = _columns(predicted=predicted, ages=ages)
    return np.abs(estimates - years)


def mae(predicted: ArrayLike, ages: ArrayLike) -> float:
    """MAE, the mean absolute error: Eq. 21 of [1].

    >>> mae([20.0, 33.0], [21.0, 30.0])
    2.0

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return float(absolute_errors(predicted, ages).mean())


def rmse(predicted: ArrayLike, ages: ArrayLike) -> float:
    """RMSE, the root of the mean squared error.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return math.sqrt(float((absolute_errors(predicted, ages) ** 2).mean()))


def bias(predicted: ArrayLike, ages: ArrayLike) -> float:
    """Mean signed error; positive = estimated too old.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    estimates, years = _columns(predicted=predicted, ages=ages)
    return float((estimates - years).mean())


def cumulative_accuracy(predicted: ArrayLike, ages: ArrayLike, n: float) -> float:
    """CA(n), the share of images whose absolute error is strictly less than n: Eq. 23 of [1].

    >>> cumulative_accuracy([20.0, 33.0], [21.0, 30.0], 3)
    50.0

    Args:
        predicted: (N,) years.
        ages: (N,) years.
        n: Years.
    Returns:
        Per cent.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return 100.0 * float((absolute_errors(predicted, ages) < n).mean())


def epsilon_error(predicted: ArrayLike, mean: ArrayLike, std: ArrayLike) -> float:
    """ε-error of apparent ages: Eq. 22 of [1].

    Where all voters agreed (σ = 0) the equation is open; we take its limit: 0 if the estimate is their age
    exactly, else 1.

    Args:
        predicted: (N,) years.
        mean: (N,) mean of the voters, years.
        std: (N,) their standard deviation, >= 0, years.
    Returns:
        0 … 1, smaller is better.
    Raises:
        ValueError: Empty, shapes disagree, NaN, negative deviation.
    """
    return float(epsilon_scores(predicted, mean, std).mean())


def epsilon_scores(predicted: ArrayLike, mean: ArrayLike, std: ArrayLike) -> FloatArray:
    """Give the ε-error of each image.

    Args:
        predicted: (N,) years.
        mean: (N,) mean of the voters, years.
        std: (N,) their standard deviation, >= 0, years.
    Returns:
        (N,) 0 … 1.
    Raises:
        ValueError: Empty, shapes disagree, NaN, negative deviation.
    """
    estimates, centres, deviations = _columns(predicted=predicted, mean=mean, std=std)
    if (deviations < 0).any():
        raise ValueError("std must not be negative")
    distance = np.abs(estimates - centres)
    agreed = deviations == 0
    scaled = distance / np.where(agreed, 1.0, deviations)
    return np.where(agreed, distance > 0, -np.expm1(-(scaled**2) / 2))


@dataclass(frozen=True)
class AAR:
    """The age accuracy and regularity index and its parts.

    Attributes:
        aar: max(0, 7 - MAE) + max(0, 3 - σ); 10 is perfect.
        mae: MAE over all images, years.
        sigma: Deviation of the groups' MAE from it, years.
        group_mae: MAE of each of the eight groups, years; NaN where a group is empty.
        empty: Names of the empty groups, ``"71-81"``.
    """

    aar: float
    mae: float
    sigma: float
    group_mae: tuple[float, ...]
    empty: tuple[str, ...]


def aar(predicted: ArrayLike, ages: ArrayLike) -> AAR:
    """AAR, age accuracy and regularity: Eqs. 6 and 7 of [2].

    σ² is the mean over the groups of (MAE_j - MAE)²; the divisor is the number of groups that have images
    (8 in the paper). A group holds completed years; ages outside 1 … 81 count in the MAE and in no group.

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        The index and its parts.
    Raises:
        ValueError: Empty, shapes disagree, NaN, or all groups are empty.
    """
    means = aar_columns(predicted, ages).mean(axis=0)
    overall, sums, shares = means[0], means[1:9], means[9:]
    if not (shares > 0).any():
        raise ValueError("no age lies in 1 … 81: AAR has no group")
    group_mae = np.divide(sums, shares, out=np.full(8, np.nan), where=shares > 0)
    return AAR(
        aar=float(aar_from_means(means)),
        mae=float(overall),
        sigma=math.sqrt(float(np.nanmean((group_mae - overall) ** 2))),
        group_mae=tuple(float(value) for value in group_mae),
        empty=tuple(f"{a}-{b}" for (a, b), share in zip(AAR_GROUPS, shares, strict=True) if share == 0),
    )


def aar_columns(predicted: ArrayLike, ages: ArrayLike) -> FloatArray:
    """Give per-image columns whose means determine the AAR (:func:`aar_from_means`).

    Args:
        predicted: (N,) years.
        ages: (N,) years.
    Returns:
        (N, 17): absolute error; absolute error within each group, else 0; membership of each group.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    errors = absolute_errors(predicted, ages)
    completed = np.floor(np.asarray(ages, dtype=np.float64))
    member = np.stack([(completed >= a) & (completed <= b) for a, b in AAR_GROUPS], axis=1)
    return np.column_stack([errors, errors[:, None] * member, member])


def aar_from_means(means: FloatArray) -> FloatArray:
    """Compute AAR from means of :func:`aar_columns`; a statistic for :func:`bootstrap_interval`.

    Its percentile interval leans low: drawing again adds noise to each group's MAE, so σ grows, the more the
    smaller the groups.

    Args:
        means: (..., 17).
    Returns:
        (...) AAR; NaN where all groups are empty.
    """
    overall, sums, shares = means[..., :1], means[..., 1:9], means[..., 9:]
    filled = shares > 0
    group_mae = np.divide(sums, shares, out=np.zeros_like(sums), where=filled)
    squares = np.where(filled, (group_mae - overall) ** 2, 0.0).sum(axis=-1)
    groups = filled.sum(axis=-1)
    variance = np.divide(squares, groups, out=np.full_like(squares, np.nan), where=groups > 0)
    sigma = np.sqrt(variance)
    return np.asarray(np.maximum(0.0, 7.0 - overall[..., 0]) + np.maximum(0.0, 3.0 - sigma))


def coverage(ages: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of images whose true age lies in its interval, ends included.

    Args:
        ages: (N,) years.
        low: (N,) years.
        high: (N,) years.
    Returns:
        0 … 1.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    years, lower, upper = _columns(ages=ages, low=low, high=high)
    return float(((lower <= years) & (years <= upper)).mean())


def interval_width(low: ArrayLike, high: ArrayLike) -> float:
    """Mean width of the intervals.

    Args:
        low: (N,) years.
        high: (N,) years.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN, or an interval ends before it begins.
    """
    lower, upper = _columns(low=low, high=high)
    if (upper < lower).any():
        raise ValueError("an interval ends before it begins")
    return float((upper - lower).mean())


def crps(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> float:
    """CRPS, the continuous ranked probability score: Eq. 21 of [3], mean over the images.

    With all mass on one age it is the MAE, so it reads in years; smaller is better.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years; outside the bins too.
    Returns:
        Years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return float(crps_scores(distribution, bins, ages).mean())


def crps_scores(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Give the CRPS of each image: E|X - y| - E|X - X'| / 2, X and X' drawn from the distribution.

    For bins one year apart E|X - X'| / 2 is the sum of F (1 - F), F the cumulative distribution.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N,) years.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    mass, years = _distributions(distribution, bins, ages)
    below = cumulative(mass)[:, :-1]
    distance = (mass * np.abs(bins.ages - years[:, None])).sum(axis=1)
    return np.asarray(distance - (below * (1.0 - below)).sum(axis=1), dtype=np.float64)


def negative_log_likelihood(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> float:
    """NLL of the labelled bin, mean over the images; ages outside the bins count as the outermost bin.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        Nats, at most -log(1e-12) an image.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    return float(log_scores(distribution, bins, ages).mean())


def log_scores(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Give the negative log likelihood of each image's labelled bin.

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N,) nats.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    mass, years = _distributions(distribution, bins, ages)
    labelled = mass[np.arange(len(mass)), bins.index(years)]
    return np.asarray(-np.log(np.maximum(labelled, LEAST_PROBABILITY)), dtype=np.float64)


def pit(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> FloatArray:
    """Give the probability integral transform F(age) of each image: uniform on 0 … 1 if calibrated.

    F is the piecewise linear cumulative distribution that intervals are read from, so a whole age stands at
    the middle of its bin (the mid-PIT, not randomised).

    Args:
        distribution: (N, K).
        bins: K age bins.
        ages: (N,) years.
    Returns:
        (N,) 0 … 1.
    Raises:
        ValueError: Empty, shapes disagree, NaN.
    """
    mass, years = _distributions(distribution, bins, ages)
    return cumulative_at(mass, bins, years)


@dataclass(frozen=True)
class GroupValue:
    """A metric over one group: NaN and 0 where the group is empty."""

    value: float
    count: int


def by_group(
    metric: Callable[..., float],
    groups: Sequence[str] | NDArray[np.str_],
    *columns: ArrayLike,
    order: Sequence[str] | None = None,
) -> dict[str, GroupValue]:
    """Compute a metric over each group of images.

    >>> by_group(mae, ["a", "b", "a"], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    {'a': GroupValue(value=2.0, count=2), 'b': GroupValue(value=2.0, count=1)}

    Args:
        metric: Takes the columns of a group.
        groups: (N,) group of each image.
        *columns: (N, ...) each.
        order: Groups to report, in order, empty ones too; by default those that occur, sorted.
    Returns:
        Group to value and count.
    Raises:
        ValueError: Shapes disagree, or a group occurs that ``order`` lacks.
    """
    names = np.asarray(groups, dtype=np.str_)
    arrays = [np.asarray(column) for column in columns]
    for array in arrays:
        if array.shape[:1] != names.shape:
            raise ValueError(f"groups {names.shape} and column {array.shape} disagree")
    occurring = sorted(set(names.tolist()))
    reported = occurring if order is None else list(order)
    if unknown := set(occurring) - set(reported):
        raise ValueError(f"groups occur that order lacks: {sorted(unknown)}")
    result: dict[str, GroupValue] = {}
    for name in reported:
        members = names == name
        count = int(members.sum())
        value = float(metric(*(array[members] for array in arrays))) if count else math.nan
        result[name] = GroupValue(value, count)
    return result


@dataclass(frozen=True)
class BootstrapInterval:
    """A value over all images and its percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of images, no image in two of them.

    Attributes:
        codes: (N,) number of each image's group, 0 … count - 1; -1 = in none.
        count: Number of groups G, empty ones too.
        columns: The columns to average; None for all.
    """

    codes: NDArray[np.int64]
    count: int
    columns: tuple[int, ...] | None = None


def bootstrap_means(values: ArrayLike, replicates: int = 2000, seed: int = 0) -> FloatArray:
    """Draw the images again with replacement and average each column, many times.

    All columns of a replicate share one draw, so statistics of several columns keep their dependence. The
    draws are made in blocks: memory stays within tens of megabytes however many images there are.

    Args:
        values: (N, M), or (N,) as M = 1.
        replicates: R.
        seed: Of the draws.
    Returns:
        (R, M) means.
    Raises:
        ValueError: Empty, NaN, or no replicates.
    """
    columns = _bootstrap_columns(values, replicates)
    everyone = Partition(np.zeros(len(columns), dtype=np.int64), 1)
    return bootstrap_group_means(columns, [everyone], replicates, seed)[0][:, 0]


def bootstrap_group_means(
    values: ArrayLike,
    partitions: Sequence[Partition],
    replicates: int = 2000,
    seed: int = 0,
    people: NDArray[np.int64] | None = None,
) -> list[FloatArray]:
    """Draw again with replacement and average each column within each group, many times.

    One draw of the whole sample serves every group of every partition, so the sizes of the groups vary from
    draw to draw as they would from sample to sample. Drawn are images or, where several images show one
    person, people with all their images. A draw is a vector of weights; images that share their groups are
    summed by one matrix product for a block of draws.

    Args:
        values: (N, M), or (N,) as M = 1.
        partitions: P partitions of the images.
        replicates: R.
        seed: Of the draws.
        people: (N,) number of the person, 0 … S - 1; None = each image is its own.
    Returns:
        P arrays (R, G, M): means; NaN where a draw left a group empty.
    Raises:
        ValueError: Empty, NaN, no replicates, or shapes disagree.
    """
    columns = _bootstrap_columns(values, replicates)
    images = len(columns)
    persons = np.arange(images) if people is None else np.asarray(people)
    for name, codes in [("people", persons), *(("codes", partition.codes) for partition in partitions)]:
        if codes.shape != (images,):
            raise ValueError(f"{name} {codes.shape} must be ({images},): values {columns.shape}")
    for partition in partitions:
        if partition.codes.min() < -1 or partition.codes.max() >= partition.count:
            raise ValueError(f"codes must lie in -1 … {partition.count - 1}")
    counted = np.column_stack([columns, np.ones(images)])
    width = counted.shape[1]
    wanted = [
        [*(range(width - 1) if partition.columns is None else partition.columns), width - 1]
        for partition in partitions
    ]
    means = [
        np.empty((replicates, partition.count, len(chosen) - 1))
        for partition, chosen in zip(partitions, wanted, strict=True)
    ]
    plans = _cell_plans(partitions, persons, counted)
    most_cells = max((len(plan.starts) for plan in plans), default=1)
    drawn_from = int(persons.max()) + 1
    random = np.random.default_rng(seed)
    block = max(1, min(replicates, 4_000_000 // max(images, most_cells * width)))
    times = np.empty((block, drawn_from))
    for first in range(0, replicates, block):
        rows = min(block, replicates - first)
        for row in range(rows):
            times[row] = np.bincount(random.integers(0, drawn_from, drawn_from), minlength=drawn_from)
        for plan in plans:
            weights = times[:rows, plan.persons]
            sums = np.empty((len(plan.starts), rows, width))
            for cell, (start, end) in enumerate(zip(plan.starts, plan.ends, strict=True)):
                np.matmul(weights[:, start:end], plan.counted[start:end], out=sums[cell])
            for place, member in plan.members.items():
                part = sums if len(wanted[place]) == width else sums[:, :, wanted[place]]
                totals = (member @ part.reshape(len(sums), -1)).reshape(len(member), rows, -1)
                with np.errstate(invalid="ignore"):
                    shares = totals[..., :-1] / totals[..., -1:]
                means[place][first : first + rows] = shares.transpose(1, 0, 2)
    return means


@dataclass(frozen=True, eq=False)
class _CellPlan:
    """Images in the order of their cells: those of a cell share their groups in some of the partitions.

    ``members`` maps the place of each of these partitions to (G, C) the groups' cells as 0 and 1.
    """

    persons: NDArray[np.int64]
    counted: FloatArray
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    members: dict[int, FloatArray]


def _cell_plans(
    partitions: Sequence[Partition], persons: NDArray[np.int64], counted: FloatArray
) -> list[_CellPlan]:
    """Put partitions together as long as their common cells stay large, for tiny products are slow."""
    most = max(64, len(persons) // 256)
    together: list[tuple[NDArray[np.int64], int, list[int]]] = []
    for place, partition in enumerate(partitions):
        codes = partition.codes + 1
        for index, (cells, count, places) in enumerate(together):
            _, merged = np.unique(cells * (partition.count + 1) + codes, return_inverse=True)
            number = int(merged.max()) + 1
            if number <= max(most, count):
                together[index] = (merged, number, [*places, place])
                break
        else:
            _, cells = np.unique(codes, return_inverse=True)
            together.append((cells, int(cells.max()) + 1, [place]))
    plans = []
    for cells, count, places in together:
        order = np.argsort(cells, kind="stable")
        sizes = np.bincount(cells, minlength=count)
        starts = np.cumsum(sizes) - sizes
        members = {
            place: (partitions[place].codes[order][starts] == np.arange(partitions[place].count)[:, None])
            for place in places
        }
        plans.append(
            _CellPlan(
                persons[order],
                counted[order],
                starts,
                starts + sizes,
                {place: member.astype(np.float64) for place, member in members.items()},
            )
        )
    return plans


def _bootstrap_columns(values: ArrayLike, replicates: int) -> FloatArray:
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or not columns.size:
        raise ValueError(f"values must be (N, M) with N > 0, not {columns.shape}")
    if np.isnan(columns).any():
        raise ValueError("values hold NaN")
    if replicates < 1:
        raise ValueError(f"replicates must be positive, not {replicates}")
    return columns


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Compute a statistic of column means and its percentile bootstrap interval, chapter 13 of [4].

    Args:
        values: (N,) or (N, M), a row an image.
        statistic: Maps means (..., M) to (...); by default the mean of the one column.
        replicates: Number of draws.
        level: Coverage of the interval, in 0 … 1.
        seed: Of the draws.
    Returns:
        The value over all images, low and high.
    Raises:
        ValueError: Empty, NaN, no replicates, a level outside 0 … 1, or several columns and no statistic.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in 0 … 1, not {level}")
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if statistic is None:
        if columns.ndim != 2 or columns.shape[1] != 1:
            raise ValueError(f"values {columns.shape} of several columns need a statistic")
        statistic = _only_column
    replicated = statistic(bootstrap_means(columns, replicates, seed))
    low, high = np.nanquantile(replicated, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(float(statistic(columns.mean(axis=0))), float(low), float(high))


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same images.

    Attributes:
        difference: Mean error of a minus mean error of b; negative = a is better.
        low: Lower end of its bootstrap interval.
        high: Upper end.
        p: Two-sided p-value of no difference.
    """

    difference: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    errors_a: ArrayLike,
    errors_b: ArrayLike,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two systems image by image: each draw takes the same images of both.

    The p-value is twice the smaller share of draws on the other side of zero, counting the sample itself, so
    it is never below 2 / (replicates + 1).

    Args:
        errors_a: (N,) absolute error (or another score) of system a on each image.
        errors_b: (N,) of system b on the same images in the same order.
        replicates: Number of draws.
        level: Coverage of the interval, in 0 … 1.
        seed: Of the draws.
    Returns:
        Difference, interval and p-value.
    Raises:
        ValueError: Empty, shapes disagree, NaN, no replicates, or a level outside 0 … 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in 0 … 1, not {level}")
    a, b = _columns(errors_a=errors_a, errors_b=errors_b)
    drawn = bootstrap_means(a - b, replicates, seed)[:, 0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (replicates + 1))
    return PairedComparison(float((a - b).mean()), float(low), float(high), p)


def _only_column(means: FloatArray) -> FloatArray:
    return means[..., 0]


def _columns(**named: ArrayLike) -> list[FloatArray]:
    arrays = [np.asarray(values, dtype=np.float64) for values in named.values()]
    shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(named, arrays, strict=True))
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"shapes must be one and the same (N,): {shapes}")
    if not arrays[0].size:
        raise ValueError(f"there are no images: {shapes}")
    for name, array in zip(named, arrays, strict=True):
        if np.isnan(array).any():
            raise ValueError(f"{name} holds NaN")
    return arrays


def _distributions(distribution: ArrayLike, bins: AgeBins, ages: ArrayLike) -> tuple[FloatArray, FloatArray]:
    (years,) = _columns(ages=ages)
    mass = np.asarray(distribution, dtype=np.float64)
    if mass.shape != (years.size, len(bins)):
        raise ValueError(f"distribution {mass.shape} must be {(years.size, len(bins))}: ages by bins")
    if np.isnan(mass).any():
        raise ValueError("distribution holds NaN")
    return mass, years
