"""Several systems side by side on the same images: accuracy, paired differences, cost, quoted results.

Every system is judged on the images that all of them gave an age for; what one could not answer is counted
beside it. Differences are paired: each bootstrap draw takes the same images of all systems. A system is
called best in a group only where its interval against every other one excludes zero. A system may have been
trained from several seeds: its score on an image is then the mean of theirs. Where the labels are age bands,
the distance to the band takes the place of the absolute error. Quoted results
(:mod:`agelens.evaluation.published`) stand beside the measured ones and enter no difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens import __version__, metrics
from agelens.data.label_meaning import label_meaning
from agelens.data.matching import match_manifest
from agelens.data.splits import split_digest
from agelens.errors import InputError
from agelens.evaluation.band_measures import all_bands, band_measures, labels_are_bands
from agelens.evaluation.cost import Cost, measure_latency, stored_weights
from agelens.evaluation.evaluate import Evaluation, evaluate
from agelens.evaluation.groups import Grouping, group, people, split_groupings
from agelens.evaluation.published import QuotedSystem
from agelens.evaluation.results import SMALL_GROUP, TOO_FEW, is_rate, json_value
from agelens.evaluation.systems import Answers
from agelens.metrics import BootstrapInterval, PairedComparison, Partition

__all__ = [
    "NOT_SHOWN",
    "Comparison",
    "GroupVerdict",
    "PairedDifference",
    "SystemResult",
    "compare",
]

FloatArray = NDArray[np.float64]

NOT_SHOWN = "no difference shown"
"""The verdict where no interval excludes zero."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SystemResult:
    """One system.

    Attributes:
        name: Of the system.
        kind: As in :class:`Answers`.
        source: As in :class:`Answers`.
        digest: As in :class:`Answers`.
        answered: Images it gave an age for.
        failed: Path and error of those it could not use.
        missing: Paths without any prediction.
        unknown: Predicted paths that the manifest lacks.
        metrics: On the images that all systems answered. Of a system of several seeds: the means over them,
            of the metrics that are means over images.
        cost: None for a table of predictions.
        error_by_seed: The comparison's ``error`` of each seed, where there are several.
    """

    name: str
    kind: str
    source: str
    digest: str
    answered: int
    failed: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    metrics: dict[str, BootstrapInterval]
    cost: Cost | None
    error_by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class PairedDifference:
    """Metric of system a minus that of system b on the same images.

    Attributes:
        metric: ``MAE``, ``CA(3)``, ``CA(5)``, ``CA(7)``, or ``CRPS`` where all give distributions. Of bands:
            ``band distance``, and where all give distributions ``band accuracy`` and ``NLL``, else ``band
            accuracy(estimate)``.
        a, b: The systems.
        paired: Difference, interval, p-value.
        people: Number of people; that of the images where the manifest names no subjects.
    """

    metric: str
    a: str
    b: str
    paired: PairedComparison
    people: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero, of ``SMALL_GROUP`` people at least: fewer show nothing."""
        return self.people >= SMALL_GROUP and _excludes_zero(self.paired)

    @property
    def rate_hidden(self) -> bool:
        """Whether it is one of rates of too few people, which is not printed."""
        return self.people < SMALL_GROUP and is_rate(self.metric)


@dataclass(frozen=True)
class GroupVerdict:
    """The best system of a group, by the comparison's ``error``.

    Attributes:
        grouping: ``age_band`` or a column of the manifest.
        group: ``18-29``, ``female`` …
        count: Number of images.
        people: Number of people; that of the images where the manifest names no subjects.
        errors: Error of each system; empty where there are fewer people than ``SMALL_GROUP``, as all that
            follows.
        lowest: The system with the smallest error, whether or not the difference is shown.
        winner: ``lowest``, if its paired interval against every other system excludes zero.
        against: Difference of ``lowest`` to each other system.
    """

    grouping: str
    group: str
    count: int
    people: int
    errors: dict[str, float]
    lowest: str | None
    winner: str | None
    against: dict[str, PairedComparison]

    @property
    def verdict(self) -> str:
        """``too few``, the winner, or ``no difference shown``."""
        return (self.winner or NOT_SHOWN) if self.errors else TOO_FEW


@dataclass(frozen=True)
class Comparison:
    """Systems side by side.

    Attributes:
        systems: In the order given.
        differences: Of every pair, on all common images.
        groups: Group by group.
        quoted: Published rows.
        images: Images in the metrics: those that every system answered.
        people: People on them; as many as images where the manifest names no subjects.
        left_out: Images that some system answered and another did not.
        absent: Groupings asked for that the manifest has no values of.
        facts: Manifest, split, split digest, labels, software, bootstrap: for the report's stamp.
        error: The metric by which systems are ranked: ``MAE``, or ``band distance`` where the labels are
            bands.
    """

    systems: tuple[SystemResult, ...]
    differences: tuple[PairedDifference, ...]
    groups: tuple[GroupVerdict, ...]
    quoted: tuple[QuotedSystem, ...]
    images: int
    people: int
    left_out: int
    absent: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    error: str = "MAE"

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON values; what is not a number, or a rate of too few people, becomes None."""
        values = asdict(replace(self, systems=tuple(map(self._reported, self.systems))))
        for row, verdict in zip(values["groups"], self.groups, strict=True):
            row["verdict"] = verdict.verdict
        for row, difference in zip(values["differences"], self.differences, strict=True):
            row["shown"] = difference.shown
            if difference.rate_hidden:
                row["paired"] = None
        return {key: json_value(value) for key, value in values.items()}

    def _reported(self, system: SystemResult) -> SystemResult:
        """The system without the rates of too few people."""
        if self.people >= SMALL_GROUP:
            return system
        kept = {name: value for name, value in system.metrics.items() if not is_rate(name)}
        return replace(system, metrics=kept)


