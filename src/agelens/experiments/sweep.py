"""Sweeps: one recipe over a grid of settings and several seeds, resumed after a kill, tabulated.

LRN's Table 9 (τ, α, λ, one by one), ordinal-dark KD's Figs. 3 and 4 (sequence length, permutations; the
ranker's accuracy beside its student's errors) and, with seeds alone, LRN's Tables 7 and 8 with a deviation
beside each figure. Every point and seed is an
ordinary run folder: whatever was finished stays, whatever was interrupted goes on, and a larger grid takes in
the runs that are there. Figures are of the validation split unless another one is asked for.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from numpy.typing import NDArray

from agelens import metrics
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows, split_rows
from agelens.errors import InputError
from agelens.evaluation.band_measures import require_ages
from agelens.experiments.at_once import Training, each
from agelens.experiments.generations import estimate_stage, named_estimates
from agelens.experiments.on_ray import place_of
from agelens.files import write_atomically
from agelens.label_distribution import AgeBins
from agelens.methods.lookup import method_named
from agelens.networks.backbones import make_backbone
from agelens.reading import parse_toml
from agelens.training.fit import Reporter
from agelens.training.recipe import Recipe
from agelens.training.run import Run

__all__ = ["Axis", "Point", "Sweep", "SweepRow", "parse_axis", "plan", "resolved_settings", "sweep"]

_METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "MAE": metrics.mae,
    **{
        f"CA({n})": lambda said, ages, n=n: metrics.cumulative_accuracy(said, ages, n)  # type: ignore[misc]
        for n in (3, 5, 7)
    },
}
_ACCURACIES = ("accuracy", "inter", "inner", "chance")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Axis:
    """One setting that varies.

    Attributes:
        label: As it was asked for: ``tau``, or ``lambda_1+lambda_t`` for settings that vary together.
        keys: The dotted keys it stands for.
        values: What they take, as in TOML.
    """

    label: str
    keys: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        values: Label of each axis to what the recipe has there, as text.
        seed: Of the run.
        recipe: What is trained.
        folder: Name of the run folder within the sweep's.
    """

    values: dict[str, str]
    seed: int
    recipe: Recipe
    folder: str


@dataclass(frozen=True)
class SweepRow:
    """One estimate of one stage at one point of the grid, over its seeds.

    Attributes:
        values: Label to value.
        stage: ``generation-2`` …
        estimate: ``ldl``, ``reg``, ``age`` (what the network answers), ``argmax``; ``permutations`` of a
            ranker, whose metrics are shares of validation sequences that were recognised, and chance.
        seeds: Those that are finished.
        mean: Metric to mean over the seeds.
        deviation: Metric to standard deviation over the seeds (n - 1); None with one seed.
    """

    values: dict[str, str]
    stage: str
    estimate: str
    seeds: tuple[int, ...]
    mean: dict[str, float]
    deviation: dict[str, float | None]

    def cells(self) -> dict[str, str]:
        """Give the row as text: ``4.98 ± 0.03``."""
        shown = {}
        for name, mean in self.mean.items():
            deviation, digits = self.deviation[name], 2 if name.startswith("CA(") else 3
            shown[name] = f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
        return {
            **self.values,
            "stage": self.stage,
            "estimate": self.estimate,
            "seeds": str(len(self.seeds)),
            **shown,
        }


@dataclass(frozen=True)
class Sweep:
    """The table of a sweep.

    Attributes:
        recipe: Its name.
        split: What the figures are of.
        labels: The axes.
        runs: One a run, stage and estimate: values, ``seed``, ``folder``, ``stage``, ``estimate``, metrics.
        rows: Means over seeds, in the order of the grid.
    """

    recipe: str
    split: str
    labels: tuple[str, ...]
    runs: tuple[dict[str, Any], ...]
    rows: tuple[SweepRow, ...]

    def last_stage(self, estimate: str = "age") -> list[SweepRow]:
        """Give the rows of the stage that predicts, for one estimate."""
        last: dict[tuple[str, ...], SweepRow] = {}
        for row in self.rows:
            if row.estimate == estimate:
                last[tuple(row.values.values())] = row
        return list(last.values())


