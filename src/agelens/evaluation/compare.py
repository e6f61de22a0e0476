"""Several systems side by side on the same images: accuracy, paired differences, cost, quoted results.

Every system is judged on the images that all of them gave an age for; what one could not answer is counted
beside it. Differences are paired: each bootstrap draw takes the same images of all systems. A system is
called best in a group only where its interval against every other one excludes zero. A system may have been
trained from several seeds: its score on an image is then the mean of theirs. Quoted results
(:mod:`agelens.evaluation.published`) are rows of the table and hollow points of the plots, nothing more.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agelens import __version__, metrics
from agelens.calibration import Calibration
from agelens.data.matching import match_manifest
from agelens.data.predictions import Predictions, read_predictions
from agelens.data.splits import split_digest
from agelens.errors import InputError
from agelens.evaluation.evaluate import SMALL_GROUP, TOO_FEW, Evaluation, evaluate, is_rate, json_value
from agelens.evaluation.groups import Grouping, group, people, split_groupings
from agelens.evaluation.predict import Crops, predict_manifest
from agelens.evaluation.published import QuotedSystem
from agelens.files import write_atomically
from agelens.inference.estimator import AgeEstimator
from agelens.inference.models import model_path, open_model
from agelens.metrics import BootstrapInterval, PairedComparison, Partition
from agelens.reports.page import Drawing, Section, Table, Text, drawing, plot_style, write_page
from agelens.reports.report import label_meaning

__all__ = [
    "Comparison",
    "Cost",
    "GroupVerdict",
    "Latency",
    "PairedDifference",
    "System",
    "SystemResult",
    "compare",
    "difference_rows",
    "group_rows",
    "measure_latency",
    "model_system",
    "over_seeds",
    "pareto_front",
    "predictions_system",
    "stored_weights",
    "write_report",
]

FloatArray = NDArray[np.float64]
_Item = TypeVar("_Item")

_WARM_UP, _REPEATS = 20, 200
_QUOTED = "quoted"
_COSTS = ("latency [ms]", "processor [ms]", "size [MB]", "weights")
_NOT_SHOWN = "no difference shown"
_SHOWN = ("MAE", "RMSE", "bias", "CA(3)", "CA(5)", "CA(7)", "AAR", "CRPS", "NLL", "coverage(90%)", "ε-error")


@dataclass(frozen=True, eq=False)
class System:
    """Something that gives ages.

    Attributes:
        name: Unique among the systems compared.
        kind: ``model``, ``run`` (exported for the occasion) or ``predictions``.
        source: Where it comes from, for the report.
        predictions: What it says of the images.
        model: Its model file, which is timed and weighed; None for a table of predictions.
        calibration: The model's, for its intervals.
        digest: Digest of the model's weights; empty for a table of predictions.
        repeats: The same system trained from other seeds, see :func:`over_seeds`; its cost is that of the
            first.
    """

    name: str
    kind: str
    source: str
    predictions: Predictions
    model: Path | None = None
    calibration: Calibration | None = None
    digest: str = ""
    repeats: tuple[System, ...] = ()

    @property
    def seeds(self) -> tuple[System, ...]:
        """All its trainings, one for most systems."""
        return (replace(self, repeats=()), *self.repeats)


@dataclass(frozen=True)
class Latency:
    """Time of the network on one crop, one thread, in milliseconds.

    The systems take turns, so whatever else the machine does falls on all of them.

    Attributes:
        median: By the clock.
        low: First tenth of the turns.
        high: Last tenth: far above the median on a busy machine.
        processor: Median time that the processor spent on it: the same on a busy machine as on an idle one.
        repeats: Number of turns.
    """

    median: float
    low: float
    high: float
    processor: float
    repeats: int


@dataclass(frozen=True)
class Cost:
    """What a model file takes.

    Attributes:
        latency: None where it was not measured.
        size: Bytes of the file.
        weights: Numbers stored in it; None if ``onnx`` is not installed.
    """

    latency: Latency | None
    size: int
    weights: int | None


@dataclass(frozen=True)
class SystemResult:
    """One system.

    Attributes:
        name: Of the system.
        kind: As in :class:`System`.
        source: As in :class:`System`.
        digest: As in :class:`System`.
        answered: Images it gave an age for.
        failed: Path and error of those it could not use.
        missing: Paths without any prediction.
        unknown: Predicted paths that the manifest lacks.
        metrics: On the images that all systems answered. Of a system of several seeds: the means over them,
            of the metrics that are means over images.
        cost: None for a table of predictions.
        mae_by_seed: MAE of each seed, where there are several.
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
    mae_by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class PairedDifference:
    """Metric of system a minus that of system b on the same images.

    Attributes:
        metric: ``MAE``, ``CA(3)``, ``CA(5)``, ``CA(7)``, or ``CRPS`` where all give distributions.
        a, b: The systems.
        found: Difference, interval, p-value.
        people: Number of people; that of the images where the manifest names no subjects.
    """

    metric: str
    a: str
    b: str
    found: PairedComparison
    people: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero, of ``SMALL_GROUP`` people at least: fewer show nothing."""
        return self.people >= SMALL_GROUP and _excludes_zero(self.found)

    @property
    def rate_hidden(self) -> bool:
        """Whether it is one of rates of too few people, which is not printed."""
        return self.people < SMALL_GROUP and is_rate(self.metric)


@dataclass(frozen=True)
class GroupVerdict:
    """Who is best in a group, by MAE.

    Attributes:
        grouping: ``age_band`` or a column of the manifest.
        group: ``18-29``, ``female`` …
        count: Number of images.
        people: Number of people; that of the images where the manifest names no subjects.
        mae: MAE of each system; empty where there are fewer people than ``SMALL_GROUP``, as all that follows.
        lowest: The system with the smallest MAE, whether or not the difference is shown.
        winner: ``lowest``, if its paired interval against every other system excludes zero.
        against: Difference of ``lowest`` to each other system.
    """

    grouping: str
    group: str
    count: int
    people: int
    mae: dict[str, float]
    lowest: str | None
    winner: str | None
    against: dict[str, PairedComparison]

    @property
    def verdict(self) -> str:
        """``too few``, the winner, or ``no difference shown``."""
        return (self.winner or _NOT_SHOWN) if self.mae else TOO_FEW


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
        facts: Manifest, split, split digest, labels, software, bootstrap: what the report is stamped with.
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

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON values; what is not a number, or a rate of too few people, becomes None."""
        values = asdict(replace(self, systems=tuple(map(self._told, self.systems))))
        for row, verdict in zip(values["groups"], self.groups, strict=True):
            row["verdict"] = verdict.verdict
        for row, difference in zip(values["differences"], self.differences, strict=True):
            row["shown"] = difference.shown
            if difference.rate_hidden:
                row["found"] = None
        return {key: json_value(value) for key, value in values.items()}

    def _told(self, system: SystemResult) -> SystemResult:
        """The system without the rates of too few people."""
        if self.people >= SMALL_GROUP:
            return system
        told = {name: value for name, value in system.metrics.items() if not is_rate(name)}
        return replace(system, metrics=told)

    def system_rows(self, shown: Sequence[str] = _SHOWN) -> list[dict[str, str]]:
        """Give systems, then quoted rows, as text: ready for a table.

        Args:
            shown: Metrics to show, where there are any.
        """
        names = [name for name in shown if any(name in system.metrics for system in self.systems)]
        repeated = any(system.mae_by_seed for system in self.systems)
        rows = [
            {
                "system": system.name,
                "kind": system.kind,
                **({"MAE by seed": _by_seed(system)} if repeated else {}),
                **{
                    name: TOO_FEW
                    if is_rate(name) and self.people < SMALL_GROUP
                    else _interval(system.metrics.get(name))
                    for name in names
                },
                "latency [ms]": _latency(system.cost),
                "processor [ms]": _processor(system.cost),
                "size [MB]": "" if system.cost is None else f"{system.cost.size / 1e6:.2f}",
                "weights": _millions(None if system.cost is None else system.cost.weights),
                "not answered": str(len(system.failed) + len(system.missing)),
                "source": system.source,
                "note": "",
            }
            for system in self.systems
        ]
        for quoted in self.quoted:
            rows.append(
                {
                    "system": quoted.name,
                    "kind": _QUOTED,
                    **({"MAE by seed": ""} if repeated else {}),
                    **{name: quoted.metrics.get(name, "") for name in names},
                    "latency [ms]": "",
                    "processor [ms]": "",
                    "size [MB]": "" if quoted.size is None else f"{quoted.size / 1e6:.2f}",
                    "weights": _millions(quoted.parameters),
                    "not answered": "",
                    "source": f"{quoted.source}: {quoted.data_set}, {quoted.protocol}",
                    "note": quoted.note,
                }
            )
        return rows