def compare(
    systems: Sequence[Answers],
    manifest: pd.DataFrame,
    by: Sequence[str] = ("age_band", "gender", "ethnicity"),
    *,
    split: str | None = None,
    quoted: Sequence[QuotedSystem] = (),
    estimate: str = "age",
    allow_missing: bool = False,
    meaning: str | None = None,
    latency: bool = True,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare systems on the images that all of them answered.

    Args:
        systems: Two or more.
        manifest: Checked manifest: what is true.
        by: Groupings, as in :func:`~agelens.evaluation.evaluate.evaluate`.
        split: Only these rows of the manifest; None for all.
        quoted: Published rows to stand beside.
        estimate: As in :func:`~agelens.evaluation.evaluate.evaluate`.
        allow_missing: Count and name the paths that only one side has instead of raising.
        meaning: What the labels are, one of :data:`~agelens.data.label_meaning.MEANINGS`, for the stamp.
        latency: Time the models.
        replicates: Bootstrap replicates.
        level: Level of the intervals.
        seed: Seed of the bootstrap.
    Returns:
        The comparison.
    Raises:
        InputError: Fewer than two systems, a name twice, no such grouping or split, no image that all
            systems answered, or labels that are partly ages and partly bands.
        PredictionsError: A path occurs on one side only and ``allow_missing`` is false, or none matches.
    """
    names = [system.name for system in systems]
    if len(systems) < 2:
        raise InputError(f"a comparison needs two systems or more, not {len(systems)}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two systems are called {min(twice)!r}: name them, NAME=SYSTEM")
    trained = [seed for system in systems for seed in system.seeds]
    ends = np.cumsum([len(system.seeds) for system in systems])
    matches = [match_manifest(seed.predictions, manifest, split, allow_missing) for seed in trained]
    answered = [set(match.labelled.tolist()) for match in matches]
    common = sorted(set.intersection(*answered))
    if not common:
        raise InputError("there is no image that all systems gave an age for")
    labels = manifest.iloc[common]
    bands = all_bands(manifest) if labels_are_bands(labels) else None
    evaluations = [
        evaluate(
            training.predictions,
            labels,
            (),
            calibration=training.calibration,
            estimate=estimate,
            allow_missing=True,
            replicates=replicates,
            level=level,
            seed=seed,
            system=training.name,
            bands=bands,
        )
        for training in trained
    ]
    by_seed = _scores(evaluations) if bands is None else _band_scores(evaluations, bands)
    error = next(iter(by_seed))
    members = np.split(np.arange(len(trained)), ends[:-1])
    scores = {
        metric: np.column_stack([values[:, rows].mean(axis=1) for rows in members])
        for metric, values in by_seed.items()
    }
    groupings = {name: group(name, evaluations[0].labels) for name in split_groupings(by)}
    present = [grouping for grouping in groupings.values() if grouping is not None]
    persons = people(evaluations[0].labels)
    differences, groups, intervals = _paired(names, scores, present, persons, replicates, level, seed)
    costs = _costs(systems, latency)
    several = [len(rows) > 1 for rows in members]
    return Comparison(
        systems=tuple(
            SystemResult(
                name=system.name,
                kind=system.kind,
                source=", ".join(training.source for training in system.seeds),
                digest=", ".join(training.digest for training in system.seeds if training.digest),
                answered=len(set.intersection(*(answered[row] for row in rows))),
                failed=_union(matches[row].failed for row in rows),
                missing=_union(matches[row].missing for row in rows),
                unknown=_union(matches[row].unknown for row in rows),
                metrics=intervals[number] if several[number] else _metrics(evaluations[rows[0]]),
                cost=costs.get(system.name),
                error_by_seed=tuple(by_seed[error][:, rows].mean(axis=0).tolist()) if several[number] else (),
            )
            for number, (system, rows) in enumerate(zip(systems, members, strict=True))
        ),
        differences=tuple(differences),
        groups=tuple(groups),
        quoted=tuple(quoted),
        images=len(common),
        people=len(np.unique(persons)),
        left_out=len(set.union(*answered)) - len(common),
        absent=tuple(name for name, grouping in groupings.items() if grouping is None),
        facts={
            "manifest": str(manifest.attrs.get("path", "")),
            "split": split or "all",
            "split digest": split_digest(manifest) if {"digest", "split"} <= set(manifest) else "none",
            "labels": label_meaning(meaning),
            "bootstrap": f"{replicates} replicates, {level:.0%} intervals, seed {seed}, paired",
            "software": f"agelens {__version__}",
        },
        error=error,
    )


def _scores(evaluations: Sequence[Evaluation]) -> dict[str, FloatArray]:
    """Per-image scores (N, S) whose means are the metrics; the error is the first."""
    ages = evaluations[0].ages
    errors = np.column_stack([np.abs(evaluation.estimates - ages) for evaluation in evaluations])
    scores = {"MAE": errors} | {f"CA({n})": 100.0 * (errors < n) for n in (3, 5, 7)}
    columns = []
    for evaluation in evaluations:
        said, bins = evaluation.distribution, evaluation.predictions.bins
        if said is None or bins is None:
            return scores
        columns.append(metrics.crps_scores(said, bins, ages))
    return scores | {"CRPS": np.column_stack(columns)}


def _metrics(evaluation: Evaluation) -> dict[str, BootstrapInterval]:
    """Those of one system, of which one name has one meaning: a band accuracy is of distributions."""
    without = {"band accuracy"} if evaluation.distribution is None else set()
    return {name: value for name, value in evaluation.overall.items() if name not in without}


def _band_scores(evaluations: Sequence[Evaluation], bands: FloatArray) -> dict[str, FloatArray]:
    """The same where the labels are bands, ``bands`` all of the data set."""
    labels = evaluations[0].labels
    measured = []
    for evaluation in evaluations:
        said, bins = evaluation.distribution, evaluation.predictions.bins
        measures = band_measures(evaluation.estimates, labels, said, bins, None, bands)
        measured.append({measure.name: measure.columns[:, 0] for measure in measures})
    spread = all(evaluation.distribution is not None for evaluation in evaluations)
    hits = "band accuracy" if spread else "band accuracy(estimate)"
    scores = {
        name: np.column_stack([values[name] for values in measured]).astype(np.float64)
        for name in ("band distance", hits, *(["NLL"] if spread else []))
    }
    return scores | {hits: 100.0 * scores[hits]}


def _paired(
    names: Sequence[str],
    scores: Mapping[str, FloatArray],
    groupings: Sequence[Grouping],
    persons: NDArray[np.int64],
    replicates: int,
    level: float,
    seed: int,
) -> tuple[list[PairedDifference], list[GroupVerdict], list[dict[str, BootstrapInterval]]]:
    """Compare all pairs on all images, and in each group by the first score, from one set of draws of people.

    Third is the interval of each system's mean scores.
    """
    errors, systems = next(iter(scores.values())), len(names)
    partitions = [
        Partition(np.zeros(len(errors), dtype=np.int64), 1),
        *(Partition(grouping.codes, len(grouping.groups), tuple(range(systems))) for grouping in groupings),
    ]
    columns = np.concatenate(list(scores.values()), axis=1)  # the error first
    drawn = metrics.bootstrap_group_means(columns, partitions, replicates, seed, persons)
    differences = []
    intervals: list[dict[str, BootstrapInterval]] = [{} for _ in names]
    number_of_people = len(np.unique(persons))
    for number, (metric, values) in enumerate(scores.items()):
        part = drawn[0][:, 0, number * systems : (number + 1) * systems]
        ends = np.quantile(part, [(1 - level) / 2, (1 + level) / 2], axis=0)
        for position, interval in enumerate(intervals):
            mean = float(values[:, position].mean())
            interval[metric] = BootstrapInterval(mean, *map(float, ends[:, position]))
        compared = _pairs(names, values.mean(axis=0), part, level)
        differences += [
            PairedDifference(metric, a, b, paired, number_of_people) for (a, b), paired in compared.items()
        ]
    verdicts = []
    for grouping, means in zip(groupings, drawn[1:], strict=True):
        for position, name in enumerate(grouping.groups):
            members = grouping.members(position)
            number = len(np.unique(persons[members]))
            if number < SMALL_GROUP:
                few = GroupVerdict(grouping.name, name, int(members.sum()), number, {}, None, None, {})
                verdicts.append(few)
                continue
            average = errors[members].mean(axis=0)
            compared = _pairs(names, average, means[:, position], level)
            verdicts.append(
                _verdict(grouping.name, name, int(members.sum()), number, names, average, compared)
            )
    return differences, verdicts, intervals


def _pairs(
    names: Sequence[str], means: FloatArray, drawn: FloatArray, level: float
) -> dict[tuple[str, str], PairedComparison]:
    """Compare every pair of systems: means (S,), draws (R, S); as ``metrics.paired_bootstrap`` does."""
    tails, replicates = [(1 - level) / 2, (1 + level) / 2], len(drawn)
    compared = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        differences = drawn[:, i] - drawn[:, j]
        low, high = np.nanquantile(differences, tails).tolist()
        beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
        p = min(1.0, 2 * (beyond + 1) / (replicates + 1))
        compared[a, b] = PairedComparison(float(means[i] - means[j]), low, high, p)
    return compared


def _verdict(
    grouping: str,
    name: str,
    count: int,
    number: int,
    names: Sequence[str],
    errors: FloatArray,
    compared: Mapping[tuple[str, str], PairedComparison],
) -> GroupVerdict:
    means = dict(zip(names, errors.tolist(), strict=True))
    lowest = min(means, key=lambda system: means[system])
    against = {}
    for (a, b), paired in compared.items():
        if a == lowest:
            against[b] = paired
        elif b == lowest:
            against[a] = PairedComparison(-paired.difference, -paired.high, -paired.low, paired.p)
    winner = lowest if all(_excludes_zero(paired) for paired in against.values()) else None
    return GroupVerdict(grouping, name, count, number, means, lowest, winner, against)


def _costs(systems: Sequence[Answers], latency: bool) -> dict[str, Cost]:
    models = {system.name: system.model for system in systems if system.model is not None}
    times = measure_latency(models) if latency else {}
    return {
        name: Cost(times.get(name), path.stat().st_size, stored_weights(path))
        for name, path in models.items()
    }


def _excludes_zero(paired: PairedComparison) -> bool:
    return paired.low > 0 or paired.high < 0


def _union(parts: Iterable[Sequence[_Item]]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(parts)))
