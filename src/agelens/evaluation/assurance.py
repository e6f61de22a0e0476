"""Age assurance: who is passed, refused or left undecided at an age threshold, overall and by group.

The forms are those of the public evaluations (NIST FATE AEV, ISO/IEC 27566): MAE as a mean over cells,
Challenge-25, child safety 13-16, failure to estimate. A person is *under age* below the threshold T and
*adult* from T on, by the true age. An image without an estimate passes nobody: it is an outcome of its own
and counts in every rate.

Two rules decide. On the *estimate*: passed from the challenge age T' on, refused below T, undecided between.
On the *probability* P(age >= T): passed from the certainty c on, refused at 1 - c and below, undecided
between.

No rate is given for fewer than `LEAST_PEOPLE` people. Bounds of rates are exact (Clopper-Pearson [1]) and
count people, not images: several images of one person tell less than as many people.

[1] Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 1934.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from agelens import label_distribution, metrics
from agelens.errors import InputError
from agelens.evaluation.evaluate import SMALL_GROUP, Evaluation, json_value
from agelens.evaluation.groups import BY_AGE, Grouping, group, people
from agelens.metrics import BootstrapInterval

__all__ = [
    "CHALLENGE_MARGIN",
    "LEAST_PEOPLE",
    "Assurance",
    "CellError",
    "CellMean",
    "ChildSafety",
    "Curve",
    "Decisions",
    "GroupRate",
    "OperatingPoint",
    "Rate",
    "assure",
    "binomial_interval",
    "check_settings",
    "rate",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Rule = Literal["estimate", "probability"]

LEAST_PEOPLE = SMALL_GROUP
"""No rate is given for fewer people than this."""

CHALLENGE_MARGIN = 7.0
"""Years between the threshold and the challenge age unless it is given: 25 for 18."""

CURVE_MARGIN = 15.0
"""Years above the threshold that the curve of challenge ages runs to."""

CERTAINTIES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)
"""The certainties of the curve of P(age >= T)."""

CELL_AGES = {"18-30": range(18, 31), "0-18": range(19)}
"""The single years of age whose cells, by sex, are averaged."""

_SEXES = ("female", "male")


@dataclass(frozen=True)
class Rate:
    """A share of people to whom something happened.

    Attributes:
        images: Number of images.
        people: Number of people on them.
        value: 0 … 1; NaN for fewer than `LEAST_PEOPLE` people.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
    """

    images: int
    people: int
    value: float
    low: float
    high: float

    @property
    def too_few(self) -> bool:
        """Whether there are too few people for a rate."""
        return self.people < LEAST_PEOPLE


def binomial_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Give the exact two-sided interval of a binomial rate, Clopper and Pearson [1].

    Args:
        successes: 0 … trials; need not be whole (a share of people with several images each).
        trials: > 0.
        level: Coverage, 0 … 1.
    Returns:
        Low and high, 0 … 1.
    Raises:
        ValueError: An argument cannot be used.
    """
    if not (trials > 0 and 0 <= successes <= trials and 0 < level < 1):
        raise ValueError(f"no rate of {successes} in {trials} at level {level}")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return low, high


def rate(hits: ArrayLike, persons: ArrayLike) -> Rate:
    """Count to how many people something happened.

    Args:
        hits: (N,) whether it happened, image by image; N may be 0.
        persons: (N,) number of the person on each image.
    Returns:
        The rate; its value is a share of the images, its bounds count the people.
    Raises:
        ValueError: Shapes disagree.
    """
    happened, who = np.asarray(hits, dtype=bool), np.asarray(persons)
    if happened.shape != who.shape or happened.ndim != 1:
        raise ValueError(f"hits {happened.shape} and persons {who.shape} must be one (N,)")
    return _rate(happened, len(np.unique(who)))


