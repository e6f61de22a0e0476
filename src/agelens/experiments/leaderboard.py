"""A suite of systems trained on equal terms and compared: one table, resumed after a kill at any moment.

Every system is a recipe; the suite states what all of them share (crops, split, epochs or other settings),
the seeds, and a small grid of rates that each system is tuned on by its validation error. Each training is an
ordinary run folder with its model file::

    OUT/runs/SYSTEM/seed=0,rate=0.003/   run folder, model.onnx

What is finished is not trained again. A system whose training fails is named with its error, and the others
are trained.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agelens.data.manifest import read_manifest
from agelens.errors import AgelensError, OutputError, RecipeError, RunError, SplitError
from agelens.evaluation.compare import Comparison, PairedDifference, SystemResult, compare
from agelens.evaluation.evaluate import evaluate
from agelens.evaluation.published import quoted_systems, read_published
from agelens.evaluation.systems import Answers, open_system, over_seeds
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.methods.lookup import method_named
from agelens.reading import open_table, parse_toml, read_text, reason
from agelens.training.fit import Reporter
from agelens.training.recipe import Recipe
from agelens.training.run import Run, best_stage, validation_mae

__all__ = ["Entry", "Leaderboard", "LeaderboardRow", "Suite", "leaderboard", "suite_names"]

MEANS = ("AAR", "coverage(90%)", "ε-error")
"""Metrics of a training of which the table gives the mean over seeds; ``sigma`` is AAR's beside them."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Entry(_Settings):
    """One system of a suite.

    Attributes:
        recipe: Name of a shipped recipe, or a TOML file.
        name: Of the system; default: the recipe's argument.
        set: Overrides of its own, ``train.batch_size=64``; they win over the suite's.
        seeds: In place of the suite's; empty: those.
        start: Weights it starts from, as ``train --start``; empty: none.
    """

    recipe: str
    name: str = ""
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    start: str = ""

    @property
    def title(self) -> str:
        """Name in the table."""
        return self.name or Path(self.recipe).stem