def parse_axis(text: str, recipe: Recipe) -> Axis:
    """Read ``key=value,value,…``.

    A key is a dotted key of the recipe, its end (``tau`` for ``method.settings.tau``) if that is unique, or
    several of them joined by ``+`` that take the same value.

    Args:
        text: E.g. ``tau=1,2,3,4`` or ``network.backbone=resnet10,resnet18``.
        recipe: Whose settings they are.
    Returns:
        The axis.
    Raises:
        InputError: No such setting, several of that name, no value, or a value twice.
    """
    label, equals, listed = text.partition("=")
    label = label.strip()
    if not equals or not label or not listed.strip():
        raise InputError(f"--grid {text!r} must read key=value,value")
    known = resolved_settings(recipe)
    keys = tuple(_resolve(part.strip(), known) for part in label.split("+"))
    if "seed" in keys:
        raise InputError("seeds vary by --seeds, not by --grid")
    values = _values(listed)
    for number, value in enumerate(values):
        if value in values[:number]:
            raise InputError(f"--grid {text!r} has the value {_text(value)} twice")
    return Axis(label, keys, values)


def resolved_settings(recipe: Recipe) -> dict[str, Any]:
    """Give every setting of a recipe by its dotted key, the method's defaults too.

    Raises:
        RecipeError: The method refuses its settings.
        InputError: An unknown method.
    """
    method = method_named(recipe.method.name)(recipe, AgeBins(0, 100))
    table = recipe.model_dump(mode="json")
    table["method"]["settings"] = method.settings.model_dump(mode="json")
    return dict(_leaves("", table))


def plan(
    source: str | Path,
    grid: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    one_at_a_time: bool = False,
) -> list[Point]:
    """Lay out the runs of a sweep; every recipe is validated before any of them is trained.

    Args:
        source: Name of a recipe, or its file.
        grid: An axis each, as :func:`parse_axis` reads it; empty: seeds alone.
        seeds: One run of each point for each.
        overrides: ``key=value`` for all runs.
        one_at_a_time: Vary one axis, the others as the recipe has them (LRN's Table 9), instead of all
            combinations.
    Returns:
        The runs; points that several axes share occur once.
    Raises:
        RecipeError: A recipe that cannot be used.
        InputError: An axis that cannot be used, an axis twice, an unknown backbone, no seeds, or one twice.
    """
    base = Recipe.load(source, overrides)
    axes = [parse_axis(text, base) for text in grid]
    named = [key for axis in axes for key in axis.keys]
    if twice := {key for key in named if named.count(key) > 1}:
        raise InputError(f"--grid names {min(twice)} twice")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise InputError(f"seeds must be different numbers from 0 on, not {list(seeds)}")
    choices: Iterable[tuple[tuple[Axis, Any], ...]]
    if one_at_a_time:
        choices = [((axis, value),) for axis in axes for value in axis.values] or [()]
    else:
        choices = itertools.product(*([(axis, value) for value in axis.values] for axis in axes))
    points: dict[str, Point] = {}
    for choice in choices:
        settled = [f"{key}={json.dumps(value)}" for axis, value in choice for key in axis.keys]
        for seed in seeds:
            recipe = Recipe.load(source, [*overrides, *settled, f"seed={seed}"])
            settings = resolved_settings(recipe)
            values = {axis.label: _shown([settings.get(key) for key in axis.keys]) for axis in axes}
            folder = _folder(values, seed)
            points.setdefault(folder, Point(values, seed, recipe, folder))
    if "network.backbone" in named:
        for name in {point.recipe.network.backbone for point in points.values()}:
            with torch.device("meta"):  # without memory: only to learn whether there is one
                make_backbone(name)
    return list(points.values())


