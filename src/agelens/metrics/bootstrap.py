"""Bootstrap intervals of metrics, over images or people, and the paired comparison of two systems.

[1] Efron and Tibshirani, An introduction to the bootstrap, 1993.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.metrics.checks import FloatArray, checked_columns

__all__ = [
    "BootstrapInterval",
    "PairedComparison",
    "Partition",
    "bootstrap_group_means",
    "bootstrap_interval",
    "bootstrap_means",
    "paired_bootstrap",
]


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
        np.empty((replicates, partition.count, len(kept) - 1))
        for partition, kept in zip(partitions, wanted, strict=True)
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
    """Compute a statistic of column means and its percentile bootstrap interval, chapter 13 of [1].

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
    a, b = checked_columns(errors_a=errors_a, errors_b=errors_b)
    drawn = bootstrap_means(a - b, replicates, seed)[:, 0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (replicates + 1))
    return PairedComparison(float((a - b).mean()), float(low), float(high), p)


def _only_column(means: FloatArray) -> FloatArray:
    return means[..., 0]
