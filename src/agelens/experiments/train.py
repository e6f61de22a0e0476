"""From a recipe and a prepared manifest to a finished run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import PartialState

from agelens.data.crop_set import crop_side, load_crops
from agelens.data.geometry import crop_geometry
from agelens.data.manifest import is_band, label_bounds, label_kinds, read_manifest
from agelens.data.splits import split_digest, split_rows
from agelens.errors import ManifestError, RecipeError, RunError, SplitError
from agelens.experiments.teaching import start_path
from agelens.label_distribution import AgeBins
from agelens.methods.lookup import FINISHERS, METHODS, make_stages, method_named
from agelens.plugins import origin
from agelens.training.fit import Reporter, fit
from agelens.training.provenance import check_terms, named_without_folders, run_terms, teacher_facts
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.run import Run
from agelens.training.sets import check_set_weights, check_unseen, set_facts, teaching_runs
from agelens.training.stage import Stage
from agelens.training.start import check_start, start_digest, start_weights

__all__ = ["train"]


_WATCHED = 1000  # training images that stand in for a validation part where there is none


def train(
    recipe: Recipe,
    manifest: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    random_start: bool = False,
    reporter: Reporter | None = None,
    loading: Callable[[int, int], None] | None = None,
    cache: str | Path | None = None,
    cpu: bool = False,
) -> Run:
    """Train a recipe on the ``train`` rows of a prepared manifest; validate on its ``val`` rows.

    Args:
        recipe: What to do. On resume, the run's own recipe is used and this one must agree with it.
        manifest: CSV or Parquet of aligned crops of one size, with a ``split`` column.
        out: The run folder.
        resume: Go on with the run in ``out`` (start it if there is none).
        start: Weights of a pre-training that every stage starts from, in place of the recipe's
            ``network.start``: a run folder or its ``network.safetensors`` (of ages: LRN pre-trains on
            IMDB-WIKI; or of identities: LAE), a safetensors file of a bare backbone, or a model file, by name
            if it ships, whose network has no batch norms. Heads for other age bins start anew, and a note
            says so.
        random_start: Train from random weights although the recipe needs a start (``needs_start``).
        reporter: Receives steps and epochs.
        loading: Called with (done, total) while crops are decoded.
        cache: Folder for the decoded crops; None: ``.crops`` beside the manifest.
        cpu: Keep to the CPU.
    Returns:
        The finished run.
    Raises:
        RunError: ``out`` is not empty (without resume), or belongs to other data or another recipe; or a
            teacher, ranker or start has seen test images of the manifest.
        SplitError: The manifest has no train or no val rows.
        InputError: The crops are smaller than the network's input; or a start or teacher is for research
            only, and the images permit more (:func:`agelens.training.provenance.check_terms`).
        RecipeError: ``train.sets`` names a set without training images, or a stage needs a validation part
            where there is none, or the start that the recipe needs is missing.
        PluginError: A part of another package is missing; of a resumed run, the package is named.
    """
    begun = resume and (Path(out) / "run.json").exists()
    if begun:
        Run.open(out).require_plugins()
    method = method_named(recipe.method.name)
    start = start or recipe.network.start or None
    if start is not None:
        start = start_path(start)
    if not begun and not random_start and (missing := method.missing_start(recipe, start is not None)):
        raise RecipeError(
            recipe.name,
            "needs_start",
            f"pre-trained weights are missing; make them with {missing}; --random-start does without them",
        )
    rows = read_manifest(manifest, ages=method.learns == "ages")
    _check_parts(rows, recipe, manifest)
    training, validation = split_rows(rows, "train"), split_rows(rows, "val")
    if method.learns == "subjects":
        _check_subjects(rows, manifest)
    bins = _age_bins(recipe, training)
    clamped = 0
    if "age" in rows:
        clamped = _outside(training, bins)
    geometry = crop_geometry(rows)
    stages = make_stages(recipe, bins)
    if method.learns == "ages":
        _check_labels(recipe, stages, label_kinds(training), label_kinds(validation))
    notes = check_set_weights(recipe, rows, stages)
    if start is not None and method.learns == "ages":
        notes += check_start(start, recipe, bins)
    if clamped:
        notes.append(
            f"{clamped} training images are of ages outside {bins}: they learn the nearest age of the bins"
        )
    if not recipe.train.validation:
        notes.append("no validation part: figures called val are of training images, and nothing is selected")
    if geometry is None:
        notes.append(
            "the crops' geometry is not known (no geometry.json of agelens prepare above them): "
            "this run cannot be exported"
        )
    facts: dict[str, Any] = {
        "software": {name: version(name) for name in ("agelens", "torch", "numpy")},
        "age_bins": str(bins),
        "split_digest": _digest(rows),
        "geometry": None if geometry is None else geometry.to_dict(),
        "images": {"train": len(training), "val": len(validation)},
        "clamped": clamped,
        "start": None if start is None else start_digest(start),
        "stages": [stage.name for stage in stages],
    }
    plugins = [
        origin("methods", recipe.method.name, METHODS),
        *(p for stage in stages for p in stage.plugins()),
    ]
    foreign = [plugin.to_dict() for plugin in dict.fromkeys(plugins) if plugin is not None]
    if foreign:
        facts["plugins"] = foreign
    if sets := set_facts(rows):
        facts["sets"] = sets
    check_unseen(rows, teaching_runs(method.teachers, recipe.method.settings, start), manifest)
    facts["teachers"] = teacher_facts(method.teachers, recipe.method.settings, facts["geometry"]) or None
    facts["terms"] = run_terms(rows, recipe, start, facts["teachers"])
    notes += check_terms(facts["terms"], recipe.card.allow_restricted)
    state = PartialState(cpu=cpu)
    notes += processes_note(state.num_processes, state.device.type, recipe.train)
    if reporter is not None and state.is_main_process:
        for note in notes:
            reporter.note(note)
    used = rows[rows["split"].isin(["train", "val"])]
    if not recipe.train.validation:
        for stage in stages:
            stage.check_without_validation()
    crop_side(used, at_least=0 if recipe.network.enlarge else recipe.network.input_size)
    with state.main_process_first():  # one process makes the run and the cache of crops, the others find them
        run = _open_run(Path(out), recipe, facts, rows, resume or not state.is_main_process)
        crops = load_crops(
            used,
            cache=cache or True,
            progress=loading if state.is_main_process else None,
        )
    is_train = (used["split"] == "train").to_numpy()
    judged = ~is_train
    if not recipe.train.validation:  # figures for the log, of images that are trained on
        judged[np.unique(np.linspace(0, len(used) - 1, min(_WATCHED, len(used))).astype(np.int64))] = True
    weights = None if start is None else start_weights(start, run.recipe, bins)
    fit(
        run,
        make_stages(run.recipe, bins, weights),
        crops.select(is_train),
        crops.select(judged),
        reporter=reporter,
        cpu=cpu,
    )
    return run


def processes_note(count: int, device: str, settings: TrainSettings) -> list[str]:
    """Tell how many processes train, where there are several or a launcher was to start some.

    A launcher that starts one in the place of several says nothing itself.

    Args:
        count: Number of processes.
        device: Kind of device they train on.
        settings: Of the recipe: images of a batch, over all of them, and what batch norms see.
    """
    if count > 1:
        share = f"{settings.batch_size // count} images of each batch in each"
        seen = "sees the whole batch" if settings.sync_batch_norm else "sees these alone"
        return [f"{count} processes on {device}: {share}; batch norm {seen}"]
    if any(name.startswith("ACCELERATE_") or name == "TORCHELASTIC_RUN_ID" for name in os.environ):
        return [f"1 process on {device}: torchrun --nproc-per-node N -m agelens train … starts N"]
    return []


def _check_parts(rows: pd.DataFrame, recipe: Recipe, manifest: str | Path) -> None:
    """Check that the manifest has the parts that the recipe trains and validates on."""
    parts = set(rows["split"]) - {""} if "split" in rows else set()
    if recipe.train.validation and not {"train", "val"} <= parts:
        way = f"agelens split {manifest} --protocol NAME --out NEW.csv (agelens protocols lists them)"
        if crop_geometry(rows) is None:
            way = f"agelens prepare {manifest} --out CROPS, whose manifest has them, and crops of the faces"
        raise SplitError(
            f"{manifest}: needs rows with split 'train' and rows with split 'val'; make them with {way}"
        )
    if not recipe.train.validation and ("train" not in parts or "val" in parts):
        raise SplitError(
            f"{manifest}: a run without a validation part (train.validation = false) needs rows with split "
            "'train' and none with split 'val'"
        )


def _open_run(
    folder: Path, recipe: Recipe, facts: Mapping[str, Any], rows: pd.DataFrame, resume: bool
) -> Run:
    if resume and (folder / "run.json").exists():
        run = Run.open(folder)
        _check_same(run, recipe, facts)
        return run
    split = rows.reindex(columns=["path", "age", "split", "digest"])
    return Run.create(folder, recipe, facts, split, resume=resume)


def _digest(rows: pd.DataFrame) -> str | None:
    return split_digest(rows) if "digest" in rows else None


def _check_subjects(rows: pd.DataFrame, manifest: str | Path) -> None:
    if "subject" not in rows:
        raise ManifestError(manifest, "an identity manifest needs the column", column="subject")
    nameless = rows["split"].isin(["train", "val"]) & (rows["subject"] == "")
    if nameless.any():
        first = int(nameless.to_numpy().argmax()) + 1
        raise ManifestError(manifest, "the image belongs to nobody", row=first, column="subject", value="")


def _age_bins(recipe: Recipe, training: pd.DataFrame) -> AgeBins:
    if recipe.age_bins != "train":
        return AgeBins.parse(recipe.age_bins)
    if is_band(training).any():
        raise RecipeError(recipe.name, "age_bins", "bands need bins that are given, such as 0-100", "train")
    return AgeBins(int(training["age"].min()), math.ceil(training["age"].max()))


def _outside(rows: pd.DataFrame, bins: AgeBins) -> int:
    """Number of ages outside the bins; a band is outside if it shares no age with them."""
    low, high = np.floor(label_bounds(rows)).T
    return int(((high < bins.minimum) | (low > bins.maximum)).sum())


def _check_labels(
    recipe: Recipe, stages: Sequence[Stage], train: Mapping[str, int], val: Mapping[str, int]
) -> None:
    """Refuse labels that a stage cannot learn, and a selection that the validation rows do not allow."""
    for stage in stages:
        for kind, count in train.items():
            if kind not in stage.labels:
                raise RecipeError(
                    recipe.name,
                    "method.name",
                    f"its stage {stage.name} learns {' and '.join(stage.labels)} ages, and {count} training "
                    f"images have labels of the kind {kind!r}",
                    recipe.method.name,
                )
    if recipe.select == "band" and "band" not in val:
        raise RecipeError(recipe.name, "select", "no validation image has a band: mae or aar", "band")
    if recipe.select != "band" and set(val) == {"band"}:
        raise RecipeError(recipe.name, "select", "all validation images have bands: band", recipe.select)


def _check_same(run: Run, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Refuse to resume with other settings; a finisher may be added, or changed before it began."""
    mine, theirs = recipe, run.recipe
    begun = [name for name in FINISHERS if run.stage(name).exists()]
    if not begun:
        mine = mine.model_copy(update={"finish": theirs.finish, "select": theirs.select})
    teachers = method_named(recipe.method.name).teachers
    here, there = (named_without_folders(each.model_dump(), teachers) for each in (mine, theirs))
    if here != there:  # that files of these names are the same, their digests tell
        raise RunError(run.path, "was started with another recipe; resume with its recipe.toml")
    done = not set(facts["stages"]) - set(FINISHERS) - set(run.finished_stages())
    for key in ("age_bins", "split_digest", "images", "start", "teachers"):
        if key == "start" and done and facts[key] is None:
            continue  # nothing starts any more
        if run.facts.get(key) != facts[key]:
            raise RunError(
                run.path, f"was started with another {key}: {run.facts.get(key)!r}, now {facts[key]!r}"
            )
    if recipe != theirs:
        run.change(recipe, {"stages": facts["stages"]})