def sweep(
    points: Sequence[Point],
    manifest: str | Path,
    out: str | Path,
    *,
    split: str = "val",
    starts: Mapping[str, str | Path] | None = None,
    random_start: bool = False,
    reporter: Reporter | None = None,
    loading: Callable[[int, int], None] | None = None,
    announce: Callable[[int, Point], None] | None = None,
    cpu: bool = False,
    jobs: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
) -> Sweep:
    """Train every point that is not finished, and tabulate all of them.

    ``sweep.csv`` (means), ``runs.csv`` (every run) and ``sweep.json`` (both) are written anew after each run.

    Args:
        points: Of :func:`plan`.
        manifest: Of aligned crops, as for ``train``.
        out: Folder of the run folders.
        split: Rows that the figures are of; the validation figures cost nothing.
        starts: Pre-trained weights by backbone; ``""``: for every backbone that is not named.
        random_start: As in :func:`agelens.experiments.train.train`.
        reporter: Receives steps and epochs.
        loading: Called with (done, total) while crops are decoded.
        announce: Called with the number of a run, from 1, before it is trained or taken in.
        cpu: Keep to the CPU.
        jobs: Trainings at a time; more than one: each in a process of its own, with its share of the cores
            and one accelerator, and without ``reporter`` and ``loading``. None: one; on Ray one for each
            accelerator or machine.
        engine: ``local``, or ``ray``: trainings are tasks of a Ray cluster.
        ray_address: Of that cluster, ``HOST:PORT`` or ``auto``; None: one on this machine, for the call.
    Returns:
        The table.
    Raises:
        InputError: No points, a backbone of the grid has no weights to start from and others have, several
            jobs of a process that is one of several, an address of Ray that does not answer, or labels to
            judge by that are age bands.
        MissingExtraError: Ray is missing.
        RunError: A run folder belongs to other data or another recipe.
        SplitError: The manifest has no rows of the split, none to train on or none to validate on.
        OutputError: A file cannot be written.
    """
    if not points:
        raise InputError("a sweep needs a run")
    labelled = any(method_named(point.recipe.method.name).learns == "ages" for point in points)
    rows = read_manifest(manifest, ages=labelled)
    judged = split_rows(rows, "val") if split == "val" else required_rows(rows, split, manifest)
    if labelled:
        require_ages(judged, "a sweep")
    for point in points if starts else ():
        _start_of(point, starts or {})
    folder = Path(out)
    place = place_of(engine, jobs, ray_address, cpu)
    if place is not None and PartialState().num_processes > 1:
        raise InputError("trainings at the same time start processes of their own: without accelerate launch")

    def started(numbered: tuple[int, Point]) -> Training:
        number, point = numbered
        if announce is not None:
            announce(number, point)
        start = _start_of(point, starts or {})
        return Training(
            *(point.recipe, Path(manifest), folder / point.folder),
            *(None if start is None else str(start), cpu, random_start),
        )

    def runs() -> Iterator[Run]:
        if place is None:
            for numbered in enumerate(points, start=1):
                yield started(numbered).run(reporter, loading)
            return

        def elsewhere(numbered: tuple[int, Point]) -> Run:
            training = started(numbered)
            place.train(training)
            return Run.open(training.out)

        yield from each(place, elsewhere, enumerate(points, start=1))

    measured: list[dict[str, Any]] = []
    table = Sweep(points[0].recipe.name, split, tuple(points[0].values), (), ())
    for point, run in zip(points, runs(), strict=True):
        if PartialState().is_main_process:
            measured += _figures(run, point, manifest, split)
            table = _tabulate(table, measured)
            _write(table, folder)
    return table


def _start_of(point: Point, starts: Mapping[str, str | Path]) -> str | Path | None:
    """Weights that a point starts from: of its backbone, or of all."""
    backbone = point.recipe.network.backbone
    start = starts.get(backbone, starts.get(""))
    if starts and start is None:
        raise InputError(
            f"run {point.folder!r} needs pre-trained weights of {backbone!r}: --start {backbone}=PATH"
        )
    return start


