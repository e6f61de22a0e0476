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
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import AgelensError, InputError, OutputError, RecipeError, RunError
from agelens.evaluation.compare import Comparison, PairedDifference, SystemResult, compare
from agelens.evaluation.evaluate import evaluate
from agelens.evaluation.published import quoted_systems, read_published
from agelens.evaluation.systems import Answers, open_system, over_seeds
from agelens.experiments.at_once import Place, Training, each
from agelens.experiments.on_ray import place_of
from agelens.experiments.teaching import teacher_path
from agelens.export.from_run import export_run
from agelens.methods.lookup import method_named
from agelens.methods.ordinal_dark import distillation_settings
from agelens.reading import open_table, parse_toml, read_text, reason
from agelens.training.fit import Reporter
from agelens.training.recipe import Recipe, validated
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
        start: Weights it starts from, as ``train --start``, in place of the suite's; empty: those.
        teachers: That teach it, as ``train --teacher``: shipped models, or paths of runs or model files.
    """

    recipe: str
    name: str = ""
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    start: str = ""
    teachers: tuple[str, ...] = ()

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
        start: Weights that all systems start from, as ``train --start``; empty: none.
        quote: ``DATA SET`` or ``DATA SET:PROTOCOL`` whose published figures stand beside.
        system: The systems.
    """

    name: str
    terms: str = ""
    reference: str = ""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    rates: tuple[float, ...] = ()
    set: tuple[str, ...] = ()
    start: str = ""
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
            RecipeError: Not a suite, an unknown key, a value out of range, a recipe that cannot be used, or
                a teacher that is neither a shipped model nor a path.
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
        suite = validated(cls, table, source)
        for entry in suite.system:
            try:
                suite.recipe(entry, suite.seeds[0], None)
            except RecipeError:
                raise
            except InputError as error:
                raise RecipeError(source, f"system.{entry.title}", str(error)) from error
        return suite

    def recipe(self, entry: Entry, seed: int, rate: float | None) -> Recipe:
        """The recipe of one training.

        Raises:
            RecipeError: It cannot be used.
            InputError: A teacher is neither a shipped model nor a path.
        """
        tuned = [] if rate is None else [f"train.learning_rate={rate}"]
        taught = distillation_settings([teacher_path(name) for name in entry.teachers])
        return Recipe.load(entry.recipe, [*self.set, *entry.set, f"seed={seed}", *tuned, *taught])

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
    jobs: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
) -> Leaderboard:
    """Train what is not finished, export it, and compare all systems on one split.

    Args:
        suite: The systems.
        manifest: Of aligned crops, as for ``train``.
        out: Folder of the runs.
        split: Rows that are evaluated; every choice is made on ``val``.
        latency: Time the models.
        replicates: Of the bootstrap.
        reporter: Receives steps and epochs; of one training at a time only.
        announce: Called before each training.
        cpu: Keep to the CPU.
        jobs: Trainings at a time. More than one: each in a process of its own with its share of the cores,
            and one accelerator, dealt in turn. None: one; on Ray one for each accelerator or machine.
        engine: ``local``, or ``ray``: trainings are tasks of a Ray cluster.
        ray_address: Of that cluster, ``HOST:PORT`` or ``auto``; None: one on this machine, for the call.
    Returns:
        The table.
    Raises:
        SplitError: The manifest has no rows of the split.
        RunError: A run folder belongs to other data or another recipe.
        InputError: Fewer than two systems could be trained, a number of jobs that cannot be used, or an
            address of Ray that does not answer.
        MissingExtraError: Ray is missing.
        OutputError: A file cannot be written.
    """
    rows = read_manifest(manifest)
    required_rows(rows, split, manifest)
    place = place_of(engine, jobs, ray_address, cpu)
    trainer = _Trainer(suite, Path(manifest), Path(out) / "runs", reporter, announce, cpu, place)
    systems: list[Answers] = []
    trained: dict[str, list[Run]] = {}
    failed: list[tuple[str, str]] = []
    for entry, runs in zip(suite.system, trainer.train_all(), strict=True):
        if isinstance(runs, AgelensError):
            failed.append((entry.title, str(runs)))
            continue
        trained[entry.title] = runs
        models = [open_system(_model(run), entry.title) for run in runs]
        systems.append(over_seeds([model.answer(rows, split=split) for model in models]))
    if len(systems) < 2:
        name, why = failed[0]
        raise InputError(f"{len(systems)} of {len(suite.system)} systems could be trained; {name}: {why}")
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
    place: Place | None
    number: int = 0
    taken: float = 0.0
    timed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def train_all(self) -> list[list[Run] | AgelensError]:
        """The runs of every system, or the error of one that cannot be trained."""
        if (place := self.place) is None:
            return [self._train(entry, self._here) for entry in self.suite.system]

        def train_one(entry: Entry) -> list[Run] | AgelensError:
            return self._train(entry, place.train)

        return list(each(place, train_one, self.suite.system))

    def _train(self, entry: Entry, work: Callable[[Training], None]) -> list[Run] | AgelensError:
        """The runs of a system's seeds, at the rate that is best on validation."""
        first, *others = entry.seeds or self.suite.seeds
        rates, begun = self.suite.rates_of(entry), 0
        try:
            tried = []
            for rate in rates:
                begun += 1
                tried.append(self._run(entry, first, rate, work))
            best = min(tried, key=lambda run: validation_mae(run, best_stage(run)))
            rate = best.recipe.train.learning_rate if None not in rates else None
            runs = [best]
            for seed in others:
                begun += 1
                runs.append(self._run(entry, seed, rate, work))
            for run in runs:
                if not _model(run).exists():
                    export_run(run, _model(run), name=entry.title)
            return runs
        except OutputError:  # a full disk is no property of the system
            raise
        except AgelensError as error:
            with self.lock:  # trainings that a failure has left out do not count as time left
                self.number += len(rates) + len(others) - begun
            return error

    def _run(self, entry: Entry, seed: int, rate: float | None, work: Callable[[Training], None]) -> Run:
        name = f"seed={seed}" + ("" if rate is None else f",rate={rate:g}")
        folder = self.folder / entry.title / name
        recipe, start = self.suite.recipe(entry, seed, rate), entry.start or self.suite.start or None
        total = self.suite.trainings()
        with self.lock:
            self.number += 1
            average = self.taken / self.timed if self.timed else None
            jobs = 1 if self.place is None else self.place.jobs
            left = None if average is None else average * (total - self.number + 1) / jobs
            if self.announce is not None:
                self.announce(self.number, total, f"{entry.title}, {name}", left)
        started, there = monotonic(), _is_finished(folder)
        work(Training(recipe, self.manifest, folder, start, self.cpu))
        if not there:
            with self.lock:
                self.taken += monotonic() - started
                self.timed += 1
        return Run.open(folder)

    def _here(self, training: Training) -> None:
        training.run(self.reporter)


def _is_finished(folder: Path) -> bool:
    if not (folder / "run.json").exists():
        return False
    run = Run.open(folder)
    return set(run.finished_stages()) >= set(run.facts.get("stages", ()))


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
    paired = row.paired
    flipped = type(paired)(-paired.difference, -paired.high, -paired.low, paired.p)
    return PairedDifference(row.metric, row.b, row.a, flipped, row.people)


def _folder() -> Any:
    return resources.files("agelens").joinpath("recipes", "suites")
