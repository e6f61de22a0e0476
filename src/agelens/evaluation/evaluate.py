"""From predictions and labels to metrics, by group, with bootstrap intervals.

Metrics use the true ages, also those outside a model's bins. Images for which a system gave no age are
counted and named, never left out silently: ``failed``, ``missing``, ``unknown``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Sequence
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
from agelens.data.pooled import rows_tested
from agelens.data.predictions import Predictions
from agelens.errors import InputError
from agelens.evaluation.band_measures import (
    all_bands,
    band_measures,
    censored_pit_histogram,
    labels_are_bands,
)
from agelens.evaluation.estimates import with_estimate
from agelens.evaluation.groups import Grouping, check_groupings, group, people
from agelens.evaluation.measures import (
    group_results,
    interval_measures,
    point_measures,
    reliability_bins,
    score_measures,
    stated_measures,
    threshold_measures,
)
from agelens.evaluation.predict import image_kind
from agelens.evaluation.results import SMALL_GROUP, GroupResult, ReliabilityBin, json_value, reported
from agelens.evaluation.systems import System, folds_of, open_system
from agelens.faces.crops import ImageKind
from agelens.files import write_atomically
from agelens.metrics import AAR, BootstrapInterval
from agelens.reading import NETWORK_BYTES, read_bytes

__all__ = ["Evaluation", "evaluate", "evaluate_system"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of a system on a labelled set of images.

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
        predictions: What was evaluated; their column ``age`` holds the selected estimate.
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
        protocol: Name of the protocol whose test images these are; None for a split of the manifest.
        protocol_digest: Digest of its folds.
        image_kind: Content of the images that the system saw; empty for a table of predictions.
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
    protocol: str | None = None
    protocol_digest: str = ""
    image_kind: str = ""

    @property
    def ages(self) -> FloatArray:
        """(M,) true ages, years; NaN where the labels are bands."""
        return self.labels["age"].to_numpy(dtype=np.float64)

    @property
    def banded(self) -> bool:
        """Whether the labels are age bands."""
        return labels_are_bands(self.labels)

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
            "results": [asdict(reported(result)) for result in self.results],
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


def evaluate(
    predictions: Predictions,
    manifest: pd.DataFrame,
    by: Sequence[str] = ("age_band", "gender", "ethnicity"),
    *,
    calibration: Calibration | None = None,
    split: str | None = None,
    estimate: str = "age",
    threshold: float = 18,
    allow_missing: bool = False,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    system: str | None = None,
    digest: str | None = None,
    bands: FloatArray | None = None,
) -> Evaluation:
    """Compare predictions with labels.

    Always: ``MAE``, ``RMSE``, ``bias`` (positive = too old), ``CA(3)``, ``CA(5)``, ``CA(7)``, ``AAR`` (not
    within groups of age). With distributions: coverage (0 … 1) and mean width of the central intervals,
    ``CRPS``, ``NLL``, and accuracy (P >= 0.5) and Brier score of P(age >= threshold). With the columns
    ``low`` and ``high`` for every image: ``coverage(stated)`` and ``width(stated)``. With voters' deviations
    for every image (``age_std``): ``ε-error``. Where the labels are bands: the metrics of
    :func:`agelens.evaluation.band_measures.band_measures` in place of all of these.

    Args:
        predictions: Of a system.
        manifest: Checked manifest: what is true.
        by: Groupings (:mod:`agelens.evaluation.groups`): ``age_band``, ``pose``, a column of the manifest, a
            crossing as ``gender:ethnicity`` (of which the metrics are `IN_CROSSINGS`) …
        calibration: The model's, for its conformal intervals; without one, intervals are plain central mass.
        split: Only these rows of the manifest; None for all.
        estimate: ``age``, or one of `~agelens.evaluation.estimates.ESTIMATES`.
        threshold: Years for P(age >= threshold).
        allow_missing: Count and name the paths that only one side has instead of raising.
        replicates: Bootstrap replicates.
        level: Level of the bootstrap intervals.
        seed: Seed of the bootstrap.
        system: Name of what is evaluated; by default the source of the predictions.
        digest: The model's; by default the sha256 of the file of the predictions, if they came from one.
        bands: (M, 2) the bands of which the most probable one is taken; None: all of the manifest.
    Returns:
        The evaluation.
    Raises:
        InputError: A grouping is no column, the manifest has no row of this split, or its labels are partly
            ages and partly bands.
        PredictionsError: A path occurs on one side only and ``allow_missing`` is false, or none matches.
        ValueError: ``level`` or ``replicates`` cannot be used.
    """
    named = predictions.source if system is None else system
    predictions = with_estimate(predictions, estimate)
    match = match_manifest(predictions, manifest, split, allow_missing)
    labels = manifest.iloc[match.labelled].reset_index(drop=True)
    persons = people(labels)
    ages = labels["age"].to_numpy(dtype=np.float64)
    said = predictions.frame.iloc[match.predicted].reset_index(drop=True)
    estimates = said["age"].to_numpy(dtype=np.float64)
    reliability: tuple[ReliabilityBin, ...] = ()
    pit_histogram: tuple[float, ...] = ()
    banded = labels_are_bands(labels)
    if banded:
        held = predictions.distribution
        distribution = None if held is None else held[match.predicted]
        bands = all_bands(manifest) if bands is None else bands
        measures = band_measures(estimates, labels, distribution, predictions.bins, calibration, bands)
        if distribution is not None and predictions.bins is not None:
            pit_histogram = censored_pit_histogram(distribution, predictions.bins, labels)
    else:
        measures = point_measures(estimates, labels) + stated_measures(said, ages)
    if not banded and predictions.distribution is not None and predictions.bins is not None:
        distribution, bins = predictions.distribution[match.predicted], predictions.bins
        adult = label_distribution.probability_at_least(distribution, bins, threshold)
        measures += interval_measures(distribution, bins, ages, calibration)
        measures += [
            *score_measures(distribution, bins, ages),
            *threshold_measures(adult, ages >= threshold, threshold),
        ]
        reliability = reliability_bins(adult, ages >= threshold, persons)
        shares, _ = np.histogram(metrics.pit(distribution, bins, ages), bins=10, range=(0.0, 1.0))
        pit_histogram = tuple(float(share) for share in shares / len(ages))
    groupings, absent = [Grouping("all", ("all",), np.zeros(len(ages), dtype=np.int64))], []
    for name in by:
        grouping = group(name, labels)
        if grouping is None:
            absent.append(name)
        else:
            groupings.append(grouping)
    results = group_results(measures, groupings, persons, replicates, level, seed)
    return Evaluation(
        system=f"{named} ({estimate} of the distribution)" if estimate != "age" else named,
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
        aar=None if banded or math.isnan(results[0].metrics["AAR"].value) else metrics.aar(estimates, ages),
        reliability=reliability,
        pit_histogram=pit_histogram,
        absent=tuple(absent),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def evaluate_system(
    system: str | Path | System,
    manifest: str | Path | pd.DataFrame,
    split: str | None = None,
    images: ImageKind | str = ImageKind.ALIGNED,
    *,
    by: Sequence[str] = ("age_band", "gender", "ethnicity"),
    protocol: str | None = None,
    estimate: str = "age",
    threshold: float = 18,
    allow_missing: bool = False,
    replicates: int = 2000,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model, a run, a run over folds or a table of predictions on a labelled set of images.

    Args:
        system: Opened, or what :func:`~agelens.evaluation.systems.open_system` opens.
        manifest: File, or a checked manifest.
        split: ``train``, ``val``, ``test`` or ``all``; None: the test images of the protocol, else ``test``.
        images: Content of the images: ``aligned`` (in the model's geometry), ``chips`` (still to be detected
            and aligned, with its fallback) or ``photos`` (the largest face of each); of no use to a table.
        by: Groupings, as in :func:`evaluate`.
        protocol: Judge the test images of all folds of this protocol; by default of a run over folds its own.
        estimate: As in :func:`evaluate`.
        threshold: Years for P(age >= threshold).
        allow_missing: As in :func:`evaluate`.
        replicates: Bootstrap replicates.
        seed: Seed of the bootstrap.
        threads: Threads of the network.
        progress: Called with the number of images done so far, and of all.
    Returns:
        The evaluation; its ``predictions`` are the system's.
    Raises:
        ModelFileError: The model file cannot be used.
        RunError: The run cannot be used.
        ManifestError: The manifest cannot be used.
        SplitError: The protocol gives other folds here than the run was trained on.
        InputError: An argument cannot be used, or the manifest has no row of this split.
        PredictionsError: No image has an estimate, or as in :func:`evaluate`.
    """
    labels = manifest if isinstance(manifest, pd.DataFrame) else read_manifest(manifest)
    check_groupings(by, labels)
    with contextlib.ExitStack() as stack:
        opened = system if isinstance(system, System) else stack.enter_context(open_system(system))
        folds = folds_of(opened)
        named = protocol or (None if folds is None else folds.protocol)
        rows, part, digest = labels, None if split == "all" else split or "test", ""
        if named is not None:
            if split is not None:
                raise InputError(f"--split {split} and the protocol {named} say both what is tested")
            same = folds is not None and named == folds.protocol
            rows, digest = rows_tested(labels, named, folds.digest if folds and same else None)
            part = None
        answers = opened.answer(
            rows, split=part, images=images, threshold=threshold, threads=threads, progress=progress
        )
    evaluation = evaluate(
        answers.predictions,
        rows,
        by,
        calibration=answers.calibration,
        split=part,
        estimate=estimate,
        threshold=threshold,
        allow_missing=allow_missing,
        replicates=replicates,
        seed=seed,
        digest=answers.digest or None,
    )
    kind = "" if answers.kind == "predictions" else str(image_kind(images))
    return replace(evaluation, protocol=named, protocol_digest=digest, image_kind=kind)


def _intervals_name(predictions: Predictions, calibration: Calibration | None) -> str:
    if predictions.distribution is None:
        return "none"
    return "central mass" if calibration is None else "conformal"


def _file_digest(source: str) -> str:
    try:
        return hashlib.sha256(read_bytes(source, NETWORK_BYTES)).hexdigest()
    except OSError:
        return ""
