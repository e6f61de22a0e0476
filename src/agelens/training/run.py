"""The run folder: what a training run leaves, and how it is written so that a kill loses nothing.

::

    RUN/
      recipe.toml            resolved and validated
      split.csv              path, age, split, digest
      run.json               format, software, split digest, age bins, crop geometry
      generation-1/          one folder a stage
        log.csv              a row an epoch
        checkpoint.safetensors   network, averaged network, optimiser; JSON in its metadata
        network.safetensors  the finished stage
        validation.json      its validation figures
        validation.npz       ages, estimates and logits on the validation split
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.calibration import Calibration
from agelens.errors import InputError, RunError
from agelens.files import is_leftover, write_atomically
from agelens.label_distribution import AgeBins
from agelens.metrics import aar, uselessness
from agelens.networks.age_network import AnyNetwork, MirroredNetwork
from agelens.networks.stored import load_network
from agelens.plugins import require
from agelens.reading import open_table, read_json, reason
from agelens.rehearsal import VARIABLE, rehearsing
from agelens.stored_arrays import read_arrays
from agelens.training.recipe import Recipe, Selection
from agelens.training.run_checks import check_arrays, check_facts, check_validation

__all__ = [
    "RUN_FORMAT",
    "Run",
    "best_stage",
    "fit_calibration",
    "load_stage",
    "locate_network",
    "validation_band_accuracy",
    "validation_facts",
    "validation_mae",
    "warning_of",
]

RUN_FORMAT = 1
_NETWORK = "network.safetensors"
_VALIDATION = "validation.json"
_VALIDATION_ARRAYS = "validation.npz"


class Run:
    """One run folder."""

    def __init__(self, path: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
        self.path = path
        self.recipe = recipe
        self.facts = facts

    @classmethod
    def create(
        cls,
        path: str | Path,
        recipe: Recipe,
        facts: Mapping[str, Any],
        split: pd.DataFrame | None = None,
        *,
        resume: bool = False,
    ) -> Run:
        """Start a run in an empty or missing folder.

        Args:
            path: The folder.
            recipe: What to do.
            facts: What must not change when the run is resumed (split digest, age bins, …).
            split: Rows for ``split.csv``; None: there is none.
            resume: Take a folder, too, where a run was stopped before it began.
        Raises:
            RunError: The folder holds something already.
            OutputError: It cannot be written.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not resume:
                raise RunError(folder, "is not empty; pass --resume to go on with the run in it")
            if not cls._hardly_begun(folder):
                raise RunError(folder, "is not empty, and holds no run to go on with (no run.json)")
        run = cls(folder, recipe, {"format": RUN_FORMAT, **facts})
        with write_atomically(folder / "recipe.toml") as temporary:
            temporary.write_text(recipe.to_toml(), encoding="utf-8")
        if split is not None:
            with write_atomically(folder / "split.csv") as temporary:
                split.to_csv(temporary, index=False)
        run._write_json(folder / "run.json", run.facts)  # last: its presence says that the run began
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run.

        Raises:
            RunError: Not a run folder, damaged, or written by a newer agelens.
        """
        folder = Path(path)
        try:
            facts = read_json(folder / "run.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(folder, "is not a run folder (no run.json)") from error
        except (OSError, ValueError) as error:
            raise RunError(folder / "run.json", f"is damaged: {reason(error)}") from error
        if not isinstance(facts, dict) or type(facts.get("format")) is not int:
            raise RunError(folder / "run.json", "is damaged: no format")
        if facts["format"] > RUN_FORMAT:
            raise RunError(
                folder, f"was written in run format {facts['format']}; this agelens reads {RUN_FORMAT}"
            )
        check_facts(facts, folder / "run.json")
        return cls(folder, _stored_recipe(folder), facts)

    def fact(self, key: str) -> Any:
        """Give a fact that every run has.

        Raises:
            RunError: This one lacks it.
        """
        if key not in self.facts:
            raise RunError(self.path / "run.json", f"is damaged: no {key}")
        return self.facts[key]

    def stage(self, name: str) -> Path:
        """The folder of one stage, e.g. ``generation-2``."""
        return self.path / name

    def network_file(self, stage: str) -> Path:
        """The file of a stage's network; its presence says that the stage is finished."""
        return self.stage(stage) / _NETWORK

    def finished(self, stage: str) -> bool:
        """Whether the stage's network is there."""
        return self.network_file(stage).exists()

    def finished_stages(self) -> list[str]:
        """Names of the finished stages, in the order of training."""
        found = (folder.parent.name for folder in self.path.glob(f"*/{_NETWORK}"))
        order = self.facts.get("stages", [])  # older runs have generations only
        place = {name: number for number, name in enumerate(order)}
        return sorted(found, key=lambda name: (place.get(name, len(order)), len(name), name))

    def require_plugins(self) -> None:
        """Check that the packages are installed whose parts the run was made with.

        Raises:
            PluginError: One is missing; it is named.
        """
        require(self.facts.get("plugins", ()), str(self.path))

    def change(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Replace the recipe and some facts of a run that another stage is added to."""
        self.recipe, self.facts = recipe, {**self.facts, **facts}
        self._write_json(self.path / "run.json", self.facts)
        with write_atomically(self.path / "recipe.toml") as temporary:  # last: the change is made again else
            temporary.write_text(recipe.to_toml(), encoding="utf-8")

    def write_json(self, stage: str, name: str, table: Mapping[str, Any]) -> None:
        """Write ``name`` into the stage's folder."""
        self._write_json(self.stage(stage) / name, table)

    def read_json(self, stage: str, name: str) -> dict[str, Any]:
        """Read a JSON table of a stage.

        Raises:
            RunError: Missing or damaged.
        """
        path = self.stage(stage) / name
        try:
            table = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(path, f"cannot be read: {reason(error)}") from error
        if not isinstance(table, dict):
            raise RunError(path, "is damaged: it is no table")
        if name == _VALIDATION:
            check_validation(table, path)
        return table

    def write_arrays(self, stage: str, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write ``name`` (.npz) into the stage's folder."""
        with write_atomically(self.stage(stage) / name) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **arrays)

    def read_arrays(self, stage: str, name: str) -> dict[str, NDArray[Any]]:
        """Read the arrays of a stage.

        Raises:
            RunError: Missing or damaged.
        """
        path = self.stage(stage) / name
        try:
            arrays = read_arrays(path)
        except (OSError, ValueError) as error:
            raise RunError(path, f"cannot be read: {reason(error)}") from error
        if name == _VALIDATION_ARRAYS:
            check_arrays(arrays, path)
        return arrays

    def log(self, stage: str, row: Mapping[str, Any]) -> None:
        """Append one epoch to the stage's log, dropping rows of that epoch or later.

        An epoch that was logged but not checkpointed before a kill is run again, and its row replaced. What a
        row lacks (a part of the loss whose weight has fallen to 0) stays empty.
        """
        path = self.stage(stage) / "log.csv"
        rows: list[dict[str, str]] = []
        try:
            with contextlib.suppress(FileNotFoundError), open_table(path) as handle:
                rows = [old for old in csv.DictReader(handle) if int(old["epoch"]) < int(row["epoch"])]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise RunError(path, f"is no log of epochs: {reason(error)}") from error
        with (
            write_atomically(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.DictWriter(
                handle, fieldnames=list(dict.fromkeys([*(rows[-1] if rows else ()), *row]))
            )
            writer.writeheader()
            writer.writerows(rows)
            writer.writerow(row)

    @staticmethod
    def _hardly_begun(folder: Path) -> bool:
        """Tell whether a folder holds no more than :meth:`create` writes before ``run.json``."""
        return folder.is_dir() and all(
            entry.name in ("recipe.toml", "split.csv") or is_leftover(entry) for entry in folder.iterdir()
        )

    @staticmethod
    def _write_json(path: Path, table: Mapping[str, Any]) -> None:
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(table, indent=2) + os.linesep, encoding="utf-8")


def best_stage(run: Run, select: str | None = None) -> str:
    """Name the finished stage that is best on the validation split: how the refinery's T is selected.

    Of a run without a validation part it is the last one.

    Args:
        run: With at least one finished age network.
        select: Smallest ``mae`` or largest ``aar`` of the estimate, or largest ``band`` accuracy; None: as
            the run's recipe says.
    Raises:
        RunError: No stage with an age network is finished, or the validation images cannot be judged so (none
            in a group of AAR, none with an age, none with a band).
        InputError: ``select`` is none of them.
    """
    if select not in (None, *get_args(Selection)):
        raise InputError(f"the best stage is selected by {' or '.join(get_args(Selection))}, not {select!r}")
    stages = [
        name
        for name in run.finished_stages()
        if "age" in run.read_json(name, "validation.json").get("estimates", {})
    ]
    if not stages:
        raise RunError(run.path, "has no finished stage with an age network; go on with --resume")
    if not run.recipe.train.validation:
        return stages[-1]
    if (select or run.recipe.select) == "aar":
        return max(stages, key=lambda stage: _validation_aar(run, stage))
    if (select or run.recipe.select) == "band":
        return max(stages, key=lambda stage: validation_band_accuracy(run, stage))
    return min(stages, key=lambda stage: validation_mae(run, stage))


def load_stage(run: Run, stage: str) -> AnyNetwork:
    """Load the network that a finished stage is judged and exported by: mirrored if the recipe says so.

    Raises:
        CheckpointError: Missing, damaged, or not ours.
        PluginError: The run was made with a part of a package that is missing here.
    """
    run.require_plugins()
    network = load_network(run.network_file(stage))
    return MirroredNetwork(network).eval() if run.recipe.network.mirror else network


def locate_network(path: str | Path, preferred: str) -> tuple[Run, Path]:
    """Resolve a path to a run and the file of one of its networks.

    Args:
        path: A run folder, or a ``network.safetensors`` of one of its stages.
        preferred: The stage of a run folder, if it is finished; else, or if empty, the best one on its
            validation split.
    Raises:
        RunError: Not a run, or without a finished stage.
    """
    given = Path(path)
    if given.name == _NETWORK:
        return Run.open(given.parent.parent), given
    run = Run.open(given)
    stage = preferred if preferred and run.finished(preferred) else best_stage(run)
    return run, run.network_file(stage)


def validation_mae(run: Run, stage: str) -> float:
    """Read the MAE of a finished stage's estimate on the validation split, years.

    Raises:
        RunError: The labels of the validation images are bands.
    """
    try:
        return float(run.read_json(stage, "validation.json")["estimates"]["age"]["MAE"])
    except KeyError as error:
        raise RunError(run.path, "was validated on bands and has no MAE; select by band") from error


def validation_band_accuracy(run: Run, stage: str) -> float:
    """Read the band accuracy of a finished stage on the validation split, per cent.

    Raises:
        RunError: No validation image has a band.
    """
    try:
        return float(run.read_json(stage, "validation.json")["band accuracy"])
    except KeyError as error:
        raise RunError(run.path, "was validated on ages, not on bands; select by mae or aar") from error


def fit_calibration(run: Run, stage: str, arrays: Mapping[str, NDArray[Any]], bins: AgeBins) -> Calibration:
    """Calibrate on what a finished stage says of the validation images.

    Raises:
        RunError: The arrays do not fit the network.
        InputError: It only regresses.
    """
    try:
        return Calibration.fit(arrays.get("logits"), arrays["ages"], bins, bounds=arrays.get("bounds"))
    except (KeyError, ValueError) as error:
        raise RunError(run.stage(stage) / _VALIDATION_ARRAYS, f"cannot be calibrated on: {error}") from error


def validation_facts(table: Mapping[str, Any]) -> dict[str, float]:
    """The MAE of ages and the accuracy of bands in a stage's ``validation.json``, for a model's card."""
    told = {"validation_mae": table.get("estimates", {}).get("age", {}).get("MAE")}
    told["validation_band_accuracy"] = table.get("band accuracy")
    return {name: float(value) for name, value in told.items() if value is not None}


def warning_of(run: Run, stage: str) -> str:
    """Say why the network of a finished stage is of no use; nothing if it is of some.

    It is judged by its estimates of the validation images, as :func:`agelens.metrics.uselessness` does.
    """
    arrays = run.read_arrays(stage, "validation.npz")
    if "age" not in arrays or not np.isfinite(arrays["ages"]).all():
        return ""
    return uselessness(arrays["age"].astype(np.float64), arrays["ages"].astype(np.float64))


def _stored_recipe(folder: Path) -> Recipe:
    """Read a run's recipe; a rehearsal's networks are cut, so that nothing else can use it."""
    recipe = Recipe.load(folder / "recipe.toml")
    stored = "rehearsal = true" in (folder / "recipe.toml").read_text(encoding="utf-8").splitlines()
    if stored and not rehearsing():
        raise RunError(folder, f"is a rehearsal: train it anew, or set {VARIABLE}=1")
    if rehearsing() and not stored:
        raise RunError(folder, f"is no rehearsal: a rehearsal ({VARIABLE}=1) cannot use it")
    return recipe


def _validation_aar(run: Run, stage: str) -> float:
    arrays = run.read_arrays(stage, "validation.npz")  # older runs have no AAR in validation.json
    try:
        return aar(arrays["age"], arrays["ages"]).aar
    except (KeyError, ValueError) as error:
        raise RunError(run.path, f"cannot be judged by AAR: {error}") from error