def model_system(
    name: str,
    model: str | Path,
    manifest: pd.DataFrame,
    *,
    split: str | None = None,
    crops: Crops = "aligned",
    kind: str = "model",
    source: str | None = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> System:
    """Run a model over the images of a manifest.

    Args:
        name: Of the system.
        model: Name of a shipped model, or a model file.
        manifest: Checked manifest.
        split: Only these rows; None for all.
        crops: What the images are.
        kind: ``model`` or ``run``.
        source: Where it comes from; by default the model's path.
        threads: Threads of the network.
        progress: Called with the number of images done so far.
    Raises:
        ModelFileError: The model file cannot be used.
        InputError: An argument cannot be used, or the manifest has no row of this split.
    """
    estimator = AgeEstimator(model, threads=threads)
    predictions = predict_manifest(estimator, manifest, split=split, crops=crops, progress=progress)
    path = model_path(model)
    card = estimator.card
    return System(name, kind, source or str(path), predictions, path, card.calibration, card.digest)


def predictions_system(name: str, path: str | Path) -> System:
    """Take any system's table of predictions.

    Raises:
        PredictionsError: It cannot be read or breaks the contract.
    """
    return System(name, "predictions", str(path), read_predictions(path))


def over_seeds(systems: Sequence[System]) -> System:
    """Make one system of several trainings of it: what is told of it are means over them.

    Its intervals are those of the mean on other images, for these trainings: what the seed adds is in the MAE
    of each, told beside it.

    Args:
        systems: One or more of one name and kind.
    Raises:
        InputError: None, other names or kinds, or one of them twice.
    """
    if not systems:
        raise InputError("a system needs one training or more")
    first, *others = systems
    if names := {system.name for system in others} - {first.name}:
        raise InputError(f"{first.name!r} and {min(names)!r} are two systems, not seeds of one")
    if kinds := {system.kind for system in others} - {first.kind}:
        raise InputError(f"{first.name!r} is a {first.kind} and a {min(kinds)}: seeds are of one kind")
    for key in ("source", "digest"):
        values = [getattr(system, key) for system in systems]
        if twice := {value for value in values if value and values.count(value) > 1}:
            raise InputError(f"{first.name!r}: {key} {min(twice)} is there twice, seeds differ")
    return replace(first, repeats=tuple(others))


def compare(
    systems: Sequence[System],
    manifest: pd.DataFrame,
    by: Sequence[str] = ("age_band", "gender", "ethnicity"),
    *,
    split: str | None = None,
    quoted: Sequence[QuotedSystem] = (),
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
        allow_missing: Count and name the paths that only one side has instead of raising.
        meaning: What the labels are, one of :data:`~agelens.reports.report.LABELS`, for the stamp.
        latency: Time the models.
        replicates: Bootstrap replicates.
        level: Level of the intervals.
        seed: Seed of the bootstrap.
    Returns:
        The comparison.
    Raises:
        InputError: Fewer than two systems, a name twice, no such grouping or split, or no image that all
            systems answered.
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
    evaluations = [
        evaluate(
            training.predictions,
            labels,
            (),
            calibration=training.calibration,
            allow_missing=True,
            replicates=replicates,
            level=level,
            seed=seed,
            system=training.name,
        )
        for training in trained
    ]
    by_seed = _scores(evaluations)
    members = np.split(np.arange(len(trained)), ends[:-1])
    scores = {
        metric: np.column_stack([values[:, rows].mean(axis=1) for rows in members])
        for metric, values in by_seed.items()
    }
    groupings = {name: group(name, evaluations[0].labels) for name in split_groupings(by)}
    found = [grouping for grouping in groupings.values() if grouping is not None]
    persons = people(evaluations[0].labels)
    differences, groups, intervals = _paired(names, scores, found, persons, replicates, level, seed)
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
                metrics=intervals[number] if several[number] else evaluations[rows[0]].overall,
                cost=costs.get(system.name),
                mae_by_seed=tuple(by_seed["MAE"][:, rows].mean(axis=0).tolist()) if several[number] else (),
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
    )


def measure_latency(models: Mapping[str, Path], repeats: int = _REPEATS) -> dict[str, Latency]:
    """Time model files on one crop and one thread, taking turns.

    Only the network is timed, from crop to age: detection and alignment are the same for all. The pixels are
    noise; the time does not depend on them.

    Args:
        models: Name to file.
        repeats: Turns of each that count.
    Returns:
        Name to time.
    Raises:
        ModelFileError: A file cannot be used.
    """
    random = np.random.default_rng(0)
    prepared = {}
    for name, path in models.items():
        session, card = open_model(path, threads=1)
        size = int(card.geometry["size"])
        prepared[name] = session, {"images": random.integers(0, 256, (1, size, size, 3), dtype=np.uint8)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(_WARM_UP + repeats):
        for name, (session, feed) in prepared.items():
            start, busy = perf_counter(), thread_time()
            session.run(None, feed)  # on one thread: this one
            if turn >= _WARM_UP:
                times[name].append((1000 * (perf_counter() - start), 1000 * (thread_time() - busy)))
    found = {}
    for name, taken in times.items():
        clock, processor = np.array(taken).T
        median, low, high = np.quantile(clock, [0.5, 0.1, 0.9]).tolist()
        found[name] = Latency(median, low, high, float(np.median(processor)), repeats)
    return found


def stored_weights(path: str | Path) -> int | None:
    """Count the numbers stored in a model file: weights, biases, and a handful of constants.

    Batch norms are folded into the convolutions there, so it is a little less than the trained network has.

    Args:
        path: The model file.
    Returns:
        The count; None where the package ``onnx`` is not installed.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ModuleNotFoundError:
        return None
    indices = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return sum(math.prod(map(int, tensor.dims)) for tensor in tensors if tensor.data_type not in indices)


def write_report(comparison: Comparison, folder: str | Path) -> None:
    """Write ``comparison.html``, ``comparison.json``, ``systems.csv``, ``differences.csv``, ``groups.csv``.

    Each file is written whole or not at all.

    Raises:
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    with write_atomically(out / "comparison.json") as temporary:
        temporary.write_text(
            json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    _write_csv(out / "systems.csv", comparison.system_rows())
    _write_csv(out / "differences.csv", difference_rows(comparison))
    if comparison.groups:
        _write_csv(out / "groups.csv", group_rows(comparison))
    title = " against ".join(system.name for system in comparison.systems)
    write_page(out / "comparison.html", title, _stamp(comparison), _sections(comparison))


def group_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Give the groups as text: MAE of each system and who is best."""
    return [
        {
            "grouping": verdict.grouping,
            "group": verdict.group,
            "images": str(verdict.count),
            "people": str(verdict.people),
            **{
                f"MAE of {system.name}": f"{verdict.mae[system.name]:.2f}" if verdict.mae else TOO_FEW
                for system in comparison.systems
            },
            "best by MAE": verdict.verdict,
        }
        for verdict in comparison.groups
    ]


def _scores(evaluations: Sequence[Evaluation]) -> dict[str, FloatArray]:
    """Per-image scores (N, S) whose means are the metrics."""
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


def _paired(
    names: Sequence[str],
    scores: Mapping[str, FloatArray],
    groupings: Sequence[Grouping],
    persons: NDArray[np.int64],
    replicates: int,
    level: float,
    seed: int,
) -> tuple[list[PairedDifference], list[GroupVerdict], list[dict[str, BootstrapInterval]]]:
    """Compare all pairs on all images, and in each group by MAE, from one set of draws of people.

    Third is the interval of each system's mean scores.
    """
    errors, systems = scores["MAE"], len(names)
    partitions = [
        Partition(np.zeros(len(errors), dtype=np.int64), 1),
        *(Partition(grouping.codes, len(grouping.groups), tuple(range(systems))) for grouping in groupings),
    ]
    columns = np.concatenate(list(scores.values()), axis=1)  # MAE first
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
            PairedDifference(metric, a, b, found, number_of_people) for (a, b), found in compared.items()
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
            mae = errors[members].mean(axis=0)
            compared = _pairs(names, mae, means[:, position], level)
            verdicts.append(_verdict(grouping.name, name, int(members.sum()), number, names, mae, compared))
    return differences, verdicts, intervals


def _pairs(
    names: Sequence[str], means: FloatArray, drawn: FloatArray, level: float
) -> dict[tuple[str, str], PairedComparison]:
    """Compare every pair of systems: means (S,), draws (R, S); as ``metrics.paired_bootstrap`` does."""
    tails, replicates = [(1 - level) / 2, (1 + level) / 2], len(drawn)
    found = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        differences = drawn[:, i] - drawn[:, j]
        low, high = np.nanquantile(differences, tails).tolist()
        beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
        p = min(1.0, 2 * (beyond + 1) / (replicates + 1))
        found[a, b] = PairedComparison(float(means[i] - means[j]), low, high, p)
    return found


def _verdict(
    grouping: str,
    name: str,
    count: int,
    number: int,
    names: Sequence[str],
    mae: FloatArray,
    compared: Mapping[tuple[str, str], PairedComparison],
) -> GroupVerdict:
    means = dict(zip(names, mae.tolist(), strict=True))
    lowest = min(means, key=lambda system: means[system])
    against = {}
    for (a, b), found in compared.items():
        if a == lowest:
            against[b] = found
        elif b == lowest:
            against[a] = PairedComparison(-found.difference, -found.high, -found.low, found.p)
    winner = lowest if all(_excludes_zero(found) for found in against.values()) else None
    return GroupVerdict(grouping, name, count, number, means, lowest, winner, against)


def _costs(systems: Sequence[System], latency: bool) -> dict[str, Cost]:
    models = {system.name: system.model for system in systems if system.model is not None}
    times = measure_latency(models) if latency else {}
    return {
        name: Cost(times.get(name), path.stat().st_size, stored_weights(path))
        for name, path in models.items()
    }


def _excludes_zero(found: PairedComparison) -> bool:
    return found.low > 0 or found.high < 0


def _stamp(comparison: Comparison) -> dict[str, str]:
    stamp = dict(comparison.facts)
    stamp["images"] = f"{comparison.images} that every system answered"
    for system in comparison.systems:
        if system.digest:
            stamp[f"weights of {system.name}"] = system.digest
    return stamp


def _sections(comparison: Comparison) -> list[Section]:
    return [
        Section("Systems", tuple(_system_blocks(comparison))),
        Section("Paired differences", tuple(_difference_blocks(comparison))),
        *([Section("Groups", tuple(_group_blocks(comparison)))] if comparison.groups else []),
        *([Section("Accuracy against cost", plots)] if (plots := _pareto_plots(comparison)) else []),
    ]


def _system_blocks(comparison: Comparison) -> list[Text | Table]:
    blocks: list[Text | Table] = []
    if comparison.left_out:
        blocks.append(
            Text(
                f"{comparison.left_out} images that some system answered and another did not are left out "
                "of all figures.",
                warning=True,
            )
        )
    if comparison.absent:
        blocks.append(Text(f"The manifest has no values for: {', '.join(comparison.absent)}.", warning=True))
    rows = comparison.system_rows()
    blocks.append(
        _table(
            "Accuracy",
            [_only(row, ("system", "kind", "MAE by seed", *_SHOWN, "not answered")) for row in rows],
            names=2,
            note="[bootstrap interval] on the images that every system answered. Quoted rows are figures "
            "that others printed, under the protocol named below, not measured on these images; they enter "
            "no difference."
            if comparison.quoted
            else "[bootstrap interval] on the images that every system answered.",
        )
    )
    if any(row[name] for row in rows for name in _COSTS):
        blocks.append(
            _table(
                "Cost",
                [
                    _only(row, ("system", "kind", *_COSTS))
                    for row in rows
                    if any(row[name] for name in _COSTS)
                ],
                names=2,
                note="Latency: the network alone on one crop, one thread, median by the clock [central 80 %];"
                " the models took turns; where it is far above the processor's time, the machine was busy. "
                "Weights: numbers stored in the file.",
            )
        )
    if comparison.quoted:
        quoted = [_only(row, ("system", "source", "note")) for row in rows if row["kind"] == _QUOTED]
        blocks.append(_table("Quoted from", quoted, names=3))
    for system in comparison.systems:
        for what, paths in (
            ("could not be estimated", [path for path, _ in system.failed]),
            ("have no prediction", list(system.missing)),
            ("are predicted but not in the manifest", list(system.unknown)),
        ):
            if paths:
                named = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
                blocks.append(Text(f"{system.name}: {len(paths)} images {what}: {named}", warning=True))
    return blocks


def _difference_blocks(comparison: Comparison) -> list[Text | Table]:
    return [
        Text(
            "First system minus second, on the same images in every draw. A difference is shown where the "
            f"interval excludes zero; fewer than {SMALL_GROUP} people are too few to tell. The intervals are "
            "not widened for the number of comparisons."
        ),
        _table("Differences", difference_rows(comparison), names=3),
    ]


def difference_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Give the paired differences as text."""
    rows = []
    for row in comparison.differences:
        digits = 2 if row.metric.startswith("CA") else 3
        found = row.found
        rows.append(
            {
                "metric": row.metric,
                "first": row.a,
                "second": row.b,
                "difference": TOO_FEW
                if row.rate_hidden
                else "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(
                    found.difference, found.low, found.high, d=digits
                ),
                "p": "" if row.rate_hidden else f"{found.p:.4f}",
                "verdict": TOO_FEW if row.people < SMALL_GROUP else _better(row) if row.shown else _NOT_SHOWN,
            }
        )
    return rows


def _better(row: PairedDifference) -> str:
    smaller_is_better = not row.metric.startswith("CA")
    return f"{row.a if (row.found.difference < 0) == smaller_is_better else row.b} is better"


def _group_blocks(comparison: Comparison) -> list[Text | Table]:
    return [
        Text(
            "A system is best in a group where its paired interval against every other one excludes zero; "
            f"groups of fewer than {SMALL_GROUP} people are too few to tell. With many groups a few such "
            "intervals exclude zero by chance."
        ),
        _table("MAE by group", group_rows(comparison), names=2),
    ]


def _pareto_plots(comparison: Comparison) -> tuple[Drawing, ...]:
    costs: dict[str, tuple[str, dict[str, float], dict[str, float]]] = {
        "latency": ("processor time on one thread [ms]", {}, {}),
        "size": ("size of the file [MB]", {}, {}),
        "weights": ("weights [millions]", {}, {}),
    }
    for system in comparison.systems:
        if system.cost is None:
            continue
        if system.cost.latency is not None:
            costs["latency"][1][system.name] = system.cost.latency.processor
        costs["size"][1][system.name] = system.cost.size / 1e6
        if system.cost.weights is not None:
            costs["weights"][1][system.name] = system.cost.weights / 1e6
    mae = {system.name: system.metrics["MAE"] for system in comparison.systems}
    quoted_mae: dict[str, float] = {}
    for row in comparison.quoted:
        if "MAE" not in row.metrics:
            continue
        label = f"{row.name} ({row.source})"
        quoted_mae[label] = float(row.metrics["MAE"].split(" ")[0])
        if row.size is not None:
            costs["size"][2][label] = row.size / 1e6
        if row.parameters is not None:
            costs["weights"][2][label] = row.parameters / 1e6
    return tuple(
        drawing(
            f"pareto-{name}",
            _pareto_figure(label, measured, mae, quoted, quoted_mae),
            f"MAE against {label}: lower left is better. Filled: measured here, with the interval of its MAE;"
            " the line joins the systems that no other one beats on both."
            + (" Hollow: quoted, under its own protocol." if quoted else ""),
        )
        for name, (label, measured, quoted) in costs.items()
        if measured
    )


def _pareto_figure(
    label: str,
    measured: Mapping[str, float],
    mae: Mapping[str, BootstrapInterval],
    quoted: Mapping[str, float],
    quoted_mae: Mapping[str, float],
) -> Figure:
    with plot_style():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        front = pareto_front({name: (cost, mae[name].value) for name, cost in measured.items()})
        axes.plot([measured[name] for name in front], [mae[name].value for name in front], "--", color="0.6")
        for name, cost in measured.items():
            value = mae[name]
            reach = [[value.value - value.low], [value.high - value.value]]
            axes.errorbar(cost, value.value, yerr=reach, fmt="o", capsize=3, label=name)
        for number, (name, cost) in enumerate(quoted.items(), start=1):
            axes.plot(cost, quoted_mae[name], "o", mfc="none", color="0.35", label=f"{number}: {name}")
            axes.annotate(
                str(number), (cost, quoted_mae[name]), xytext=(4, 4), textcoords="offset points", fontsize=7
            )
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("MAE [years]")
        figure.legend(loc="outside lower left", fontsize=7)
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Give the systems that no other beats on both cost and error, cheapest first.

    >>> pareto_front({"small": (1.0, 5.0), "large": (9.0, 4.0), "worse": (9.5, 4.5)})
    ['small', 'large']

    Args:
        points: Name to cost and error, smaller is better for both.
    Returns:
        Names. One that equals another on both stays.
    """
    best = math.inf
    front: list[str] = []
    last = (math.nan, math.nan)
    for name, point in sorted(points.items(), key=lambda item: item[1]):
        if point[1] < best or point == last:
            front.append(name)
            best, last = point[1], point
    return front


def _table(caption: str, rows: Sequence[Mapping[str, str]], names: int, note: str = "") -> Table:
    return Table(caption, tuple(rows[0]), tuple(tuple(row.values()) for row in rows), names, note)


def _only(row: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: row[name] for name in names if name in row}


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as handle,
    ):
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _by_seed(system: SystemResult) -> str:
    """``5.95, 5.96, 5.96 (sd 0.004)``; empty for a single training."""
    found = system.mae_by_seed
    return f"{', '.join(f'{mae:.2f}' for mae in found)} (sd {np.std(found, ddof=1):.3f})" if found else ""


def _union(parts: Iterable[Sequence[_Item]]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _interval(interval: BootstrapInterval | None) -> str:
    if interval is None or not math.isfinite(interval.value):
        return ""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _latency(cost: Cost | None) -> str:
    if cost is None or cost.latency is None:
        return ""
    return f"{cost.latency.median:.2f} [{cost.latency.low:.2f}, {cost.latency.high:.2f}]"


def _processor(cost: Cost | None) -> str:
    return "" if cost is None or cost.latency is None else f"{cost.latency.processor:.2f}"


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f}M"
