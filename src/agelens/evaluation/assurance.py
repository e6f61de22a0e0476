"""Age assurance: people passed, refused or left undecided at an age threshold, overall and by group.

The forms are those of the public evaluations (NIST FATE AEV, ISO/IEC 27566): MAE as a mean over cells,
Challenge-25, child safety 13-16, failure to estimate. A person is *under age* below the threshold T and
*adult* from T on, by the true age. An image without an estimate passes nobody: it is an outcome of its own
and counts in every rate. The rules that decide are those of :mod:`agelens.evaluation.decisions`; rates and
their bounds count people (:mod:`agelens.evaluation.rates`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.errors import InputError
from agelens.evaluation.cells import (
    CellError,
    CellMean,
    ChildSafety,
    cell_errors,
    child_safety,
)
from agelens.evaluation.decisions import (
    CERTAINTIES,
    Curve,
    Decisions,
    OperatingPoint,
    Rule,
    challenge_ages,
    curve_cuts,
    decide,
    find_operating_point,
    trade_off_curve,
)
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.presented import PresentedImages
from agelens.evaluation.rates import Rate
from agelens.evaluation.results import json_value

__all__ = ["CHALLENGE_MARGIN", "Assurance", "GroupRate", "assure", "check_settings"]

FloatArray = NDArray[np.float64]

CHALLENGE_MARGIN = 7.0
"""Years between the threshold and the challenge age unless it is given: 25 for 18."""


@dataclass(frozen=True)
class GroupRate:
    """A rate within one group."""

    grouping: str
    group: str
    rate: Rate


@dataclass(frozen=True)
class Assurance:
    """Everything about one threshold.

    Attributes:
        threshold: T, years.
        challenge: T', years.
        certainty: c of the rule on P(age >= T).
        challenge_rates: Share of those just under T who are estimated T' or older, by group.
        decisions: Outcomes by rule, group and side.
        curves: By rule and group.
        points: By rule, group and wished-for rate.
        failures: Failure to estimate by group.
        cells: Errors by sex and single year of age, 0 … 30.
        cell_means: Their means.
        child_safety: By group.
        missing: Images of the manifest without any prediction: in no rate.
        absent: Groupings that the manifest has no values of.
    """

    threshold: float
    challenge: float
    certainty: float
    challenge_rates: tuple[GroupRate, ...]
    decisions: tuple[Decisions, ...]
    curves: tuple[Curve, ...]
    points: tuple[OperatingPoint, ...]
    failures: tuple[GroupRate, ...]
    cells: tuple[CellError, ...]
    cell_means: tuple[CellMean, ...]
    child_safety: tuple[ChildSafety, ...]
    missing: int
    absent: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON values; what is not a number (too few people) becomes None."""
        return {key: json_value(value) for key, value in asdict(self).items()}


def check_settings(
    threshold: float, challenge: float | None, wished: Sequence[float], certainty: float
) -> float:
    """Check the settings of :func:`assure` and give the challenge age.

    Raises:
        InputError: One cannot be used.
    """
    upper = threshold + CHALLENGE_MARGIN if challenge is None else challenge
    if not (math.isfinite(threshold) and threshold > 0):
        raise InputError(f"a threshold is a positive number of years, not {threshold}")
    if not (math.isfinite(upper) and upper >= threshold):
        raise InputError(f"a challenge age is at least the threshold, {threshold:g} (value: {upper:g})")
    for share in wished:
        if not 0 < share < 1:
            raise InputError(f"a false positive rate lies between 0 and 1 (value: {share:g})")
    if not 0.5 < certainty < 1:
        raise InputError(f"a certainty lies between 0.5 and 1 (value: {certainty:g})")
    return upper


def assure(
    evaluation: Evaluation,
    by: Sequence[str] = ("gender", "ethnicity"),
    *,
    threshold: float = 18,
    challenge: float | None = None,
    wished: Sequence[float] = (0.01, 0.05),
    certainty: float = 0.95,
) -> Assurance:
    """Compute the age assurance page of an evaluation.

    Args:
        evaluation: From :func:`~agelens.evaluation.evaluate.evaluate`; its bootstrap settings are used.
        by: Groupings; those by the true age are left out, for the sides of a threshold are ages already.
        threshold: T, years.
        challenge: T', years; by default T + `CHALLENGE_MARGIN`.
        wished: Wished-for false positive rates, 0 … 1.
        certainty: c of the rule on P(age >= T), above 0.5.
    Returns:
        The page's figures. Without distributions there is no rule on probability.
    Raises:
        InputError: An argument cannot be used, or a grouping is no column.
    """
    upper = check_settings(threshold, challenge, wished, certainty)
    shown = PresentedImages.of(evaluation, threshold)
    groupings, absent = shown.groupings(by)
    labelled = [
        (grouping.name, name, grouping.members(position))
        for grouping in groupings
        for position, name in enumerate(grouping.groups)
    ]
    rules: list[tuple[Rule, FloatArray, float, float, FloatArray]] = [
        ("estimate", shown.estimates, upper, threshold, challenge_ages(threshold, shown.estimates))
    ]
    if shown.probability is not None:
        below = math.nextafter(round(1 - certainty, 12), 1)  # refused at 1 - c itself: 0.1 for 0.9
        rules.append(("probability", shown.probability, certainty, below, np.array(CERTAINTIES)))
    cells, cell_means = cell_errors(shown, evaluation)
    return Assurance(
        threshold=threshold,
        challenge=upper,
        certainty=certainty,
        challenge_rates=tuple(
            GroupRate(grouping, name, shown.rate(shown.estimates >= upper, members & shown.just_under))
            for grouping, name, members in labelled
        ),
        decisions=tuple(
            decide(rule, grouping, name, side, shown, scores, (upper_cut, lower_cut), members & who)
            for rule, scores, upper_cut, lower_cut, _ in rules
            for grouping, name, members in labelled
            for side, who in shown.sides().items()
        ),
        curves=tuple(
            trade_off_curve(rule, grouping, name, shown, scores, curve_cuts(rule, threshold), members)
            for rule, scores, *_ in rules
            for grouping, name, members in labelled
        ),
        points=tuple(
            find_operating_point(rule, grouping, name, shown, scores, cuts, members, share)
            for share in wished
            for rule, scores, _, _, cuts in rules
            for grouping, name, members in labelled
        ),
        failures=tuple(
            GroupRate(grouping, name, shown.rate(np.isnan(shown.estimates), members))
            for grouping, name, members in labelled
        ),
        cells=tuple(cells),
        cell_means=tuple(cell_means),
        child_safety=tuple(child_safety(shown, groupings, evaluation)),
        missing=len(evaluation.match.missing),
        absent=tuple(absent),
    )
