"""All folds of a protocol: each trained and tested, resumed where it stopped, pooled.

::

    RUN/
      folds.json …           record and results (agelens.data.pooled)
      fold-01/               a run folder as always, with the fold's split in it
        test.npz             the fold's network on its test images (its presence: the fold is done)
      …

A fold's network is the stage that its own validation selects, calibrated on its own validation images: the
test images decide nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import PartialState
from numpy.typing import NDArray

from agelens.data.crop_set import load_crops
from agelens.data.geometry import GEOMETRY_NAME
from agelens.data.manifest import read_manifest, write_manifest
from agelens.data.pooled import (
    RECORD_NAME,
    FoldResult,
    FoldsResult,
    read_record,
    write_record,
    write_results,
)
from agelens.data.predictions import Predictions
from agelens.data.protocol_split import Fold, ProtocolSplit, apply_protocol
from agelens.data.protocols import Protocol, load_protocol
from agelens.errors import RunError, SplitError
from agelens.evaluation.band_measures import require_ages
from agelens.experiments.teaching import start_path
from agelens.experiments.train import train
from agelens.files import is_leftover, write_atomically
from agelens.label_distribution import AgeBins, probability_at_least, softmax
from agelens.metrics import mae
from agelens.training.fit import Reporter, run_on_crops
from agelens.training.recipe import Recipe
from agelens.training.run import Run, best_stage, fit_calibration, load_stage, validation_mae

__all__ = ["train_folds"]

FOLDS_FORMAT = 1

_TEST = "test.npz"
_INTERVAL_LEVEL, _THRESHOLD = 0.9, 18.0  # of low … high and p_at_least, as predict's defaults


def train_folds(
    recipe: Recipe,
    manifest: str | Path,
    out: str | Path,
    protocol: str | Protocol,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    random_start: bool = False,
    reporter: Reporter | None = None,
    note: Callable[[str], None] | None = None,
    cache: str | Path | None = None,
    cpu: bool = False,
) -> FoldsResult:
    """Train and test every fold of a protocol, and pool the test predictions.

    Stopped at any moment, it goes on at the fold, and inside the fold at the epoch, where it stopped.

    Args:
        recipe: What each fold does.
        manifest: CSV or Parquet of aligned crops of one size; its own ``split`` is not used.
        out: The folder of the run.
        protocol: A protocol or its name (:func:`agelens.data.protocols.load_protocol`).
        resume: Go on with what is in ``out`` (start it if there is nothing).
        start: As in :func:`agelens.experiments.train.train`, for each fold.
        random_start: Likewise.
        reporter: Receives steps and epochs; stages are named ``fold-01 generation-1``.
        note: Called with a line about the protocol at the start and about each fold when it is done.
        cache: Folder for the decoded crops, of one fold at a time; None: in ``out``.
        cpu: Keep to the CPU.
    Returns:
        The results; predictions are in the folder.
    Raises:
        InputError: An unknown protocol, or labels that are age bands.
        SplitError: The protocol cannot be applied to the manifest.
        RecipeError: The protocol has no validation part, and the recipe selects by it.
        RunError: ``out`` is not empty (without resume), or was started otherwise.
    """
    folder, say = Path(out), note or _nobody
    rows = read_manifest(manifest)
    require_ages(rows, "a protocol")
    named = load_protocol(protocol) if isinstance(protocol, str) else protocol
    if named.kind == "whole":
        raise SplitError(
            f"{named.name} tests nothing: make its manifest with agelens split, and train on that"
        )
    split = apply_protocol(rows, named)
    if named.validation == "none":
        settings = recipe.model_dump()
        settings["train"]["validation"] = False
        recipe = Recipe.validate(settings, recipe.name)
    state = PartialState(cpu=cpu)
    facts = {
        "format": FOLDS_FORMAT,
        "protocol": named.model_dump(mode="json", exclude={"labels"}),
        "digest": split.digest,
        "labels": _labels_digest(rows),
        "folds": len(split.folds),
        "recipe": recipe.to_toml(),
        "start": None if start is None else str(start_path(start).absolute()),
    }
    if state.is_main_process:
        _open(folder, facts, resume)
        for line in split.lines():
            say(line)
    state.wait_for_everyone()
    results: list[FoldResult] = []
    for fold in split.folds:
        if not (folder / fold.name / _TEST).exists():
            _train_fold(recipe, split, fold, folder, start, random_start, reporter, state, cache, cpu)
        if state.is_main_process:
            _tidy(folder, fold, cache)  # of finished folds, too: one may have been killed in between
        state.wait_for_everyone()
        done = _fold_result(folder, fold, rows)
        say(f"{done.fold} ({done.held_out}): MAE {done.mae:.3f} on {done.images} images")
        results.append(done)
    result = _pool(folder, split, tuple(results))
    if state.is_main_process:
        write_results(result, _predictions(folder, split, rows))
    state.wait_for_everyone()
    return result


def _open(folder: Path, facts: Mapping[str, Any], resume: bool) -> None:
    known = read_record(folder) if resume else None
    if known is not None:
        for key, value in facts.items():
            if key == "labels" and key not in known:
                continue  # begun before labels were recorded
            if known.get(key) != value:
                raise RunError(folder, f"was started with another {key}; choose another folder")
        return
    if folder.exists() and (not folder.is_dir() or not all(map(is_leftover, folder.iterdir()))):
        reason = "is not empty; pass --resume to go on with the folds in it"
        raise RunError(folder, f"is not empty and holds no {RECORD_NAME} of a protocol" if resume else reason)
    write_record(folder, facts)


def _train_fold(
    recipe: Recipe,
    split: ProtocolSplit,
    fold: Fold,
    folder: Path,
    start: str | Path | None,
    random_start: bool,
    reporter: Reporter | None,
    state: PartialState,
    cache: str | Path | None,
    cpu: bool,
) -> None:
    data, place = folder / f".{fold.name}", folder / fold.name
    if state.is_main_process:
        write_manifest(split.fold_manifest(fold), data / "manifest.csv")
        geometry = Path(split.manifest.attrs["root"]) / GEOMETRY_NAME
        if geometry.exists():
            with write_atomically(data / GEOMETRY_NAME) as temporary:
                shutil.copyfile(geometry, temporary)
    state.wait_for_everyone()
    named = None if reporter is None else _FoldReporter(reporter, fold.name)
    run = train(
        recipe,
        data / "manifest.csv",
        place,
        resume=True,
        start=start,
        random_start=random_start,
        reporter=named,
        cache=_cache(cache, folder, fold),
        cpu=cpu,
    )
    if state.is_main_process:
        _test(run, split, fold)
    state.wait_for_everyone()


def _cache(cache: str | Path | None, folder: Path, fold: Fold) -> Path | None:
    """Folder of a fold's decoded crops; None: beside its manifest."""
    return None if cache is None else Path(cache) / f"{folder.name}-{fold.name}"


