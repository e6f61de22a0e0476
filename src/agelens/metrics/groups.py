"""Metrics by group of images, and the index over eight age groups (AAR).

[1] Bao et al., LAE: Long-tailed age estimation, CAIP 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agelens.metrics.ages import absolute_errors
from agelens.metrics.checks import FloatArray

__all__ = ["AAR", "AAR_GROUPS", "GroupValue", "aar", "aar_columns", "aar_from_means", "by_group"]

AAR_GROUPS = ((1, 10), (11, 20), (21, 30), (31, 40), (41, 50), (51, 60), (61, 70), (71, 81))
"""The eight age groups of Table 1 of [1], first and last completed year."""


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

    >>> from agelens.metrics.ages import mae
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
    """AAR, age accuracy and regularity: Eqs. 6 and 7 of [1].

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
