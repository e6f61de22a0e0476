"""Runs on everything that a paper trains on: nothing validates, so nothing is selected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from agelens.errors import RecipeError, SplitError
from agelens.experiments.folds import train_folds
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.training.recipe import Recipe
from agelens.training.run import best_stage


@pytest.fixture
def manifest(make_crops: Callable[..., Path]) -> Path:
    """60 drawn faces of ages 20 to 79, without a split."""
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(60)]
    return make_crops(range(20, 80), 40, digest=digests)


def recipe(method: dict[str, object] | None = None, **train_settings: object) -> Recipe:
    table = {
        "name": "test",
        "age_bins": "0-80",
        "method": method or {"name": "lrn", "settings": {"generations": 2}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 0.003, **train_settings},
    }
    return Recipe.validate(table, "test")


def with_split(manifest: Path, split: list[str]) -> Path:
    table = pd.read_csv(manifest)
    table["split"] = split
    table.to_csv(manifest.with_name("split.csv"), index=False)
    return manifest.with_name("split.csv")


def test_a_protocol_without_validation_trains_on_all_and_takes_the_last_generation(
    manifest: Path, tmp_path: Path
) -> None:
    result = train_folds(recipe(), manifest, tmp_path / "folds", "morph-random-whole", cpu=True)
    (fold,) = result.folds
    assert fold.stage == "generation-2"
    facts = json.loads((tmp_path / "folds" / "fold-01" / "run.json").read_text())
    assert facts["images"] == {"train": 60 - fold.images, "val": 0}
    predictions = pd.read_csv(tmp_path / "folds" / "predictions.csv")
    assert len(predictions) == fold.images
    assert "low" not in predictions or predictions["low"].isna().all()


def test_a_judged_part_is_selected_on_and_reported(manifest: Path, tmp_path: Path) -> None:
    told: list[str] = []
    result = train_folds(
        recipe(keep="best"), manifest, tmp_path / "folds", "guess-the-age", note=told.append, cpu=True
    )
    (fold,) = result.folds
    assert fold.mae == pytest.approx(fold.validation_mae, abs=1e-6)
    assert any("selected on the test part itself" in line for line in told)


def test_nothing_is_tested_by_a_protocol_that_trains_on_all(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="guess-the-age-whole tests nothing"):
        train_folds(recipe(), manifest, tmp_path / "folds", "guess-the-age-whole", cpu=True)
    assert not (tmp_path / "folds").exists()


def test_an_exported_model_is_not_calibrated(manifest: Path, tmp_path: Path) -> None:
    rows = with_split(manifest, ["train"] * 60)
    run = train(recipe(validation=False), rows, tmp_path / "run", cpu=True)
    assert best_stage(run) == "generation-2"
    card = export_run(run, tmp_path / "model.onnx")
    assert card.calibration is None
    assert card.provenance["validation_mae"] is None


def test_nothing_may_be_selected(manifest: Path, tmp_path: Path) -> None:
    rows = with_split(manifest, ["train"] * 60)
    with pytest.raises(SplitError, match="agelens split"):
        train(recipe(), rows, tmp_path / "run", cpu=True)
    with pytest.raises(RecipeError, match="keep must be 'last'"):
        recipe(validation=False, keep="best")
    split = with_split(manifest, ["train"] * 50 + ["val"] * 10)
    with pytest.raises(SplitError, match="none with split 'val'"):
        train(recipe(validation=False), split, tmp_path / "run", cpu=True)
    rows = with_split(manifest, ["train"] * 60)
    table = recipe(validation=False).model_dump()
    for settings, told in (
        ({}, r"balanced: keep\]: selects an epoch on the validation part"),
        ({"keep": "last"}, r"balanced: constant\]: without a validation part"),
    ):
        table["finish"] = {"name": "balanced", "settings": settings}
        with pytest.raises(RecipeError, match=told):
            train(Recipe.validate(table, "test"), rows, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()
    table["finish"]["settings"] = {"keep": "last", "constant": 6.0, "epochs": 1, "batch_size": 16}
    run = train(Recipe.validate(table, "test"), rows, tmp_path / "run", cpu=True)
    assert run.finished_stages() == ["generation-1", "generation-2", "balanced"]
    assert run.read_json("balanced", "validation.json")["mae"] == 6.0
