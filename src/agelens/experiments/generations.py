"""The table of a refinery: every generation, every head, on one split, with paired intervals.

The form of LRN's Tables 7 and 8: rows are generations (and other runs, such as the control of equal compute),
columns the estimates of the distribution head, the regression head and both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.evaluation.band_measures import require_ages
from agelens.label_distribution import AgeBins
from agelens.metrics import cumulative_accuracy, mae, paired_bootstrap
from agelens.training.fit import CropOutputs, run_on_crops
from agelens.training.run import Run, load_stage

__all__ = ["GenerationRow", "estimate_stage", "generation_table", "named_estimates"]


@dataclass(frozen=True)
class GenerationRow:
    """One estimate of one stage.

    Attributes:
        run: Folder name of the run.
        stage: E.g. ``generation-2``.
        estimate: ``ldl``, ``reg``, ``age`` (Eq. 20: the mean of both; what the network answers), or
            ``argmax``, the most probable age, which is not logged in training.
        figures: ``MAE``, ``CA(3)``, ``CA(5)``, ``CA(7)`` and the validation ``val MAE`` of the same estimate.
        difference: MAE minus the first row's of the same estimate, years; with its 95 % paired bootstrap
            interval. None on the first stage.
    """

    run: str
    stage: str
    estimate: str
    figures: Mapping[str, float]
    difference: tuple[float, float, float] | None


def estimate_stage(run: Run, stage: str, manifest: pd.DataFrame) -> CropOutputs:
    """Estimates of a finished stage for every row of a prepared manifest, mirrored if its recipe says so."""
    return run_on_crops(load_stage(run, stage), load_crops(manifest), run.recipe.network.input_size)


def named_estimates(
    arrays: Mapping[str, NDArray[np.float64]], bins: AgeBins
) -> dict[str, NDArray[np.float64]]:
    """The estimates (N,) of a stage by name: of its heads, ``age``, and ``argmax``, the most probable age.

    Args:
        arrays: Of :meth:`agelens.training.stage.CropOutputs.arrays`, or of ``validation.npz``.
        bins: The K ages of its logits.
    """
    named = {name: arrays[name] for name in ("ldl", "reg", "age") if name in arrays}
    if "ldl" in named and "logits" in arrays:
        named["argmax"] = np.asarray(bins.ages[arrays["logits"].argmax(axis=1)], dtype=np.float64)
    return named


def generation_table(
    runs: Sequence[str | Path], manifest: str | Path, split: str = "test", replicates: int = 2000
) -> list[GenerationRow]:
    """Judge every finished stage of some runs on one split; stages that estimate no ages are left out.

    Differences are paired: both networks see the same resampled images. The first stage of the first run is
    what the others are compared with.

    Args:
        runs: Run folders; the first one's first stage is the reference.
        manifest: Prepared manifest.
        split: Its rows to judge on.
        replicates: Of the bootstrap.
    Returns:
        A row a stage and estimate, in order.
    Raises:
        SplitError: The manifest has no such rows.
        InputError: Their labels are age bands.
    """
    selected = required_rows(read_manifest(manifest), split, manifest)
    require_ages(selected, "the table of generations")
    ages = selected["age"].to_numpy(dtype=np.float64)
    reference: dict[str, NDArray[np.float64]] = {}
    table: list[GenerationRow] = []
    for folder in runs:
        run = Run.open(folder)
        for stage in run.finished_stages():
            validation = run.read_json(stage, "validation.json").get("estimates")
            if validation is None:  # a ranker, or the hints: no ages
                continue
            arrays = estimate_stage(run, stage, selected).arrays()
            for name, values in named_estimates(arrays, AgeBins.parse(run.fact("age_bins"))).items():
                figures = {"MAE": mae(values, ages)}
                figures |= {f"CA({n})": cumulative_accuracy(values, ages, n) for n in (3, 5, 7)}
                figures["val MAE"] = float(validation.get(name, {}).get("MAE", math.nan))
                errors = np.abs(values - ages)
                difference = None
                if name in reference:
                    comparison = paired_bootstrap(errors, reference[name], replicates)
                    difference = (comparison.difference, comparison.low, comparison.high)
                reference.setdefault(name, errors)
                table.append(GenerationRow(run.path.name, stage, name, figures, difference))
    return table
