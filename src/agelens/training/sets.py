"""The sets a run is trained on, and the images that its teachers must not have seen."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agelens.data.splits import split_rows
from agelens.errors import RecipeError, RunError
from agelens.reading import open_table, reason
from agelens.training.method import TeacherSetting
from agelens.training.recipe import Recipe
from agelens.training.stage import Stage

__all__ = ["check_set_weights", "check_unseen", "set_facts", "teaching_runs"]


def set_facts(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Count the images of each set that a run is trained and validated on.

    Args:
        rows: A manifest; its column ``dataset`` names the set of each row.
    Returns:
        Name of the set to ``train``, ``val`` (numbers of images) and ``labels`` (the meaning of its ages,
        empty where it is not known); empty for a manifest that names no set.
    """
    if "dataset" not in rows:
        return {}
    used = rows[rows["split"].isin(["train", "val"]) & (rows["dataset"] != "")]
    return {
        str(name): {
            "train": int((of_set["split"] == "train").sum()),
            "val": int((of_set["split"] == "val").sum()),
            "labels": "/".join(sorted(set(of_set["labels"]) - {""})) if "labels" in of_set else "",
        }
        for name, of_set in used.groupby("dataset", sort=True)
    }


def check_set_weights(recipe: Recipe, rows: pd.DataFrame, stages: Sequence[Stage]) -> list[str]:
    """Check the recipe's weights of sets against the manifest.

    Args:
        recipe: With ``train.sets``.
        rows: The manifest.
        stages: Of the method.
    Returns:
        Notes for the user, a line each: the stages that draw images in their own way.
    Raises:
        RecipeError: A weight names a set that has no training image.
    """
    weights = recipe.train.sets
    if not weights:
        return []
    there = [name for name, counts in set_facts(rows).items() if counts["train"]]
    for name, weight in weights.items():
        if name not in there:
            known = ", ".join(there) or "none (the manifest has no column 'dataset')"
            raise RecipeError(
                recipe.name,
                f"train.sets.{name}",
                f"no training images of this set; there are {known}",
                weight,
            )
    return [
        f"{stage.name} draws images in its own way: train.sets does not apply to it"
        for stage in stages
        if type(stage).order is not Stage.order
    ]


def teaching_runs(
    teachers: Mapping[str, TeacherSetting], settings: Mapping[str, Any], start: str | Path | None
) -> dict[str, Path]:
    """Name the runs whose training a run builds on, by their part in it.

    Args:
        teachers: The method's settings that name teachers.
        settings: ``method.settings`` of the recipe.
        start: Weights to start from, if any.
    Returns:
        Part (``teacher``, ``ranker``, ``start``; numbered where there are several) to folder; model files and
        files of bare backbones keep no record of their images and are left out.
    """
    named = {
        setting.part if isinstance(settings.get(key), str) else f"{setting.part} {number}": path
        for key, setting in teachers.items()
        for number, path in enumerate(setting.paths(settings.get(key, ())), start=1)
    }
    named["start"] = str(start or "")
    runs = {}
    for part, path in named.items():
        folder = Path(path) if Path(path).is_dir() else Path(path).parent.parent
        if path and (folder / "split.csv").is_file():
            runs[part] = folder
    return runs


def check_unseen(rows: pd.DataFrame, runs: Mapping[str, Path], manifest: str | Path) -> None:
    """Refuse teachers, rankers and starts that were trained or validated on this run's test images.

    Args:
        rows: The run's manifest, with ``digest``; without it nothing can be compared.
        runs: From :func:`teaching_runs`.
        manifest: The manifest's file, for the message.
    Raises:
        RunError: A run's ``split.csv`` has test images of the manifest in its train or val part, or cannot be
            read.
    """
    tests = set(split_rows(rows, "test")["digest"]) - {""} if "digest" in rows else set()
    for part, folder in runs.items():
        try:
            with open_table(folder / "split.csv") as handle:
                seen = {
                    row["digest"]: row
                    for row in csv.DictReader(handle)
                    if row.get("split") in ("train", "val") and row.get("digest") in tests
                }
        except (OSError, csv.Error) as error:
            raise RunError(folder / "split.csv", f"cannot be read: {reason(error)}") from error
        if seen:
            first = next(iter(seen.values()))
            raise RunError(
                folder,
                f"the {part.rstrip(' 0123456789')} was trained or validated on {len(seen)} test images of "
                f"{manifest} (the first: {first['path']}, {first['split']}); train it on a union made by "
                f"agelens join … --exclude {manifest}",
            )