class Suite(_Settings):
    """Systems and the terms they share.

    Attributes:
        name: Of the suite.
        terms: The equal terms in words, for the page.
        reference: Title of the system that the others are compared with; empty: the first.
        seeds: Of every system.
        rates: Learning rates, each tried with the first seed; the best on validation trains the other seeds.
            Empty: the recipe's own. A system without epochs has none.
        set: Overrides for all systems, ``train.epochs=30``.
        quote: ``DATA SET`` or ``DATA SET:PROTOCOL`` whose published figures stand beside.
        system: The systems.
    """

    name: str
    terms: str = ""
    reference: str = ""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    rates: tuple[float, ...] = ()
    set: tuple[str, ...] = ()
    quote: tuple[str, ...] = ()
    system: tuple[Entry, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _titles(self) -> Self:
        titles = [entry.title for entry in self.system]
        if twice := {title for title in titles if titles.count(title) > 1}:
            raise ValueError(f"two systems are called {min(twice)!r}")
        if self.reference and self.reference not in titles:
            raise ValueError(f"the reference {self.reference!r} is none of the systems")
        return self

    @property
    def compared_with(self) -> str:
        """Title of the reference."""
        return self.reference or self.system[0].title

    @classmethod
    def load(cls, source: str | Path) -> Suite:
        """Read a suite by name (one of :func:`suite_names`) or from a TOML file; every recipe is loaded.

        Raises:
            RecipeError: Not a suite, an unknown key, a value out of range, or a recipe that cannot be used.
        """
        shipped = str(source) in suite_names()
        try:
            text = read_text(_folder() / f"{source}.toml" if shipped else Path(source))
        except (OSError, UnicodeDecodeError) as error:
            known = f"shipped suites: {', '.join(suite_names())}"
            raise RecipeError(source, "file", f"cannot be read: {reason(error)}; {known}") from error
        try:
            table = parse_toml(text)
        except ValueError as error:
            raise RecipeError(source, "file", f"is not TOML: {error}") from error
        try:
            suite = cls.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "suite"
            raise RecipeError(source, key, first["msg"], first.get("input")) from error
        for entry in suite.system:
            suite.recipe(entry, suite.seeds[0], None)
        return suite

    def recipe(self, entry: Entry, seed: int, rate: float | None) -> Recipe:
        """The recipe of one training.

        Raises:
            RecipeError: It cannot be used.
        """
        tuned = [] if rate is None else [f"train.learning_rate={rate}"]
        return Recipe.load(entry.recipe, [*self.set, *entry.set, f"seed={seed}", *tuned])

    def trainings(self) -> int:
        """Number of trainings of the whole suite."""
        return sum(len(self.rates_of(entry)) + len(entry.seeds or self.seeds) - 1 for entry in self.system)

    def rates_of(self, entry: Entry) -> tuple[float | None, ...]:
        """The rates that a system is tuned on; (None,), the recipe's own, where there are no epochs."""
        method = method_named(self.recipe(entry, self.seeds[0], None).method.name)
        return (self.rates or (None,)) if method.has_epochs else (None,)


@dataclass(frozen=True)
class LeaderboardRow:
    """One system of the table.

    Attributes:
        result: Its accuracy with intervals, and its cost.
        rate: Learning rate that was selected on validation.
        seconds: Training time of one seed, mean over seeds.
        means: AAR, sigma, coverage(90%), ε-error: means over seeds, where they are defined.
        difference: MAE minus the reference's on the same images; None of the reference.
    """

    result: SystemResult
    rate: float
    seconds: float
    means: dict[str, float]
    difference: PairedDifference | None


@dataclass(frozen=True)
class Leaderboard:
    """The table of a suite.

    Attributes:
        suite: What was trained.
        comparison: Of all systems.
        rows: By MAE, the smallest first.
        failed: Title and error of each system that could not be trained.
    """

    suite: Suite
    comparison: Comparison
    rows: tuple[LeaderboardRow, ...]
    failed: tuple[tuple[str, str], ...]


Announce = Callable[[int, int, str, float | None], None]
"""Receives the number of a training, how many there are, its name, and the estimated time left in seconds
(None before the first training of this call is finished)."""


def suite_names() -> list[str]:
    """Names of the suites that ship with agelens."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir())


def leaderboard(
    suite: Suite,
    manifest: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    latency: bool = True,
    replicates: int = 2000,
    reporter: Reporter | None = None,
    announce: Announce | None = None,
    cpu: bool = False,
) -> Leaderboard:
    """Train what is not finished, export it, and compare all systems on one split.

    Args:
        suite: The systems.
        manifest: Of aligned crops, as for ``train``.
        out: Folder of the runs.
        split: Rows that are evaluated; every choice is made on ``val``.
        latency: Time the models.
        replicates: Of the bootstrap.
        reporter: Receives steps and epochs.
        announce: Called before each training.
        cpu: Keep to the CPU.
    Returns:
        The table.
    Raises:
        SplitError: The manifest has no rows of the split.
        RunError: A run folder belongs to other data or another recipe.
        InputError: Fewer than two systems could be trained.
        OutputError: A file cannot be written.
    """
    rows = read_manifest(manifest)
    if "split" not in rows or not (rows["split"] == split).any():
        raise SplitError(f"{manifest}: no rows with split {split!r}")
    trainer = _Trainer(suite, Path(manifest), Path(out) / "runs", reporter, announce, cpu)
    systems: list[Answers] = []
    trained: dict[str, list[Run]] = {}
    failed: list[tuple[str, str]] = []
    for entry in suite.system:
        try:
            runs = trainer.train(entry)
        except OutputError:  # a full disk is no property of the system
            raise
        except AgelensError as error:
            failed.append((entry.title, str(error)))
            continue
        trained[entry.title] = runs
        models = [open_system(_model(run), entry.title) for run in runs]
        systems.append(over_seeds([model.answer(rows, split=split) for model in models]))
    quoted = [
        row
        for text in suite.quote
        for row in quoted_systems(read_published(), *(part for part in text.split(":", 1)))
    ]
    comparison = compare(
        systems, rows, (), split=split, quoted=quoted, latency=latency, replicates=replicates
    )
    differences = {
        row.a if row.b == suite.compared_with else row.b: _turned(row, suite.compared_with)
        for row in comparison.differences
        if row.metric == "MAE" and suite.compared_with in (row.a, row.b)
    }
    table = [
        LeaderboardRow(
            result,
            trained[result.name][0].recipe.train.learning_rate,
            float(np.mean([_seconds(run) for run in trained[result.name]])),
            _means(system, rows, split),
            differences.get(result.name),
        )
        for result, system in zip(comparison.systems, systems, strict=True)
    ]
    table.sort(key=lambda row: row.result.metrics["MAE"].value)
    return Leaderboard(suite, comparison, tuple(table), tuple(failed))


@dataclass
class _Trainer:
    suite: Suite
    manifest: Path
    folder: Path
    reporter: Reporter | None
    announce: Announce | None
    cpu: bool
    number: int = 0
    taken: float = 0.0
    timed: int = 0

    def train(self, entry: Entry) -> list[Run]:
        """The runs of a system's seeds, at the rate that is best on validation."""
        first, *others = entry.seeds or self.suite.seeds
        begun, rates = self.number, self.suite.rates_of(entry)
        try:
            tried = [self._run(entry, first, rate) for rate in rates]
            best = min(tried, key=lambda run: validation_mae(run, best_stage(run)))
            rate = best.recipe.train.learning_rate if None not in rates else None
            return [best, *(self._run(entry, seed, rate) for seed in others)]
        finally:  # trainings that a failure has left out do not count as time left
            self.number = begun + len(rates) + len(others)

    def _run(self, entry: Entry, seed: int, rate: float | None) -> Run:
        self.number += 1
        name = f"seed={seed}" + ("" if rate is None else f",rate={rate:g}")
        folder = self.folder / entry.title / name
        total = self.suite.trainings()
        left = self.taken / self.timed * (total - self.number + 1) if self.timed else None
        if self.announce is not None:
            self.announce(self.number, total, f"{entry.title}, {name}", left)
        started, there = monotonic(), (folder / "model.onnx").exists()
        run = train(
            self.suite.recipe(entry, seed, rate),
            self.manifest,
            folder,
            resume=True,
            start=entry.start or None,
            reporter=self.reporter,
            cpu=self.cpu,
        )
        if not there:
            export_run(run, _model(run), name=entry.title)
            self.taken += monotonic() - started
            self.timed += 1
        return run


def _model(run: Run) -> Path:
    return run.path / "model.onnx"


def _seconds(run: Run) -> float:
    """Training time of all stages, from their logs."""
    total = 0.0
    for stage in run.finished_stages():
        log = run.stage(stage) / "log.csv"
        try:
            with open_table(log) as handle:
                total += float(list(csv.DictReader(handle))[-1]["seconds"])
        except (OSError, LookupError, TypeError, ValueError, csv.Error) as error:
            raise RunError(log, f"has no seconds: {reason(error)}") from error
    return total


def _means(system: Answers, rows: Any, split: str) -> dict[str, float]:
    """Means over seeds of what is not a mean over images."""
    found: dict[str, list[float]] = {}
    for seed in system.seeds:
        judged = evaluate(
            seed.predictions,
            rows,
            (),
            calibration=seed.calibration,
            split=split,
            allow_missing=True,
            replicates=2,
        )
        figures = {name: judged.overall[name].value for name in MEANS if name in judged.overall}
        if judged.aar is not None:
            figures["sigma"] = judged.aar.sigma
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items() if np.isfinite(values).all()}


def _turned(row: PairedDifference, reference: str) -> PairedDifference:
    """The difference of the other system to the reference."""
    if row.b == reference:
        return row
    found = row.found
    flipped = type(found)(-found.difference, -found.high, -found.low, found.p)
    return PairedDifference(row.metric, row.b, row.a, flipped, row.people)


def _folder() -> Any:
    return resources.files("agelens").joinpath("recipes", "suites")
