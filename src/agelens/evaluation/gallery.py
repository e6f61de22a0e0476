"""Examples of an evaluation: a few faces of every group, drawn at random or the best estimated ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agelens import metrics
from agelens.errors import InputError
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.groups import group

__all__ = ["Choice", "GalleryRow", "choose_faces"]

Choice = Literal["random", "best", "worst"]
"""Selection of the faces of a group: drawn at random, or those with the smallest or largest errors."""


@dataclass(frozen=True, eq=False)
class GalleryRow:
    """Selected faces of one group.

    Attributes:
        group: Its name.
        count: Number of its faces.
        selected: (n,) rows of the evaluation's labels.
    """

    group: str
    count: int
    selected: NDArray[np.int64]


def choose_faces(
    evaluation: Evaluation, by: str, each: int, choice: Choice = "random", seed: int = 0
) -> list[GalleryRow]:
    """Select faces of every group that has one.

    Args:
        evaluation: Its labels have the columns of the groups.
        by: A grouping, see :mod:`agelens.evaluation.groups`; ``all`` for one group of all images.
        each: Most faces of a group.
        choice: See :data:`Choice`; ``random`` draws evenly over the group.
        seed: Of the random draw.
    Returns:
        A row a group, in the grouping's order.
    Raises:
        InputError: There is no such grouping, the manifest has no value for it, or bands are the labels and
            ``choice`` goes by the error.
    """
    codes = np.zeros(evaluation.images, dtype=np.int64)
    groups: tuple[str, ...] = ("all",)
    if by != "all":
        grouping = group(by, evaluation.labels)
        if grouping is None:
            raise InputError(f"{evaluation.manifest}: no value of {by!r} in these rows")
        codes, groups = grouping.codes, grouping.groups
    if choice != "random" and evaluation.banded:
        raise InputError(f"the {choice} faces go by errors in years, and labels are bands here")
    order = np.random.default_rng(seed).permutation(evaluation.images)
    if choice != "random":
        errors = metrics.absolute_errors(evaluation.estimates, evaluation.ages)
        order = np.argsort(errors if choice == "best" else -errors, kind="stable")
    rows = []
    for position, name in enumerate(groups):
        members = order[codes[order] == position]
        if len(members):
            rows.append(GalleryRow(name, len(members), members[:each].astype(np.int64)))
    return rows