def _rate(happened: BoolArray, individuals: int) -> Rate:
    if individuals < LEAST_PEOPLE:
        return Rate(len(happened), individuals, math.nan, math.nan, math.nan)
    share = float(happened.mean())
    low, high = binomial_interval(share * individuals, individuals)
    return Rate(len(happened), individuals, share, min(low, share), max(high, share))


@dataclass(frozen=True)
class GroupRate:
    """A rate within one group."""

    grouping: str
    group: str
    rate: Rate


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


@dataclass(frozen=True)
class Decisions:
    """What a rule does with the people of one group on one side of the threshold.

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
    shown = _Presented.of(evaluation, threshold)
    groupings, absent = shown.groupings(by)
    labelled = [
        (grouping.name, name, grouping.members(position))
        for grouping in groupings
        for position, name in enumerate(grouping.groups)
    ]
    rules: list[tuple[Rule, FloatArray, float, float, FloatArray]] = [
        ("estimate", shown.estimates, upper, threshold, _challenge_ages(threshold, shown.estimates))
    ]
    if shown.probability is not None:
        below = math.nextafter(round(1 - certainty, 12), 1)  # refused at 1 - c itself: 0.1 for 0.9
        rules.append(("probability", shown.probability, certainty, below, np.array(CERTAINTIES)))
    cells, cell_means = _cells(shown, evaluation)
    return Assurance(
        threshold=threshold,
        challenge=upper,
        certainty=certainty,
        challenge_rates=tuple(
            GroupRate(grouping, name, shown.rate(shown.estimates >= upper, members & shown.just_under))
            for grouping, name, members in labelled
        ),
        decisions=tuple(
            _decisions(rule, grouping, name, side, shown, scores, (upper_cut, lower_cut), members & who)
            for rule, scores, upper_cut, lower_cut, _ in rules
            for grouping, name, members in labelled
            for side, who in shown.sides().items()
        ),
        curves=tuple(
            _curve(rule, grouping, name, shown, scores, _curve_cuts(rule, threshold), members)
            for rule, scores, *_ in rules
            for grouping, name, members in labelled
        ),
        points=tuple(
            _operating_point(rule, grouping, name, shown, scores, cuts, members, share)
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
        child_safety=tuple(_child_safety(shown, groupings, evaluation)),
        missing=len(evaluation.match.missing),
        absent=tuple(absent),
    )


@dataclass(frozen=True, eq=False)
class _Presented:
    """All images the system was shown, also those it failed on (estimate NaN)."""

    labels: pd.DataFrame
    ages: FloatArray
    estimates: FloatArray
    probability: FloatArray | None
    persons: IntArray
    distinct: bool
    threshold: float

    @classmethod
    def of(cls, evaluation: Evaluation, threshold: float) -> _Presented:
        tables = [table for table in (evaluation.labels, evaluation.failures) if len(table)]
        labels = pd.concat(tables, ignore_index=True)
        failed = np.full(len(evaluation.failures), math.nan)
        probability = None
        distribution, bins = evaluation.distribution, evaluation.predictions.bins
        if distribution is not None and bins is not None:
            answered = label_distribution.probability_at_least(distribution, bins, threshold)
            probability = np.concatenate([answered, failed])
        persons = people(labels)
        return cls(
            labels=labels,
            ages=labels["age"].to_numpy(dtype=np.float64),
            estimates=np.concatenate([evaluation.estimates, failed]),
            probability=probability,
            persons=persons,
            distinct=int(persons.max()) + 1 == len(persons),
            threshold=threshold,
        )

    @property
    def just_under(self) -> BoolArray:
        """The last year before the threshold: the 17-year-olds of 18."""
        return np.asarray((self.ages >= math.ceil(self.threshold) - 1) & (self.ages < self.threshold))

    def sides(self) -> dict[str, BoolArray]:
        adult = np.asarray(self.ages >= self.threshold)
        return {"under age": ~adult, "just under": self.just_under, "adult": adult}

    def individuals(self, members: BoolArray) -> int:
        """How many people are on the images of a group."""
        if self.distinct:
            return int(members.sum())
        return len(np.unique(self.persons[members]))

    def rate(self, hits: BoolArray, members: BoolArray) -> Rate:
        return _rate(hits[members], self.individuals(members))

    def groupings(self, by: Sequence[str]) -> tuple[list[Grouping], list[str]]:
        """All images as one group, then each grouping that does not go by the true age."""
        found, absent = [Grouping("all", ("all",), np.zeros(len(self.ages), dtype=np.int64))], []
        for name in by:
            if not set(name.split(":")) & set(BY_AGE):
                grouping = group(name, self.labels)
                if grouping is None:
                    absent.append(name)
                else:
                    found.append(grouping)
        return found, absent


def _challenge_ages(threshold: float, estimates: FloatArray) -> FloatArray:
    """Tenths of years from the threshold until nobody is left."""
    most = np.nanmax(estimates, initial=threshold)
    first, last = math.ceil(threshold * 10), math.floor(most * 10) + 1
    return np.concatenate([[threshold], np.arange(first, last + 1) / 10])


def _curve_cuts(rule: Rule, threshold: float) -> FloatArray:
    if rule == "probability":
        return np.array(CERTAINTIES)
    return threshold + np.arange(0.0, CURVE_MARGIN + 0.5, 0.5)


def _decisions(
    rule: Rule,
    grouping: str,
    name: str,
    side: str,
    shown: _Presented,
    scores: FloatArray,
    cuts: tuple[float, float],
    members: BoolArray,
) -> Decisions:
    upper, lower = cuts
    passed, refused, failed = scores >= upper, scores < lower, np.isnan(scores)
    undecided = ~(passed | refused | failed)
    outcomes = (shown.rate(hits, members) for hits in (passed, refused, undecided, failed))
    return Decisions(rule, grouping, name, side, *outcomes)


def _share_from(scores: FloatArray, cuts: FloatArray) -> FloatArray:
    """(C,) share of the scores at or above each cut; a missing score is below all."""
    ordered = np.sort(np.where(np.isnan(scores), -math.inf, scores))
    below = np.searchsorted(ordered, cuts, side="left")
    return np.asarray((len(ordered) - below) / len(ordered))  # 5 of 100 is 0.05, which 1 - 0.95 is not


def _curve(
    rule: Rule,
    grouping: str,
    name: str,
    shown: _Presented,
    scores: FloatArray,
    cuts: FloatArray,
    members: BoolArray,
) -> Curve:
    shares = {}
    for side, who in shown.sides().items():
        chosen = members & who
        few = shown.individuals(chosen) < LEAST_PEOPLE
        shares[side] = np.full(len(cuts), math.nan) if few else _share_from(scores[chosen], cuts)
    return Curve(
        rule,
        grouping,
        name,
        tuple(cuts.tolist()),
        tuple(shares["under age"].tolist()),
        tuple(shares["just under"].tolist()),
        tuple((1 - shares["adult"]).tolist()),
    )


def _operating_point(
    rule: Rule,
    grouping: str,
    name: str,
    shown: _Presented,
    scores: FloatArray,
    cuts: FloatArray,
    members: BoolArray,
    wished: float,
) -> OperatingPoint:
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


def _cells(shown: _Presented, evaluation: Evaluation) -> tuple[list[CellError], list[CellMean]]:
    """Give the errors of each single year 0 … 30, of all and of each sex that is known, and their means."""
    years = max(ages[-1] for ages in CELL_AGES.values()) + 1
    chosen = ~np.isnan(shown.estimates) & (shown.ages < years)
    completed, sexes = np.floor(shown.ages[chosen]).astype(np.int64), _sexes(shown.labels)[chosen]
    persons = shown.persons[chosen]
    signed = shown.estimates[chosen] - shown.ages[chosen]
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


def _child_safety(
    shown: _Presented, groupings: Sequence[Grouping], evaluation: Evaluation
) -> Iterator[ChildSafety]:
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
