"""From predictions and labels to metrics, by group, with bootstrap intervals.

Metrics use the true ages, also those outside a model's bins. Images for which a system gave no age are
counted and named, never left out silently: ``failed``, ``missing``, ``unknown``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens import label_distribution, metrics
from agelens.calibration import Calibration
from agelens.data.manifest import read_manifest
from agelens.data.matching import Match, match_manifest
from agelens.data.predictions import Predictions
from agelens.errors import InputError
from agelens.evaluation.groups import AGE_BANDS, BY_AGE, Grouping, check_groupings, group, people
from agelens.evaluation.predict import Crops, predict_manifest
from agelens.files import write_atomically
from agelens.inference.estimator import AgeEstimator
from agelens.metrics import AAR, BootstrapInterval

__all__ = [
    "AGE_BANDS",
    "INTERVAL_LEVELS",
    "IN_CROSSINGS",
    "SMALL_GROUP",
    "TOO_FEW",
    "Evaluation",
    "GroupResult",
    "ReliabilityBin",
    "evaluate",
    "evaluate_model",
    "is_rate",
    "json_value",
]

FloatArray = NDArray[np.float64]

INTERVAL_LEVELS = (0.5, 0.8, 0.9, 0.95)
"""The levels whose coverage and width are reported."""

SMALL_GROUP = 30
"""Groups of fewer people are marked and no rate of theirs is printed: it would mean little."""

TOO_FEW = "too few"
"""What stands in the place of a rate of a small group."""

IN_CROSSINGS = ("MAE", "bias", "CA(5)", "coverage(90%)")
"""The metrics of crossed groupings and of ``five_years``."""

_RATES = ("CA(", "coverage(", "accuracy(")
_DRAWN = 25_000_000  # means that are held at once


@dataclass(frozen=True)
class GroupResult:
    """The metrics of one group of images.

    Attributes:
        grouping: ``all`` or the name of a grouping (:mod:`agelens.evaluation.groups`).
        group: ``all``, ``18-29``, ``female`` …; ``unknown`` where the manifest says nothing.
        count: Number of images.
        people: Number of people; that of the images where the manifest names no subjects.
        small: Fewer people than :data:`SMALL_GROUP`.
        metrics: Name to value and bootstrap interval; empty for a group without images.
    """

    grouping: str
    group: str
    count: int
    people: int
    small: bool
    metrics: dict[str, BootstrapInterval]

    def rate_hidden(self, metric: str) -> bool:
        """Whether a metric is a rate of too few people, which is not printed."""
        return self.small and is_rate(metric)


def is_rate(metric: str) -> bool:
    """Whether a metric is a share of the images, which is not told of too few people."""
    return metric.startswith(_RATES)


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose P(age >= threshold) lies in a tenth of 0 … 1.

    Attributes:
        low: Lower end, included.
        high: Upper end, excluded but for 1.
        count: Number of images.
        people: Number of people on them.
        predicted: Their mean probability; NaN if there are none.
        observed: Share of them that reach the threshold; NaN if there are none.
    """

    low: float
    high: float
    count: int
    people: int
    predicted: float
    observed: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a system is on a labelled set of images.

    Attributes:
        system: Name or file of what was evaluated.
        digest: Digest of the model, or of the table of predictions.
        manifest: File of the labels.
        split: Split of the manifest; None for all of it.
        images: Number of images in the metrics.
        people: Number of people on them.
        match: Which images they are, and which are not and why.
        labels: (M,) rows of the manifest in the metrics.
        failures: (F,) rows of the manifest for which the system gave no age.
        predictions: What was evaluated.
        intervals: ``conformal``, ``central mass`` (distributions without a calibration) or ``none``.
        threshold: Years of the metrics that print as ``accuracy(18+)``.
        results: All images first, then group by group.
        aar: AAR of all images with its parts; None where no age lies in 1 … 81.
        reliability: Ten bins; empty without distributions.
        pit_histogram: Share of the images in each tenth of F(age), 0.1 each if calibrated; empty without
            distributions.
        absent: Groupings asked for that the manifest has no values of.
        replicates: Bootstrap replicates.
        level: Level of the bootstrap intervals.
        seed: Seed of the bootstrap.
    """

    system: str
    digest: str
    manifest: str
    split: str | None
    images: int
    people: int
    match: Match
    labels: pd.DataFrame
    failures: pd.DataFrame
    predictions: Predictions
    intervals: str
    threshold: float
    results: tuple[GroupResult, ...]
    aar: AAR | None
    reliability: tuple[ReliabilityBin, ...]
    pit_histogram: tuple[float, ...]
    absent: tuple[str, ...]
    replicates: int
    level: float
    seed: int

    @property
    def ages(self) -> FloatArray:
        """(M,) true ages, years."""
        return self.labels["age"].to_numpy(dtype=np.float64)

    @property
    def estimates(self) -> FloatArray:
        """(M,) estimated ages, years."""
        return self.predictions.frame["age"].to_numpy(dtype=np.float64)[self.match.predicted]

    @property
    def distribution(self) -> FloatArray | None:
        """(M, K) distributions; None if the system gives none."""
        held = self.predictions.distribution
        return None if held is None else held[self.match.predicted]

    @property
    def overall(self) -> dict[str, BootstrapInterval]:
        """The metrics of all images."""
        return self.results[0].metrics

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the predictions as JSON values; what is not a number becomes None.

        So does a rate of fewer people than :data:`SMALL_GROUP`; the PIT histogram of so few is empty.
        """
        values = {
            "system": self.system,
            "digest": self.digest,
            "manifest": self.manifest,
            "split": self.split,
            "images": self.images,
            "people": self.people,
            "failed": [{"path": path, "error": error} for path, error in self.match.failed],
            "missing": list(self.match.missing),
            "unknown": list(self.match.unknown),
            "further_faces": self.match.further_faces,
            "intervals": self.intervals,
            "threshold": self.threshold,
            "bootstrap": {"replicates": self.replicates, "level": self.level, "seed": self.seed},
            "small_group": SMALL_GROUP,
            "results": [asdict(_told(result)) for result in self.results],
            "aar": None if self.aar is None else asdict(self.aar),
            "reliability": [
                asdict(replace(row, observed=math.nan) if row.people < SMALL_GROUP else row)
                for row in self.reliability
            ],
            "pit_histogram": [] if self.results[0].small else list(self.pit_histogram),
            "absent_groupings": list(self.absent),
        }
        return {key: json_value(value) for key, value in values.items()}

    def write_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict`, whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        with write_atomically(path) as temporary:
            temporary.write_text(
                json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )

    def rows(self, names: Sequence[str] | None = None) -> list[dict[str, str]]:
        """Give the results as rows of text, ready for a table.

        A small group's number of images bears a star, and its rates read ``too few``. Any other cell reads
        ``5.02 [4.90, 5.14]``, the value and its bootstrap interval.

        Args:
            names: Metrics to show; by default those of all images.
        Returns:
            A row a group: ``grouping``, ``group``, ``images``, then a cell a metric.
        Raises:
            InputError: A metric does not exist in this evaluation.
        """
        shown = list(self.overall) if names is None else list(names)
        for name in shown:
            if name not in self.overall:
                raise InputError(f"no metric {name!r} here; there are: {', '.join(self.overall)}")
        return [
            {
                "grouping": result.grouping,
                "group": result.group,
                "images": f"{result.count}*" if result.small else str(result.count),
                **{name: _cell(name, result) for name in shown},
            }
            for result in self.results
        ]


def evaluate(
    predictions: Predictions,
    manifest: pd.DataFrame,
    by: Sequence[str] = ("age_band", "gender", "ethnicity"),
    *,
    calibration: Calibration | None = None,
    split: str | None = None,
    threshold: float = 18,
    allow_missing: bool = False,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    system: str | None = None,
    digest: str | None = None,
) -> Evaluation:
    """Compare predictions with labels.

    Always: ``MAE``, ``RMSE``, ``bias`` (positive = too old), ``CA(3)``, ``CA(5)``, ``CA(7)``, ``AAR`` (not
    within groups of age). With distributions: coverage (0 … 1) and mean width of the central intervals,
    ``CRPS``, ``NLL``, and accuracy (P >= 0.5) and Brier score of P(age >= threshold). With the columns
    ``low`` and ``high`` for every image: ``coverage(stated)`` and ``width(stated)``. With voters' deviations
    for every image (``age_std``): ``ε-error``.

    Args:
        predictions: What a system says.
        manifest: Checked manifest: what is true.
        by: Groupings (:mod:`agelens.evaluation.groups`): ``age_band``, ``pose``, a column of the manifest, a
            crossing as ``gender:ethnicity`` (of which the metrics are `IN_CROSSINGS`) …
        calibration: The model's, for its conformal intervals; without one, intervals are plain central mass.
        split: Only these rows of the manifest; None for all.
        threshold: Years for P(age >= threshold).
        allow_missing: Count and name the paths that only one side has instead of raising.
        replicates: Bootstrap replicates.
        level: Level of the bootstrap intervals.
        seed: Seed of the bootstrap.
        system: Name of what is evaluated; by default the source of the predictions.
        digest: The model's; by default the sha256 of the file of the predictions, if they came from one.
    Returns:
        The evaluation.
    Raises:
        InputError: A grouping is no column, or the manifest has no row of this split.
        PredictionsError: A path occurs on one side only and ``allow_missing`` is false, or none matches.
        ValueError: ``level`` or ``replicates`` cannot be used.
    """
    match = match_manifest(predictions, manifest, split, allow_missing)
    labels = manifest.iloc[match.labelled].reset_index(drop=True)
    persons = people(labels)
    ages = labels["age"].to_numpy(dtype=np.float64)
    said = predictions.frame.iloc[match.predicted].reset_index(drop=True)
    estimates = said["age"].to_numpy(dtype=np.float64)
    measures = _point_measures(estimates, labels) + _stated_measures(said, ages)
    reliability: tuple[ReliabilityBin, ...] = ()
    pit_histogram: tuple[float, ...] = ()
    if predictions.distribution is not None and predictions.bins is not None:
        distribution, bins = predictions.distribution[match.predicted], predictions.bins
        adult = label_distribution.probability_at_least(distribution, bins, threshold)
        measures += _interval_measures(distribution, bins, ages, calibration)
        measures += [
            _Measure("CRPS", metrics.crps_scores(distribution, bins, ages)[:, None], _mean),
            _Measure("NLL", metrics.log_scores(distribution, bins, ages)[:, None], _mean),
            *_threshold_measures(adult, ages >= threshold, threshold),
        ]
        reliability = _reliability(adult, ages >= threshold, persons)
        shares, _ = np.histogram(metrics.pit(distribution, bins, ages), bins=10, range=(0.0, 1.0))
        pit_histogram = tuple(float(share) for share in shares / len(ages))
    groupings, absent = [Grouping("all", ("all",), np.zeros(len(ages), dtype=np.int64))], []
    for name in by:
        grouping = group(name, labels)
        if grouping is None:
            absent.append(name)
        else:
            groupings.append(grouping)
    results = _results(measures, groupings, persons, replicates, level, seed)
    return Evaluation(
        system=predictions.source if system is None else system,
        digest=_file_digest(predictions.source) if digest is None else digest,
        manifest=str(manifest.attrs.get("path", "")),
        split=split,
        images=len(ages),
        people=int(persons.max()) + 1,
        match=match,
        labels=labels,
        failures=manifest.iloc[match.unanswered].reset_index(drop=True),
        predictions=predictions,
        intervals=_intervals_name(predictions, calibration),
        threshold=threshold,
        results=tuple(results),
        aar=metrics.aar(estimates, ages) if math.isfinite(results[0].metrics["AAR"].value) else None,
        reliability=reliability,
        pit_histogram=pit_histogram,
        absent=tuple(absent),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def evaluate_model(
    model_path: str | Path,
    manifest: str | Path | pd.DataFrame,
    split: str | None = "test",
    crops: Crops = "aligned",
    *,
    by: Sequence[str] = ("age_band", "gender", "ethnicity"),
    threshold: float = 18,
    replicates: int = 2000,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Estimate the images of a manifest with a model file, then compare with the labels.

    Args:
        model_path: Name of a shipped model, or a model file.
        manifest: File, or a checked manifest.
        split: Only these rows; None for all.
        crops: What the images are: ``aligned`` (in the model's geometry), ``chips`` (still to be detected and
            aligned, with its fallback) or ``photos`` (the largest face of each).
        by: Groupings, as in :func:`evaluate`.
        threshold: Years for P(age >= threshold).
        replicates: Bootstrap replicates.
        seed: Seed of the bootstrap.
        threads: Threads of the network.
        progress: Called with the number of images done so far.
    Returns:
        The evaluation; ``predictions`` holds what the model said.
    Raises:
        ModelFileError: The model file cannot be used.
        ManifestError: The manifest cannot be used.
        InputError: An argument cannot be used, or the manifest has no row of this split.
        PredictionsError: No image could be estimated.
    """
    labels = manifest if isinstance(manifest, pd.DataFrame) else read_manifest(manifest)
    check_groupings(by, labels)
    estimator = AgeEstimator(model_path, threads=threads)
    predictions = predict_manifest(
        estimator, labels, split=split, crops=crops, threshold=threshold, progress=progress
    )
    return evaluate(
        predictions,
        labels,
        by,
        calibration=estimator.card.calibration,
        split=split,
        threshold=threshold,
        replicates=replicates,
        seed=seed,
        system=estimator.card.name,
        digest=estimator.card.digest,
    )


@dataclass(frozen=True, eq=False)
class _Measure:
    """A metric as a statistic of the means of per-image columns (N, M)."""

    name: str
    columns: NDArray[Any]
    statistic: Callable[[FloatArray], FloatArray]


def _results(
    measures: list[_Measure],
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
    waiting: list[tuple[Grouping, list[_Measure]]] = []
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
            results.extend(_group_results(grouping, shown, own, drawn, persons, level))

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


def _group_results(
    grouping: Grouping,
    measures: list[_Measure],
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
            found, replicated, start = [], [], 0
            for measure in measures:
                part = slice(start, start := start + measure.columns.shape[1])
                found.append(float(measure.statistic(columns[measure.name][members].mean(axis=0))))
                replicated.append(measure.statistic(drawn[:, position, part]))
            told = np.isfinite(found)
            bounds = np.full((2, len(found)), math.nan)
            bounds[:, told] = np.nanquantile(np.stack(replicated, axis=1)[:, told], tails, axis=0)
            for measure, value, low, high in zip(measures, found, *bounds.tolist(), strict=True):
                values[measure.name] = BootstrapInterval(value, low, high)
        yield GroupResult(grouping.name, name, count, individuals, individuals < SMALL_GROUP, values)


def _mean(means: FloatArray) -> FloatArray:
    return means[..., 0]


def _percent(means: FloatArray) -> FloatArray:
    return 100.0 * means[..., 0]


def _root(means: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(means[..., 0]))


def _point_measures(estimates: FloatArray, labels: pd.DataFrame) -> list[_Measure]:
    ages = labels["age"].to_numpy(dtype=np.float64)
    errors = metrics.absolute_errors(estimates, ages)[:, None]
    measures = [
        _Measure("MAE", errors, _mean),
        _Measure("RMSE", errors**2, _root),
        _Measure("bias", (estimates - ages)[:, None], _mean),
        *(_Measure(f"CA({n})", errors < n, _percent) for n in (3, 5, 7)),
        _Measure("AAR", metrics.aar_columns(estimates, ages), metrics.aar_from_means),
    ]
    if "age_std" in labels and labels["age_std"].notna().all():
        deviations = labels["age_std"].to_numpy(dtype=np.float64)
        measures.append(
            _Measure("ε-error", metrics.epsilon_scores(estimates, ages, deviations)[:, None], _mean)
        )
    return measures


def _covered(name: str, ages: FloatArray, low: FloatArray, high: FloatArray) -> list[_Measure]:
    inside = (low <= ages) & (ages <= high)
    return [
        _Measure(f"coverage({name})", inside[:, None], _mean),
        _Measure(f"width({name})", (high - low)[:, None], _mean),
    ]


def _stated_measures(said: pd.DataFrame, ages: FloatArray) -> list[_Measure]:
    """Measure the intervals that the table itself states, at whatever level."""
    if not {"low", "high"} <= set(said.columns) or said[["low", "high"]].isna().to_numpy().any():
        return []
    low, high = (said[column].to_numpy(dtype=np.float64) for column in ("low", "high"))
    return _covered("stated", ages, low, high)


def _interval_measures(
    distribution: FloatArray,
    bins: label_distribution.AgeBins,
    ages: FloatArray,
    calibration: Calibration | None,
) -> list[_Measure]:
    measures = []
    for level in INTERVAL_LEVELS:
        if calibration is None:
            low, high = label_distribution.interval(distribution, bins, level)
        else:
            low, high = calibration.interval(distribution, bins, level)
        measures += _covered(f"{level:.0%}", ages, low, high)
    return measures


def _threshold_measures(
    probability: FloatArray, reached: NDArray[np.bool_], threshold: float
) -> list[_Measure]:
    right = (probability >= 0.5) == reached
    return [
        _Measure(f"accuracy({threshold:g}+)", right[:, None], _percent),
        _Measure(f"Brier({threshold:g}+)", ((probability - reached) ** 2)[:, None], _mean),
    ]


def _reliability(
    probability: FloatArray, reached: NDArray[np.bool_], persons: NDArray[np.int64]
) -> tuple[ReliabilityBin, ...]:
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


def _intervals_name(predictions: Predictions, calibration: Calibration | None) -> str:
    if predictions.distribution is None:
        return "none"
    return "central mass" if calibration is None else "conformal"


def _file_digest(source: str) -> str:
    try:
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except OSError:
        return ""


def _told(result: GroupResult) -> GroupResult:
    """The result without the rates of too few people."""
    hidden = BootstrapInterval(math.nan, math.nan, math.nan)
    told = {name: hidden if result.rate_hidden(name) else value for name, value in result.metrics.items()}
    return replace(result, metrics=told)


def _cell(name: str, result: GroupResult) -> str:
    interval = result.metrics.get(name)
    if interval is None or not math.isfinite(interval.value):
        return ""
    if result.rate_hidden(name):
        return TOO_FEW
    digits = 3 if abs(interval.value) < 1 else 2
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def json_value(value: Any) -> Any:
    """Make a value fit for JSON, down into its parts: tuples are lists, what is not a number is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value
