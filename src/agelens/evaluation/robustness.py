"""A model on the same faces under other conditions: light, quality, alignment, covered parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens import metrics
from agelens.calibration import LEVEL_GRID, Calibration, conformal_scores
from agelens.data.crop_set import CropSet, load_crops
from agelens.data.geometry import crop_geometry, require_geometry
from agelens.data.manifest import read_manifest
from agelens.errors import InputError
from agelens.evaluation.band_measures import labels_are_bands
from agelens.evaluation.conditions import CONDITIONS, under_condition
from agelens.evaluation.predict import selected_rows
from agelens.faces.crops import resize_aligned
from agelens.files import write_atomically
from agelens.inference.estimator import AgeEstimator
from agelens.metrics import BootstrapInterval, PairedComparison

__all__ = ["PLAIN", "ConditionResult", "robustness", "write_examples"]

PLAIN = "as it is"
"""The crops without any condition."""

_BATCH = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ConditionResult:
    """A model under one condition.

    Attributes:
        condition: A key of `CONDITIONS`, or `PLAIN`.
        images: Their number.
        error: Mean distance of the estimates to the labels in years (the MAE; to bands, 0 inside), and its
            bootstrap interval.
        change: Against the same images without a condition, paired; None for those.
        bias: Mean signed distance, years.
        coverage: Share of the labels in the intervals, 0 … 1; of bands as the distribution lies in them.
        width: Mean width of the intervals, years.
    """

    condition: str
    images: int
    error: BootstrapInterval
    change: PairedComparison | None
    bias: float
    coverage: float
    width: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        change = self.change
        return {
            "condition": self.condition,
            "images": self.images,
            "error": [self.error.value, self.error.low, self.error.high],
            "change": None if change is None else [change.difference, change.low, change.high],
            "bias": self.bias,
            "coverage": self.coverage,
            "width": self.width,
        }


def robustness(
    model: str | Path,
    manifest: str | Path,
    *,
    split: str | None = "test",
    conditions: Sequence[str] = tuple(CONDITIONS),
    level: float = 0.9,
    replicates: int = 2000,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[ConditionResult]:
    """Judge a model on the crops of a manifest as they are, and under each condition.

    Args:
        model: Name of a shipped model, or a model file.
        manifest: Aligned crops with ages, or with bands.
        split: The rows to use; None for all.
        conditions: Keys of `CONDITIONS`.
        level: Coverage of the intervals.
        replicates: Bootstrap draws, over images.
        threads: Of the network.
        progress: Called with (images done, of all).
    Returns:
        A result for the crops as they are, and one a condition.
    Raises:
        InputError: An unknown condition, no such rows, labels of two kinds or none, crops of another geometry
            than the model's.
        ModelFileError: Not a model file of ours.
    """
    unknown = [name for name in conditions if name not in CONDITIONS]
    if unknown:
        raise InputError(f"there is no condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}")
    rows = selected_rows(read_manifest(manifest), split)
    labels_are_bands(rows)
    estimator = AgeEstimator(model, threads=threads)
    require_geometry(rows, estimator.geometry)
    landmarks = np.asarray(estimator.geometry.template, np.float64)
    crops = load_crops(rows, cache=False)
    ages = crops.ages.astype(np.float64)
    bounds = np.stack([ages, ages], axis=1) if crops.bounds is None else crops.bounds.astype(np.float64)
    if np.isnan(bounds).any():
        raise InputError(f"{manifest}: {int(np.isnan(bounds[:, 0]).sum())} images have no age")
    calibration = estimator.card.calibration or Calibration(1.0, LEVEL_GRID, LEVEL_GRID, 1, "")
    bins, asked = estimator.card.age_bins, (PLAIN, *dict.fromkeys(conditions))
    results: list[ConditionResult] = []
    plain: NDArray[np.float64] | None = None
    for number, condition in enumerate(asked):

        def report(done: int, number: int = number) -> None:
            if progress is not None:
                progress(number * len(crops) + done, len(asked) * len(crops))

        estimates, distribution = _answers(estimator, crops, condition, landmarks, report)
        low, high = bounds.T
        signed = np.where(estimates < low, estimates - low, np.maximum(estimates - high, 0.0))
        errors = np.abs(signed)
        scores = conformal_scores(distribution, ages, bins, bounds)
        ends = calibration.interval(distribution, bins, level)
        results.append(
            ConditionResult(
                condition,
                len(crops),
                metrics.bootstrap_interval(errors, replicates=replicates),
                None if plain is None else metrics.paired_bootstrap(errors, plain, replicates),
                float(signed.mean()),
                float((scores <= calibration.nominal_level(level)).mean()),
                float((ends[1] - ends[0]).mean()),
            )
        )
        plain = errors if plain is None else plain
    return results


def write_examples(
    manifest: str | Path, folder: str | Path, *, split: str | None = "test", conditions: Sequence[str]
) -> list[Path]:
    """Write the first crop of a split under each condition, to look at.

    Args:
        manifest: Aligned crops.
        folder: Made if need be; each picture is called as its condition.
        split: The rows to use; None for all.
        conditions: Keys of `CONDITIONS`.
    Returns:
        The pictures.
    Raises:
        InputError: No such rows, or crops of an unknown geometry.
        OutputError: The folder cannot be written.
    """
    rows = selected_rows(read_manifest(manifest), split).iloc[:1]
    geometry = crop_geometry(rows)
    if geometry is None:
        raise InputError(
            f"{manifest}: crops of an unknown geometry; agelens prepare makes crops of a known one"
        )
    landmarks = np.asarray(geometry.template, np.float64)
    crop = load_crops(rows, cache=False).crops(slice(0, 1))[0]
    written = []
    for condition in conditions:
        written.append(Path(folder) / f"{condition}.png")
        with write_atomically(written[-1]) as temporary:
            spoilt = under_condition(crop, condition, landmarks * len(crop))
            Image.fromarray(spoilt).save(temporary, "PNG")
    return written


def _answers(
    estimator: AgeEstimator,
    crops: CropSet,
    condition: str,
    landmarks: NDArray[np.float64],
    report: Callable[[int], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) estimates and (N, K) distributions of the crops under a condition."""
    size, side = estimator.geometry.size, crops.side
    ages, distributions = [], []
    for start in range(0, len(crops), _BATCH):
        block = crops.crops(slice(start, start + _BATCH))
        if condition != PLAIN:
            seeds = range(start, start + len(block))
            spoilt = [
                under_condition(crop, condition, landmarks * side, seed)
                for crop, seed in zip(block, seeds, strict=True)
            ]
            block = np.stack(spoilt)
        outputs = estimator.estimate_aligned(np.stack([resize_aligned(crop, size) for crop in block]))
        ages.append(outputs[0].astype(np.float64))
        distributions.append(outputs[1].astype(np.float64))
        report(start + len(block))
    return np.concatenate(ages), np.concatenate(distributions)