def _tidy(folder: Path, fold: Fold, cache: str | Path | None) -> None:
    """Remove what a finished fold no longer needs: checkpoints, its manifest and decoded crops."""
    for checkpoint in (folder / fold.name).glob("*/checkpoint.safetensors"):
        checkpoint.unlink()  # nothing goes on from them, and folds are many
    shutil.rmtree(folder / f".{fold.name}", ignore_errors=True)
    if (decoded := _cache(cache, folder, fold)) is not None:
        shutil.rmtree(decoded, ignore_errors=True)


def _labels_digest(rows: pd.DataFrame) -> str:
    """Over images and ages, in order: a finished fold's estimates belong to these rows."""
    labels = rows[["digest" if "digest" in rows else "path", "age"]]
    text = labels.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _test(run: Run, split: ProtocolSplit, fold: Fold) -> None:
    """Estimate the fold's test images and keep what its network says."""
    stage = best_stage(run)
    network = load_stage(run, stage)
    positions = fold.rows("test")
    rows = split.manifest.iloc[positions]
    rows.attrs = dict(split.manifest.attrs)
    outputs = run_on_crops(network, load_crops(rows, cache=False), run.recipe.network.input_size)
    arrays: dict[str, NDArray[Any]] = {"age": outputs.age, "stage": np.array(stage)}
    if outputs.logits is not None:
        bins = network.head.age_bins
        if run.recipe.train.validation:
            validation = run.read_arrays(stage, "validation.npz")
            calibration = fit_calibration(run, stage, validation, bins)
            distribution = calibration.distribution(outputs.logits)
            low, high = calibration.interval(distribution, bins, _INTERVAL_LEVEL)
            arrays |= {"low": low, "high": high}
        else:
            distribution = softmax(outputs.logits, network.head.tau)
        arrays |= {
            "distribution": distribution.astype(np.float32),
            "age_bins": bins.ages.astype(np.int64),
            "p_at_least": probability_at_least(distribution, bins, _THRESHOLD),
        }
    with write_atomically(run.path / _TEST) as temporary:  # last: its presence says that the fold is done
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def _tested(folder: Path, fold: Fold) -> dict[str, NDArray[Any]]:
    """Stored result of :func:`_test`."""
    path = folder / fold.name / _TEST
    arrays = Run.open(folder / fold.name).read_arrays(".", _TEST)
    if "age" not in arrays or "stage" not in arrays or len(arrays["age"]) != len(fold.rows("test")):
        raise RunError(path, "does not hold the fold's test images; remove it to test them again")
    return arrays


