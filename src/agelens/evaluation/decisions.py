"""Decisions at an age threshold: outcomes, curves and operating points of a rule.

Two rules decide. On the *estimate*: passed from the challenge age T' on, refused below T, undecided between.
On the *probability* P(age >= T): passed from the certainty c on, refused at 1 - c and below, undecided
between. An image without an estimate passes nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agelens.evaluation.presented import PresentedImages
from agelens.evaluation.rates import LEAST_PEOPLE, Rate, binomial_interval

__all__ = [
    "CERTAINTIES",
    "CURVE_MARGIN",
    "Curve",
    "Decisions",
    "OperatingPoint",
    "Rule",
    "challenge_ages",
    "curve_cuts",
    "decide",
    "find_operating_point",
    "trade_off_curve",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Rule = Literal["estimate", "probability"]


CURVE_MARGIN = 15.0
"""Years above the threshold that the curve of challenge ages runs to."""


CERTAINTIES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)
"""The certainties of the curve of P(age >= T)."""


@dataclass(frozen=True)
class Decisions:
    """Outcomes of a rule for the people of one group on one side of the threshold.

    Attributes:
        rule: ``estimate`` or ``probability``.
        grouping: ``all`` or a grouping.
        group: Name of the group.
        side: ``under age``, ``just under`` (the last year before T) or ``adult``.
        passed: Treated as adults.
        refused: Treated as under age.
        undecided: The rule cannot decide.
        failed: No estimate.
    """

    rule: Rule
    grouping: str
    group: str
    side: str
    passed: Rate
    refused: Rate
    undecided: Rate
    failed: Rate


@dataclass(frozen=True)
class Curve:
    """Under-age passed against adults refused, cut by cut; NaN where there are too few people.

    Attributes:
        rule: ``estimate`` (cuts are challenge ages) or ``probability`` (cuts are certainties).
        grouping: ``all`` or a grouping.
        group: Name of the group.
        cuts: (C,) rising.
        under_age_passed: (C,) share of the under-age at or above the cut.
        just_under_passed: (C,) share of those in the last year before T.
        adults_refused: (C,) share of the adults below the cut, or without an estimate.
    """

    rule: Rule
    grouping: str
    group: str
    cuts: tuple[float, ...]
    under_age_passed: tuple[float, ...]
    just_under_passed: tuple[float, ...]
    adults_refused: tuple[float, ...]


@dataclass(frozen=True)
class OperatingPoint:
    """The cut that reaches a wished-for false positive rate among those just under the threshold.

    Attributes:
        rule: ``estimate`` (the cut is a challenge age) or ``probability`` (a certainty).
        grouping: ``all`` or a grouping.
        group: Name of the group.
        wished: Wished-for false positive rate, 0 … 1.
        cut: The smallest cut that reaches it on these images; NaN if none does, or with too few people.
        false_positives: The rate there; None without a cut.
        adults_refused: The price, adults below the cut; None without a cut.
        assured: The smallest cut whose upper bound reaches it; NaN if none does: too few people.
    """

    rule: Rule
    grouping: str
    group: str
    wished: float
    cut: float
    false_positives: Rate | None
    adults_refused: Rate | None
    assured: float


def challenge_ages(threshold: float, estimates: FloatArray) -> FloatArray:
    """List the challenge ages to try: tenths of years from the threshold until nobody is left."""
    most = np.nanmax(estimates, initial=threshold)
    first, last = math.ceil(threshold * 10), math.floor(most * 10) + 1
    return np.concatenate([[threshold], np.arange(first, last + 1) / 10])


def curve_cuts(rule: Rule, threshold: float) -> FloatArray:
    """List the cuts of a rule's curve: certainties, or challenge ages in half years from the threshold."""
    if rule == "probability":
        return np.array(CERTAINTIES)
    return threshold + np.arange(0.0, CURVE_MARGIN + 0.5, 0.5)


def decide(
    rule: Rule,
    grouping: str,
    name: str,
    side: str,
    shown: PresentedImages,
    scores: FloatArray,
    cuts: tuple[float, float],
    members: BoolArray,
) -> Decisions:
    """Count a rule's decisions about the people of one group on one side of the threshold.

    Args:
        rule: Which.
        grouping: ``all`` or a grouping.
        name: Name of the group.
        side: Of the threshold.
        shown: N images.
        scores: (N,) estimate or probability that the rule reads; NaN without an estimate.
        cuts: Passed from the first on, refused below the second.
        members: (N,) the people's images.
    """
    upper, lower = cuts
    passed, refused, failed = scores >= upper, scores < lower, np.isnan(scores)
    undecided = ~(passed | refused | failed)
    outcomes = (shown.rate(hits, members) for hits in (passed, refused, undecided, failed))
    return Decisions(rule, grouping, name, side, *outcomes)


def trade_off_curve(
    rule: Rule,
    grouping: str,
    name: str,
    shown: PresentedImages,
    scores: FloatArray,
    cuts: FloatArray,
    members: BoolArray,
) -> Curve:
    """Trade under-age passed against adults refused, within one group.

    Args:
        rule: Which.
        grouping: ``all`` or a grouping.
        name: Name of the group.
        shown: N images.
        scores: (N,) estimate or probability that the rule reads; NaN without an estimate.
        cuts: (C,) rising.
        members: (N,) the group's images.
    """
    shares = {}
    for side, who in shown.sides().items():
        selected = members & who
        few = shown.individuals(selected) < LEAST_PEOPLE
        shares[side] = np.full(len(cuts), math.nan) if few else _share_from(scores[selected], cuts)
    return Curve(
        rule,
        grouping,
        name,
        tuple(cuts.tolist()),
        tuple(shares["under age"].tolist()),
        tuple(shares["just under"].tolist()),
        tuple((1 - shares["adult"]).tolist()),
    )


def find_operating_point(
    rule: Rule,
    grouping: str,
    name: str,
    shown: PresentedImages,
    scores: FloatArray,
    cuts: FloatArray,
    members: BoolArray,
    wished: float,
) -> OperatingPoint:
    """Search the smallest cut that reaches a wished-for false positive rate, within one group.

    Args:
        rule: Which.
        grouping: ``all`` or a grouping.
        name: Name of the group.
        shown: N images.
        scores: (N,) estimate or probability that the rule reads; NaN without an estimate.
        cuts: (C,) rising.
        members: (N,) the group's images.
        wished: False positive rate, 0 … 1.
    """
    young, adult = members & shown.just_under, members & shown.sides()["adult"]
    individuals = shown.individuals(young)
    cut = assured = math.nan
    if individuals >= LEAST_PEOPLE:
        shares = _share_from(scores[young], cuts)
        reached = np.flatnonzero(shares <= wished)
        cut = float(cuts[reached[0]]) if reached.size else math.nan
        for place in reached:
            if binomial_interval(shares[place] * individuals, individuals)[1] <= wished:
                assured = float(cuts[place])
                break
    if not math.isfinite(cut):
        return OperatingPoint(rule, grouping, name, wished, cut, None, None, assured)
    passed = scores >= cut
    return OperatingPoint(
        rule,
        grouping,
        name,
        wished,
        cut,
        shown.rate(passed, young),
        shown.rate(~passed, adult),
        assured,
    )


def _share_from(scores: FloatArray, cuts: FloatArray) -> FloatArray:
    """(C,) share of the scores at or above each cut; a missing score is below all."""
    ordered = np.sort(np.where(np.isnan(scores), -math.inf, scores))
    below = np.searchsorted(ordered, cuts, side="left")
    return np.asarray((len(ordered) - below) / len(ordered))  # 5 of 100 is 0.05, which 1 - 0.95 is not