def _figures(run: Run, point: Point, manifest: str | Path, split: str) -> list[dict[str, Any]]:
    """The figures of every stage of a finished run that estimates ages, and of rankers on validation."""
    measured = []
    for stage in run.finished_stages():
        validation = run.read_json(stage, "validation.json")
        place = {**point.values, "seed": point.seed, "folder": point.folder, "stage": stage}
        if "permutations" in validation and split == "val":
            ranked = {**validation["permutations"], **validation["permutations"].get("by kind", {})}
            accuracies = {name: float(ranked[name]) for name in _ACCURACIES if name in ranked}
            measured.append({**place, "estimate": "permutations", **accuracies})
        judged = validation.get("estimates")
        if judged is None:
            continue
        if split == "val":
            arrays = run.read_arrays(stage, "validation.npz")
            ages = arrays["ages"]
        else:
            selected = required_rows(read_manifest(manifest), split, manifest)
            ages, arrays = selected["age"].to_numpy(), estimate_stage(run, stage, selected).arrays()
        for name, values in named_estimates(arrays, AgeBins.parse(run.fact("age_bins"))).items():
            figures = {metric: float(function(values, ages)) for metric, function in _METRICS.items()}
            measured.append({**place, "estimate": name, **figures})
    return measured


def _tabulate(table: Sweep, runs: Sequence[Mapping[str, Any]]) -> Sweep:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        place = tuple(run[label] for label in table.labels)
        groups.setdefault((*place, run["stage"], run["estimate"]), []).append(run)
    rows = []
    for (*values, stage, estimate), members in groups.items():
        reported = [name for name in (*_METRICS, *_ACCURACIES) if all(name in member for member in members)]
        figures = {name: [float(member[name]) for member in members] for name in reported}
        rows.append(
            SweepRow(
                values=dict(zip(table.labels, values, strict=True)),
                stage=stage,
                estimate=estimate,
                seeds=tuple(int(member["seed"]) for member in members),
                mean={name: statistics.fmean(taken) for name, taken in figures.items()},
                deviation={
                    name: statistics.stdev(taken) if len(taken) > 1 else None
                    for name, taken in figures.items()
                },
            )
        )
    return Sweep(table.recipe, table.split, table.labels, tuple(dict(run) for run in runs), tuple(rows))


def _write(table: Sweep, folder: Path) -> None:
    summary = [
        {
            **row.values,
            "stage": row.stage,
            "estimate": row.estimate,
            "seeds": len(row.seeds),
            **row.mean,
            **{f"{name} deviation": value for name, value in row.deviation.items()},
        }
        for row in table.rows
    ]
    for name, rows in (("sweep.csv", summary), ("runs.csv", list(table.runs))):
        if not rows:
            continue
        text = io.StringIO(newline="")
        writer = csv.DictWriter(
            text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    with write_atomically(folder / "sweep.json") as temporary:
        temporary.write_text(json.dumps(asdict(table), indent=2) + "\n", encoding="utf-8")


def _leaves(prefix: str, table: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _resolve(name: str, known: Mapping[str, Any]) -> str:
    if name in known:
        return name
    matches = [key for key in known if key.endswith(f".{name}")] if name else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(f"--grid {name}: there are several, {', '.join(matches)}: give one in full")
    raise InputError(f"--grid {name!r}: no such setting; there are {', '.join(known)}")


def _values(text: str) -> tuple[Any, ...]:
    """Read values as a TOML array; words need no quotes."""
    try:
        values: list[Any] = parse_toml(f"values = [{text}]")["values"]
    except ValueError:
        values = [_value(part.strip()) for part in text.split(",")]
    if any(value == "" for value in values):
        raise InputError(f"--grid: an empty value in {text!r}")
    return tuple(values)


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _shown(values: Sequence[Any]) -> str:
    return "/".join(dict.fromkeys(_text(value) for value in values))


def _folder(values: Mapping[str, str], seed: int) -> str:
    named = ",".join(f"{label}={values[label]}" for label in sorted(values))
    safe = re.sub(r"[^\w.+=,-]", "_", named)
    if safe != named or len(safe) > _LONGEST_NAME:  # two values must not share a folder
        safe = f"{safe[:_LONGEST_NAME]},{hashlib.sha256(named.encode()).hexdigest()[:8]}"
    return f"{safe},seed={seed}" if safe else f"seed={seed}"
