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
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from agelens.errors import CheckpointError, RunError
from agelens.files import write_atomically
from agelens.training.recipe import Recipe

__all__ = ["RUN_FORMAT", "Run", "described_by_us", "read_tensors", "write_tensors"]

RUN_FORMAT = 1


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON table into one safetensors file, atomically.

    Raises:
        OutputError: It cannot be written; an older file stays.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(plain, metadata={"json": json.dumps(metadata)}))  # failing as files fail


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        CheckpointError: Missing, damaged, or not written by us.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = json.loads(handle.metadata()["json"])
            return {name: handle.get_tensor(name) for name in handle.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(path, "is missing") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"is damaged or not ours: {error}") from error


def described_by_us(path: Path) -> bool:
    """Whether a safetensors file has the JSON of :func:`write_tensors`; others hold bare weights.

    Raises:
        CheckpointError: Missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            return "json" in (handle.metadata() or {})
    except FileNotFoundError as error:
        raise CheckpointError(path, "is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is damaged or no safetensors file: {error}") from error


class Run:
    """One run folder."""

    def __init__(self, path: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
        self.path = path
        self.recipe = recipe
        self.facts = facts

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe, facts: Mapping[str, Any]) -> Run:
        """Start a run in an empty or missing folder.

        Args:
            path: The folder.
            recipe: What to do.
            facts: What must not change when the run is resumed (split digest, age bins, …).
        Raises:
            RunError: The folder holds something already.
            OutputError: It cannot be written.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(folder, "is not empty; pass --resume to go on with the run in it")
        run = cls(folder, recipe, {"format": RUN_FORMAT, **facts})
        with write_atomically(folder / "recipe.toml") as temporary:
            temporary.write_text(recipe.to_toml(), encoding="utf-8")
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
            facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(folder, "is not a run folder (no run.json)") from error
        except ValueError as error:
            raise RunError(folder / "run.json", f"is damaged: {error}") from error
        if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
            raise RunError(folder / "run.json", "is damaged: no format")
        if facts["format"] > RUN_FORMAT:
            raise RunError(
                folder, f"was written in run format {facts['format']}; this agelens reads {RUN_FORMAT}"
            )
        return cls(folder, Recipe.load(folder / "recipe.toml"), facts)

    def stage(self, name: str) -> Path:
        """The folder of one stage, e.g. ``generation-2``."""
        return self.path / name

    def finished(self, stage: str) -> bool:
        """Whether the stage's network is there."""
        return (self.stage(stage) / "network.safetensors").exists()

    def finished_stages(self) -> list[str]:
        """Names of the finished stages, in the order of training."""
        found = (folder.parent.name for folder in self.path.glob("*/network.safetensors"))
        order = self.facts.get("stages", [])  # older runs have generations only
        place = {name: number for number, name in enumerate(order)}
        return sorted(found, key=lambda name: (place.get(name, len(order)), len(name), name))

    def change(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Replace the recipe and some facts of a run that another stage is added to."""
        self.recipe, self.facts = recipe, {**self.facts, **facts}
        with write_atomically(self.path / "recipe.toml") as temporary:
            temporary.write_text(recipe.to_toml(), encoding="utf-8")
        self._write_json(self.path / "run.json", self.facts)

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
            table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(path, f"cannot be read: {error}") from error
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
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(path, f"cannot be read: {error}") from error

    def log(self, stage: str, row: Mapping[str, Any]) -> None:
        """Append one epoch to the stage's log, dropping rows of that epoch or later.

        An epoch that was logged but not checkpointed before a kill is run again, and its row replaced. What a
        row lacks (a part of the loss whose weight has fallen to 0) stays empty.
        """
        path = self.stage(stage) / "log.csv"
        rows: list[dict[str, str]] = []
        with contextlib.suppress(FileNotFoundError), open(path, newline="", encoding="utf-8") as handle:
            rows = [old for old in csv.DictReader(handle) if int(old["epoch"]) < int(row["epoch"])]
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
    def _write_json(path: Path, table: Mapping[str, Any]) -> None:
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(table, indent=2) + os.linesep, encoding="utf-8")
