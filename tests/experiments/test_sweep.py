"""Sweeps: keys and values are read, runs laid out once, trained, resumed after a kill, tabulated."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file
from typer.testing import CliRunner

pytest.importorskip("torch", reason="sweeps need the extra train")

from agelens import metrics
from agelens.apps.cli import app
from agelens.errors import InputError, RecipeError, RunError, SplitError
from agelens.experiments.sweep import Sweep, parse_axis, plan, sweep
from agelens.label_distribution import AgeBins
from agelens.training.recipe import Recipe
from agelens.training.run import Run

DrawFace = Callable[..., NDArray[np.uint8]]

RECIPE = """
name = "small"
age_bins = "0-80"
[method]
name = "lrn"
[method.settings]
generations = 1
[network]
backbone = "resnet10-tiny"
input_size = 32
[train]
epochs = 1
batch_size = 8
optimizer = "adamw"
learning_rate = 0.003
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [float(generator.integers(0, 81)) for _ in range(32)]
    return make_crops(ages, 32, split=["train"] * 16 + ["val"] * 8 + ["test"] * 8)


class TestAxis:
    @pytest.mark.parametrize(
        ("text", "keys", "values"),
        [
            ("tau=1,2,3,4", ("method.settings.tau",), (1, 2, 3, 4)),
            ("method.settings.alpha=0.25,0.5", ("method.settings.alpha",), (0.25, 0.5)),
            ("settings.lambda_1=1", ("method.settings.lambda_1",), (1,)),
            ("ancestor_tau=1,2", ("method.settings.ancestor_tau",), (1, 2)),  # a default of the method
            ("lambda_1+lambda_t=1,4", ("method.settings.lambda_1", "method.settings.lambda_t"), (1, 4)),
            ("backbone=resnet10, resnet18-tiny", ("network.backbone",), ("resnet10", "resnet18-tiny")),
            ('heads=["ldl"],["ldl","reg"]', ("network.heads",), (["ldl"], ["ldl", "reg"])),
            ("mirror=true,false", ("network.mirror",), (True, False)),
            ("epochs=1", ("train.epochs",), (1,)),
            ("name=a,b", ("name",), ("a", "b")),  # in full; not the end of method.name
        ],
    )
    def test_keys_and_values(
        self, recipe: Path, text: str, keys: tuple[str, ...], values: tuple[Any, ...]
    ) -> None:
        axis = parse_axis(text, Recipe.load(recipe))
        assert (axis.keys, axis.values) == (keys, values)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tau", "must read key=value,value"),
            ("tau=", "must read key=value,value"),
            ("=1", "must read key=value,value"),
            ("tau=1,,2", "an empty value"),
            ("tau=1,2,1", "has the value 1 twice"),
            ("beta=1", "'beta': no such setting; there are .*method.settings.tau"),
            ("tau+=1", "'': no such setting"),
            ("seed=0,1", "seeds vary by --seeds"),
        ],
    )
    def test_refusals(self, recipe: Path, text: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            parse_axis(text, Recipe.load(recipe))

    def test_an_end_that_several_keys_share_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import agelens.experiments.sweep as module

        known = {"train.rate": 1, "method.settings.rate": 2, "rates": ()}
        monkeypatch.setattr(module, "resolved_settings", lambda recipe: known)
        table = {"name": "x", "method": {"name": "lrn"}}
        with pytest.raises(InputError, match=r"rate: there are several, train\.rate, method\.settings\.rate"):
            parse_axis("rate=1", Recipe.validate(table, "x"))


class TestPlan:
    def test_all_combinations_with_all_seeds(self, recipe: Path) -> None:
        points = plan(recipe, ["tau=1,2", "alpha=0.5,0.75,1"], [0, 1])
        assert len(points) == 12
        assert len({point.folder for point in points}) == 12
        first = points[0]
        assert first.folder == "alpha=0.5,tau=1,seed=0"
        assert first.values == {"tau": "1", "alpha": "0.5"}
        assert first.recipe.method.settings["tau"] == 1
        assert {point.recipe.seed for point in points} == {0, 1}

    def test_one_at_a_time_shares_the_middle(self, recipe: Path) -> None:
        # LRN Table 9: 4 + 4 + 5 rows, of which (2, 0.5, 4) stands three times.
        grid = ["tau=1,2,3,4", "alpha=0.25,0.5,0.75,1.0", "lambda_1+lambda_t=1,2,3,4,5"]
        points = plan(recipe, grid, [0], one_at_a_time=True)
        assert len(points) == 11
        rows = [tuple(point.values.values()) for point in points]
        assert rows[:2] == [("1", "0.5", "4"), ("2", "0.5", "4")]
        assert ("2", "0.5", "5") in rows
        assert points[-1].recipe.method.settings["lambda_t"] == 5

    def test_a_larger_grid_keeps_the_folders(self, recipe: Path) -> None:
        small = {point.folder for point in plan(recipe, ["tau=1,2"], [0])}
        assert small < {point.folder for point in plan(recipe, ["tau=3,2,1"], [1, 0])}

    def test_seeds_alone(self, recipe: Path) -> None:
        points = plan(recipe, [], [3, 4])
        assert [point.folder for point in points] == ["seed=3", "seed=4"]
        assert points[0].values == {}

    def test_folder_names_are_safe_and_differ(self, recipe: Path) -> None:
        points = plan(
            recipe, ["source=a/b,a_b,a:b,../../c", "name=" + "x" * 300 + "," + "x" * 299 + "y"], [0]
        )
        assert len({point.folder for point in points}) == 8
        for point in points:
            assert "/" not in point.folder
            assert len(point.folder) < 200

    @pytest.mark.parametrize(
        ("grid", "seeds", "error", "message"),
        [
            (["alpha=0.5,7"], [0], RecipeError, "method.settings.alpha"),
            (["epochs=0,1"], [0], RecipeError, "train.epochs"),
            (["backbone=resnet10,unheard"], [0], InputError, "unheard"),
            (["tau=1", "method.settings.tau=2"], [0], InputError, "names method.settings.tau twice"),
            (["tau=1"], [], InputError, "seeds must be different"),
            (["tau=1"], [1, 1], InputError, "seeds must be different"),
            (["tau=1"], [-1], InputError, "seeds must be different"),
        ],
    )
    def test_a_bad_point_is_refused_before_any_training(
        self, recipe: Path, grid: list[str], seeds: list[int], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            plan(recipe, grid, seeds)


class _Killer:
    """A reporter that interrupts the n-th epoch of all."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def note(self, message: str) -> None: ...

    def step(
        self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]
    ) -> None: ...

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def swept(recipe: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    out = tmp_path_factory.mktemp("sweep")
    return out, sweep(plan(recipe, ["tau=1,2"], [0, 1]), manifest, out, cpu=True)


class TestSweep:
    def test_every_row_is_the_mean_over_its_runs(self, swept: tuple[Path, Sweep]) -> None:
        out, table = swept
        assert len(table.runs) == 2 * 2 * 4
        assert [(row.values, row.estimate) for row in table.rows][:4] == [
            ({"tau": "1"}, "ldl"),
            ({"tau": "1"}, "reg"),
            ({"tau": "1"}, "age"),
            ({"tau": "1"}, "argmax"),
        ]
        for row in table.rows:
            taken = []
            for seed in (0, 1):
                run = Run.open(out / f"tau={row.values['tau']},seed={seed}")
                arrays = run.read_arrays("generation-1", "validation.npz")
                most_probable = AgeBins.parse(run.fact("age_bins")).ages[arrays["logits"].argmax(axis=1)]
                said = {**arrays, "argmax": most_probable}[row.estimate]
                taken.append(metrics.mae(said, arrays["ages"]))
            assert row.seeds == (0, 1)
            assert row.mean["MAE"] == pytest.approx(statistics.fmean(taken), abs=1e-12)
            assert row.deviation["MAE"] == pytest.approx(abs(taken[0] - taken[1]) / 2**0.5, abs=1e-12)
            assert row.deviation["MAE"] > 0 or row.estimate == "argmax"

    def test_settings_and_seeds_reach_the_runs(self, swept: tuple[Path, Sweep]) -> None:
        out, _ = swept
        for tau in (1, 2):
            for seed in (0, 1):
                recipe = Run.open(out / f"tau={tau},seed={seed}").recipe
                assert (recipe.method.settings["tau"], recipe.seed) == (tau, seed)

    def test_tables_are_written(self, swept: tuple[Path, Sweep]) -> None:
        out, table = swept
        with open(out / "sweep.csv", newline="") as handle:
            rows = list(csv.DictReader(handle))
        assert [float(row["MAE"]) for row in rows] == [row.mean["MAE"] for row in table.rows]
        assert float(rows[0]["MAE deviation"]) == table.rows[0].deviation["MAE"]
        with open(out / "runs.csv", newline="") as handle:
            assert len(list(csv.DictReader(handle))) == len(table.runs)
        told = json.loads((out / "sweep.json").read_text())
        assert told["labels"] == ["tau"]
        assert len(told["rows"]) == len(table.rows)

    def test_the_last_stage_s_answer_is_what_is_shown(self, swept: tuple[Path, Sweep]) -> None:
        _, table = swept
        shown = table.last_stage()
        assert [(row.values["tau"], row.stage, row.estimate) for row in shown] == [
            ("1", "generation-1", "age"),
            ("2", "generation-1", "age"),
        ]
        cells = shown[0].cells()
        assert cells["MAE"] == f"{shown[0].mean['MAE']:.3f} ± {shown[0].deviation['MAE']:.3f}"
        assert cells["seeds"] == "2"

    def test_a_killed_sweep_goes_on_to_the_same_table(
        self, swept: tuple[Path, Sweep], recipe: Path, manifest: Path, tmp_path: Path
    ) -> None:
        _, whole = swept
        points = plan(recipe, ["tau=1,2"], [0, 1])
        with pytest.raises(KeyboardInterrupt):
            sweep(points, manifest, tmp_path, reporter=_Killer(2), cpu=True)
        assert (tmp_path / "sweep.csv").is_file()  # what is finished is tabulated already
        first = tmp_path / points[0].folder / "generation-1" / "network.safetensors"
        before = first.stat().st_mtime_ns
        begun: list[str] = []
        table = sweep(
            points,
            manifest,
            tmp_path,
            announce=lambda number, point: begun.append(f"{number} {point.folder}"),
            cpu=True,
        )
        assert begun[0] == "1 tau=1,seed=0"
        assert len(begun) == 4
        assert first.stat().st_mtime_ns == before
        assert table == whole
        for point in points:
            files = [
                folder / point.folder / "generation-1" / "network.safetensors"
                for folder in (tmp_path, swept[0])
            ]
            one, other = (load_file(file) for file in files)
            assert all((one[name] == other[name]).all() for name in one)

    def test_another_split_is_estimated(
        self, swept: tuple[Path, Sweep], recipe: Path, manifest: Path
    ) -> None:
        out, table = swept
        again = sweep(plan(recipe, ["tau=1,2"], [0, 1]), manifest, out, split="test", cpu=True)
        assert again.split == "test"
        assert again.rows[0].mean != table.rows[0].mean
        validation = sweep(plan(recipe, ["tau=1,2"], [0, 1]), manifest, out, split="val", cpu=True)
        assert validation == table
        with pytest.raises(SplitError, match="no rows with split 'dev'"):
            sweep(plan(recipe, [], [0]), manifest, out, split="dev", cpu=True)

    def test_a_changed_recipe_is_told(self, swept: tuple[Path, Sweep], recipe: Path, manifest: Path) -> None:
        points = plan(recipe, ["tau=1"], [0], ["train.learning_rate=0.1"])
        with pytest.raises(RunError, match="was started with another recipe"):
            sweep(points, manifest, swept[0], cpu=True)


class TestCommand:
    def run(self, *arguments: str | Path) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["sweep", *(str(argument) for argument in arguments)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    def test_it_takes_in_what_is_there(self, swept: tuple[Path, Sweep], recipe: Path, manifest: Path) -> None:
        out, table = swept
        code, text = self.run(
            *(recipe, "--data", manifest, "--out", out, "--grid", "tau=1,2", "--seeds", "0,1", "--cpu")
        )
        assert code == 0, text
        assert table.last_stage()[0].cells()["MAE"] in text
        assert "run 4 of 4: tau=2,seed=1" in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--grid", "beta=1"], "no such setting"),
            (["--grid", "alpha=2"], "method.settings.alpha"),
            (["--seeds", "one"], "--seeds must be whole numbers"),
            (["--seeds", "0,0"], "seeds must be different"),
            (["--split", "dev"], "no rows with split 'dev'"),
        ],
    )
    def test_bad_input(
        self, recipe: Path, manifest: Path, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        code, text = self.run(recipe, "--data", manifest, "--out", tmp_path / "out", *arguments)
        assert code == 2
        assert message in text
        assert not (tmp_path / "out").exists()