def _fold_result(folder: Path, fold: Fold, rows: pd.DataFrame) -> FoldResult:
    arrays = _tested(folder, fold)
    stage = str(arrays["stage"])
    run = Run.open(folder / fold.name)
    ages = rows["age"].to_numpy(dtype=np.float64)[fold.rows("test")]
    return FoldResult(
        fold=fold.name,
        held_out=fold.held_out,
        images=len(ages),
        mae=mae(arrays["age"], ages),
        stage=stage,
        validation_mae=validation_mae(run, stage),
    )


def _pool(folder: Path, split: ProtocolSplit, results: tuple[FoldResult, ...]) -> FoldsResult:
    starts = {Run.open(folder / fold.name).facts.get("start") for fold in split.folds}
    if len(starts) > 1:
        raise RunError(folder, "its folds started from different weights: they are no one system")
    images = np.array([fold.images for fold in results])
    errors = np.array([fold.mae for fold in results])
    return FoldsResult(
        path=folder,
        protocol=split.protocol.name,
        digest=split.digest,
        folds=results,
        images=int(images.sum()),
        pooled_mae=float((errors * images).sum() / images.sum()),
        mean_of_folds=float(errors.mean()),
        deviation_of_folds=float(errors.std(ddof=1)) if len(errors) > 1 else None,
    )


def _predictions(folder: Path, split: ProtocolSplit, rows: pd.DataFrame) -> Predictions:
    """Every test image's prediction, in the order of the manifest."""
    tested = {fold.name: _tested(folder, fold) for fold in split.folds}
    positions = np.concatenate([fold.rows("test") for fold in split.folds])
    order = np.argsort(positions, kind="stable")
    paths = rows["path"].to_numpy(dtype=object)[positions][order]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([tested[fold.name][name] for fold in split.folds])[order]

    names = np.concatenate([np.full(len(fold.rows("test")), fold.name) for fold in split.folds])
    table = pd.DataFrame({"path": paths, "face": 1, "age": joined("age"), "fold": names[order]})
    if not all("distribution" in arrays for arrays in tested.values()):
        return Predictions(table, None, None, str(folder))
    for name in ("low", "high", "p_at_least"):
        if all(name in arrays for arrays in tested.values()):  # no intervals without a validation part
            table[name] = joined(name)
    bins, mass = _over_common_bins([tested[fold.name] for fold in split.folds])
    return Predictions(table, mass[order].astype(np.float64), bins, str(folder))


def _over_common_bins(tested: list[dict[str, NDArray[Any]]]) -> tuple[AgeBins, NDArray[np.float32]]:
    """The folds' distributions over the range of all their bins (``age_bins = "train"`` differs by fold)."""
    bins = AgeBins(
        min(int(arrays["age_bins"][0]) for arrays in tested),
        max(int(arrays["age_bins"][-1]) for arrays in tested),
    )
    parts = []
    for arrays in tested:
        mass, first = arrays["distribution"], int(arrays["age_bins"][0]) - bins.minimum
        part = np.zeros((len(mass), len(bins)), dtype=np.float32)
        part[:, first : first + mass.shape[1]] = mass
        parts.append(part)
    return bins, np.concatenate(parts)


@dataclass(frozen=True)
class _FoldReporter:
    """Passes training progress on, with the fold before the stage's name."""

    to: Reporter
    fold: str

    def note(self, message: str) -> None:
        self.to.note(f"{self.fold}: {message}")

    def step(self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]) -> None:
        self.to.step(f"{self.fold} {stage}", epoch, epochs, share, figures)

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        self.to.epoch(f"{self.fold} {stage}", epoch, epochs, row)


def _nobody(_: str) -> None:
    """Drop a note."""
