"""Errors by sex and single year of age, their means, and child safety 13-16.

The forms are those of the public evaluations (NIST FATE AEV, ISO/IEC 27566).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens import metrics
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.groups import Grouping
from agelens.evaluation.presented import PresentedImages
from agelens.evaluation.rates import LEAST_PEOPLE, Rate
from agelens.metrics import BootstrapInterval

__all__ = ["CELL_AGES", "CellError", "CellMean", "ChildSafety", "cell_errors", "child_safety"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

CELL_AGES = {"18-30": range(18, 31), "0-18": range(19)}
"""The single years of age whose cells, by sex, are averaged."""


_SEXES = ("female", "male")


@dataclass(frozen=True)
class CellError:
    """The error of one cell: a sex and a single year of age.

    Attributes:
        age: Completed years.
        sex: ``female``, ``male`` or ``all``.
        images: Number of images with an estimate.
        people: Number of people on them.
        mae: MAE with its bootstrap interval; None without images.
        bias: Mean signed error, positive = too old; None without images.
    """

    age: int
    sex: str
    images: int
    people: int
    mae: BootstrapInterval | None
    bias: BootstrapInterval | None


@dataclass(frozen=True)
class CellMean:
    """MAE as the mean over the cells of a range of ages, so that no cell dominates.

    Attributes:
        ages: ``18-30``.
        by_sex: Whether the cells are sex by year; by year alone where no sex is known.
        mae: Mean over the cells that have images, and its bootstrap interval; None if all are empty.
        cells: Number of cells.
        empty: Number of cells without an image; they are left out.
        small: Number of cells with some, but fewer than `LEAST_PEOPLE` people.
        images: Number of images in the cells.
    """

    ages: str
    by_sex: bool
    mae: BootstrapInterval | None
    cells: int
    empty: int
    small: int
    images: int


@dataclass(frozen=True)
class ChildSafety:
    """The child safety block of one group; ages and estimates in completed years.

    Attributes:
        grouping: ``all`` or a grouping.
        group: Name of the group.
        mae: MAE of the 13-16-year-olds; None without an estimate.
        in_range: 13-16-year-olds rated 13-16.
        rated_under_8: Of them, far too young.
        rated_8_12: Too young.
        rated_17_22: Too old.
        rated_over_22: Far too old.
        younger_in_range: 8-12-year-olds rated 13-16.
        older_in_range: 17-22-year-olds rated 13-16.
    """

    grouping: str
    group: str
    mae: BootstrapInterval | None
    in_range: Rate
    rated_under_8: Rate
    rated_8_12: Rate
    rated_17_22: Rate
    rated_over_22: Rate
    younger_in_range: Rate
    older_in_range: Rate


def cell_errors(shown: PresentedImages, evaluation: Evaluation) -> tuple[list[CellError], list[CellMean]]:
    """Compute the errors of each single year 0 … 30, of all and of each known sex, and their means."""
    years = max(ages[-1] for ages in CELL_AGES.values()) + 1
    selected = ~np.isnan(shown.estimates) & (shown.ages < years)
    completed, sexes = np.floor(shown.ages[selected]).astype(np.int64), _sexes(shown.labels)[selected]
    persons = shown.persons[selected]
    signed = shown.estimates[selected] - shown.ages[selected]
    columns = np.column_stack([np.abs(signed), signed])
    codes = {"all": completed}
    for position, sex in enumerate(_SEXES):
        codes[sex] = np.where(sexes == position, completed, -1)
    drawn = _drawn(columns, [(code, years) for code in codes.values()], persons, evaluation)
    errors: list[CellError] = []
    draws: dict[tuple[str, int], FloatArray] = {}
    for (sex, code), means in zip(codes.items(), drawn, strict=True):
        for age in range(years):
            members = code == age
            mae, bias = (
                _interval(columns[members, column], means[:, age, column], evaluation.level)
                for column in range(2)
            )
            individuals = len(np.unique(persons[members]))
            errors.append(CellError(age, sex, int(members.sum()), individuals, mae, bias))
            draws[sex, age] = means[:, age, 0]
    return errors, [_cell_mean(name, errors, draws, evaluation.level) for name in CELL_AGES]


def _cell_mean(
    name: str, errors: Sequence[CellError], draws: Mapping[tuple[str, int], FloatArray], level: float
) -> CellMean:
    by_sex = any(cell.images for cell in errors if cell.sex != "all")
    cells = [cell for cell in errors if cell.age in CELL_AGES[name] and (cell.sex != "all") == by_sex]
    filled = [cell for cell in cells if cell.images]
    values = [cell.mae.value for cell in filled if cell.mae is not None]
    mae = None
    if filled:
        together = np.stack([draws[cell.sex, cell.age] for cell in filled])
        with warnings.catch_warnings():  # a draw may leave all of few cells empty
            warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
            mae = _bounded(float(np.mean(values)), np.nanmean(together, axis=0), level)
    return CellMean(
        ages=name,
        by_sex=by_sex,
        mae=mae,
        cells=len(cells),
        empty=len(cells) - len(filled),
        small=sum(cell.people < LEAST_PEOPLE for cell in filled),
        images=sum(cell.images for cell in filled),
    )


def child_safety(
    shown: PresentedImages, groupings: Sequence[Grouping], evaluation: Evaluation
) -> Iterator[ChildSafety]:
    """Yield the child safety block of each group.

    Args:
        shown: The images.
        groupings: Whose groups.
        evaluation: Its bootstrap settings are used.
    """
    ages, rated = np.floor(shown.ages), np.floor(shown.estimates)

    def within(years: FloatArray, first: float, last: float) -> BoolArray:
        return np.asarray((years >= first) & (years <= last))

    children = within(ages, 13, 16)
    answered = children & ~np.isnan(rated)
    errors = np.abs(shown.estimates - shown.ages)
    partitions = [(grouping.codes[answered], len(grouping.groups)) for grouping in groupings]
    drawn = _drawn(errors[answered][:, None], partitions, shown.persons[answered], evaluation)
    for grouping, means in zip(groupings, drawn, strict=True):
        for position, name in enumerate(grouping.groups):
            members = grouping.members(position)
            own = members & children
            yield ChildSafety(
                grouping.name,
                name,
                _interval(errors[own & answered], means[:, position, 0], evaluation.level),
                in_range=shown.rate(within(rated, 13, 16), own),
                rated_under_8=shown.rate(rated < 8, own),
                rated_8_12=shown.rate(within(rated, 8, 12), own),
                rated_17_22=shown.rate(within(rated, 17, 22), own),
                rated_over_22=shown.rate(rated > 22, own),
                younger_in_range=shown.rate(within(rated, 13, 16), members & within(ages, 8, 12)),
                older_in_range=shown.rate(within(rated, 13, 16), members & within(ages, 17, 22)),
            )


def _sexes(labels: pd.DataFrame) -> IntArray:
    """(N,) place in `_SEXES`; -1 = not known."""
    if "gender" not in labels:
        return np.full(len(labels), -1, dtype=np.int64)
    return np.asarray(pd.Index(_SEXES).get_indexer(pd.Index(labels["gender"])), dtype=np.int64)


def _drawn(
    columns: FloatArray,
    coded: Sequence[tuple[IntArray, int]],
    persons: IntArray,
    evaluation: Evaluation,
) -> list[FloatArray]:
    """Bootstrap means (R, G, M) by each set of codes and number of groups G; no replicates without images."""
    if not len(columns):
        return [np.empty((0, count, columns.shape[1])) for _, count in coded]
    partitions = [metrics.Partition(codes, count) for codes, count in coded]
    numbers = np.unique(persons, return_inverse=True)[1]
    return metrics.bootstrap_group_means(columns, partitions, evaluation.replicates, evaluation.seed, numbers)


def _interval(values: FloatArray, drawn: FloatArray, level: float) -> BootstrapInterval | None:
    """Mean and bootstrap interval; None without values."""
    return _bounded(float(values.mean()), drawn, level) if values.size else None


def _bounded(value: float, drawn: FloatArray, level: float) -> BootstrapInterval:
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return BootstrapInterval(value, low, high)
