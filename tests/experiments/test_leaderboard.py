"""The leaderboard: a suite trains on drawn faces, continues after an interruption, and gives one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agelens.errors import InputError, OutputError, RecipeError, SplitError
from agelens.experiments.leaderboard import Leaderboard, Suite, leaderboard, suite_names
from agelens.reports.leaderboard import leaderboard_rows, write_leaderboard

SUITE = """
name = "drawn"
terms = "Drawn faces of 40 px, one epoch for all."
reference = "cross entropy"
seeds = [0]
set = [
    "train.epochs=1", "train.batch_size=16", "train.sizes=[]", "network.input_size=32",
    "train.precision='no'",
]
quote = ["UTKFace:five"]

[[system]]
name = "absolute error"
recipe = "l1-utkface"

[[system]]
name = "cross entropy"
recipe = "dex-utkface"
seeds = [0, 1]

[[system]]
name = "too slow"
recipe = "corn-utkface"
set = ["train.batch_size=1000"]
"""


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    return make_crops([number % 80 for number in range(96)], 40, split=["train", "val", "test"] * 32)


class _Interrupted:
    """A reporter that is interrupted in the epoch that is counted."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def note(self, message: str) -> None:
        pass

    def step(self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]) -> None:
        pass

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_full_disk_ends_it_and_is_no_failure_of_a_system(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("out/log.csv", "cannot write: No space left on device")

    monkeypatch.setattr("agelens.experiments.at_once.train", full)
    (tmp_path / "suite.toml").write_text(SUITE)
    with pytest.raises(OutputError, match="No space left"):
        leaderboard(Suite.load(tmp_path / "suite.toml"), manifest, tmp_path / "out", cpu=True)


def test_teachers_of_a_system(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE + '[[system]]\nrecipe = "student-utkface"\nteachers = ["resnet10-tiny-utkface"]\n')
    with pytest.raises(
        RecipeError, match=r"\[system\.student-utkface\]: teacher resnet10-tiny-utkface: no such"
    ):
        Suite.load(path)
    path.write_text(path.read_text().replace('"resnet10-tiny-utkface"', '"resnet10-tiny-lrn-utkface"'))
    suite = Suite.load(path)
    (teacher,) = suite.recipe(suite.system[-1], 0, None).method.settings["teachers"]
    assert Path(teacher).is_file()


@pytest.mark.slow
def test_it_continues_and_makes_one_table(manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    suite = Suite.load(path)
    assert suite.trainings() == 4
    with pytest.raises(KeyboardInterrupt):
        leaderboard(suite, manifest, tmp_path / "out", reporter=_Interrupted(2), cpu=True)
    first = tmp_path / "out" / "runs" / "absolute error" / "seed=0"
    finished = (first / "baseline" / "network.safetensors").stat().st_mtime_ns
    announced: list[tuple[int, int, str, float | None]] = []

    def announce(number: int, total: int, name: str, left: float | None) -> None:
        announced.append((number, total, name, left))

    table = leaderboard(
        suite, manifest, tmp_path / "out", latency=False, replicates=50, announce=announce, cpu=True, jobs=2
    )
    assert (first / "baseline" / "network.safetensors").stat().st_mtime_ns == finished
    assert [(number, total) for number, total, _, _ in announced] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {name for _, _, name, _ in announced} == {
        "absolute error, seed=0",
        "cross entropy, seed=0",
        "cross entropy, seed=1",
        "too slow, seed=0",
    }
    assert announced[1][3] is None  # what was finished before tells no time
    assert announced[3][3] is not None
    assert announced[3][3] > 0
    ((name, error),) = table.failed
    assert name == "too slow"
    assert "fewer than one batch" in error
    _check_files(table, tmp_path / "out")


def _check_files(table: Leaderboard, out: Path) -> None:
    write_leaderboard(table, out)
    with open(out / "leaderboard.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    measured = {row["system"]: row for row in rows if row["rate"]}
    assert set(measured) == {"absolute error", "cross entropy"}
    maes = [row.result.metrics["MAE"].value for row in table.rows]
    assert maes == sorted(maes)
    reference = measured["cross entropy"]
    assert (reference["verdict"], reference["difference of MAE"], reference["seeds"]) == (
        "reference",
        "",
        "2",
    )
    other = measured["absolute error"]
    assert other["verdict"] in ("better", "worse", "no difference shown")
    by_name = {row.result.name: row for row in table.rows}
    difference = by_name["absolute error"].difference
    assert difference is not None
    assert difference.paired.difference == pytest.approx(
        by_name["absolute error"].result.metrics["MAE"].value
        - by_name["cross entropy"].result.metrics["MAE"].value
    )
    assert "[" in other["MAE"]
    assert other["coverage(90%)"].endswith("%")
    assert int(other["parameters"].replace(",", "")) > 1_000_000
    assert any("quoted: " in row["system"] and row["training [s]"] == "" for row in rows)
    stored = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert stored["failed"][0]["system"] == "too slow"
    assert [row["system"] for row in stored["systems"]] == [row["system"] for row in rows[:2]]
    first, second, *_ = (out / "leaderboard.md").read_text(encoding="utf-8").splitlines()[2:]
    assert (first.split(" | ")[0], second.split(" | ")[0]) == tuple(f"| {row['system']}" for row in rows[:2])
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert "Drawn faces of 40 px" in page
    assert "too slow could not be trained" in page
    assert leaderboard_rows(table)[0]["system"] == rows[0]["system"]


def test_a_suite_is_checked(tmp_path: Path) -> None:
    def shown(text: str) -> str:
        (tmp_path / "suite.toml").write_text(text)
        with pytest.raises(RecipeError) as error:
            Suite.load(tmp_path / "suite.toml")
        return str(error.value)

    one = '[[system]]\nrecipe = "dex-utkface"\n'
    two = one + '[[system]]\nrecipe = "l1-utkface"\n'
    assert "at least 2 items" in shown(f'name = "a"\n{one}')
    assert "two systems are called 'dex-utkface'" in shown(f'name = "a"\n{one}{one}')
    assert "the reference 'mse' is none" in shown(f'name = "a"\nreference = "mse"\n{two}')
    assert "no such recipe" in shown(f'name = "a"\n{two}[[system]]\nrecipe = "nothing"\n')
    assert "Extra inputs" in shown(f'name = "a"\nepochs = 3\n{two}')
    with pytest.raises(RecipeError, match="shipped suites: heads-utkface-short, objectives-utkface, "):
        Suite.load(tmp_path / "none.toml")


def test_rates_are_tried_with_the_first_seed(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(
        SUITE.replace("seeds = [0]\n", "seeds = [0]\nrates = [0.01, 0.02, 0.03]\n", 1)
    )
    suite = Suite.load(tmp_path / "suite.toml")
    assert suite.trainings() == 3 + 4 + 3
    recipe = suite.recipe(suite.system[1], 1, 0.02)
    assert (recipe.seed, recipe.train.learning_rate, recipe.train.epochs) == (1, 0.02, 1)


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_load(name: str) -> None:
    suite = Suite.load(name)
    assert suite.name == name
    assert suite.compared_with == "dex-utkface"


def test_the_reason_if_no_system_could_be_trained(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE)
    suite = Suite.load(tmp_path / "suite.toml").model_copy(update={"start": str(tmp_path / "gone")})
    with pytest.raises(InputError, match=r"0 of 3 systems could be trained; absolute error: .*gone"):
        leaderboard(suite, manifest, tmp_path / "out", cpu=True)


def test_a_split_that_is_not_there(manifest: Path, tmp_path: Path) -> None:
    suite = Suite.load("objectives-utkface")
    with pytest.raises(SplitError, match="no rows with split 'other'"):
        leaderboard(suite, manifest, tmp_path / "out", split="other")
