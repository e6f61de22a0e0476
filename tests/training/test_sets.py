"""A run over several sets: it says what it learned from, and its teachers have not seen its test images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens.data.manifest import read_manifest
from agelens.errors import InputError, RecipeError, RunError
from agelens.experiments.train import train
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.methods.ordinal_dark.method import OrdinalDark
from agelens.training.recipe import Recipe
from agelens.training.sets import check_unseen, teaching_runs

DrawFace = Callable[..., NDArray[np.uint8]]
SETS = ("morph", "megaage")


@pytest.fixture
def union(tmp_path: Path, draw_face: DrawFace) -> Path:
    """A manifest of two sets: 24 train, 8 val and 8 test images."""
    folder = tmp_path / "union"
    folder.mkdir()
    lines = ["path,age,split,dataset,labels,digest"]
    for number in range(40):
        split = "train" if number < 24 else "val" if number < 32 else "test"
        name = SETS[number % 2]
        Image.fromarray(draw_face(20 + number, size=40, seed=number)).save(folder / f"{number}.png")
        meaning = "real" if name == "morph" else "estimated"
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        lines.append(f"{number}.png,{20 + number},{split},{name},{meaning},{digest}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(40).to_dict()))
    return folder / "manifest.csv"


def recipe(method: str = "lrn", **train_settings: object) -> Recipe:
    settings = {"generations": 1} if method == "lrn" else {}
    table = {
        "name": "test",
        "age_bins": "0-80",
        "method": {"name": method, "settings": settings},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 0.003, **train_settings},
    }
    return Recipe.validate(table, "test")


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def test_a_run_says_what_it_was_trained_on_by_set(union: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = train(recipe(sets={"morph": 3.0}), union, tmp_path / "run", cache=cache, cpu=True)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["sets"] == {
        "megaage": {"train": 12, "val": 4, "labels": "estimated"},
        "morph": {"train": 12, "val": 4, "labels": "real"},
    }
    assert run.recipe.train.sets == {"morph": 3.0}
    assert Recipe.load(tmp_path / "run" / "recipe.toml") == run.recipe
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


def test_weights_of_sets_are_checked(union: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no training images of this set; there are megaage, morph"):
        train(recipe(sets={"afad": 2.0}), union, tmp_path / "run", cpu=True)
    with pytest.raises(RecipeError, match="must not all be 0"):
        recipe(sets={"morph": 0.0})
    with pytest.raises(RecipeError, match="greater than or equal to 0"):
        recipe(sets={"morph": -1.0})
    assert not (tmp_path / "run").exists()


def test_a_start_that_saw_test_images_is_refused(union: Path, tmp_path: Path) -> None:
    started = train(recipe(), union, tmp_path / "start", cpu=True)
    student = union.with_name("student.csv")
    lines = union.read_text().splitlines()
    tested, trained = lines[1].replace(",train,", ",test,"), lines[40].replace(",test,", ",train,")
    student.write_text("\n".join([lines[0], tested, *lines[2:40], trained]) + "\n")
    for path in (started.path, started.network_file("generation-1")):
        told = r"the start was trained or validated on 1 test images of .*student\.csv"
        with pytest.raises(RunError, match=told):
            train(recipe(), student, tmp_path / "run", start=path, cpu=True)
    assert not (tmp_path / "run").exists()
    train(recipe(), union, tmp_path / "run", start=started.path, cpu=True)


def test_small_crops_and_unknown_geometry_are_told_at_the_start(union: Path, tmp_path: Path) -> None:
    table = recipe().model_dump()
    table["network"]["input_size"] = 48
    larger = Recipe.validate(table, "test")
    with pytest.raises(InputError, match="crops of 40 px are smaller than the network's input of 48 px"):
        train(larger, union, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()
    (union.parent / "geometry.json").unlink()
    reporter = Notes()
    train(recipe(), union, tmp_path / "other", reporter=reporter, cpu=True)  # type: ignore[arg-type]
    assert any("this run cannot be exported" in note for note in reporter.notes)


def test_rankers_and_teachers_that_saw_test_images_are_refused(union: Path, tmp_path: Path) -> None:
    def made(name: str, *rows: tuple[int, str]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        lines = [f"{k}.png,20,{split},{hashlib.sha256(str(k).encode()).hexdigest()}" for k, split in rows]
        (folder / "split.csv").write_text("\n".join(["path,age,split,digest", *lines]) + "\n")
        return folder

    good, bad = made("good", (0, "train"), (39, "test"), (38, "")), made("bad", (1, "val"), (39, "val"))
    (tmp_path / "model.onnx").touch()

    def runs(**settings: object) -> dict[str, Path]:
        return teaching_runs(OrdinalDark.teachers, settings, None)

    rows = read_manifest(union)
    known = runs(teachers=[str(good), str(tmp_path / "model.onnx"), str(good)], ranker_run=str(good))
    assert known == {"teacher 1": good, "teacher 3": good, "ranker": good}
    check_unseen(rows, known, union)
    with pytest.raises(RunError, match=r"bad: the ranker was trained or validated on 1 test images of"):
        check_unseen(rows, runs(ranker_run=str(bad)), union)
    with pytest.raises(RunError, match=r"bad: the teacher was .* 39\.png, val\); .*--exclude"):
        check_unseen(rows, runs(teachers=[str(good), str(bad)]), union)
    check_unseen(rows.drop(columns="digest"), runs(ranker_run=str(bad)), union)  # nothing to compare by
