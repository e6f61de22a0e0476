"""Logit adjustment: the prior, the bias that alone changes, the strength that validation chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from agelens.errors import InputError, RecipeError
from agelens.experiments.folds import train_folds
from agelens.experiments.generations import generation_table
from agelens.experiments.ladder import climb
from agelens.experiments.sweep import plan, sweep
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.label_distribution import AgeBins, softmax
from agelens.methods.logit_adjusted import age_prior, evenness
from agelens.metrics import aar
from agelens.networks.stored import load_network
from agelens.training.recipe import FinishSettings, Recipe
from agelens.training.run import Run

BINS = AgeBins(0, 80)
AGES = np.random.default_rng(0).choice([25, 26, 30, 31, 60, 8], 72, p=[0.35, 0.25, 0.2, 0.1, 0.05, 0.05])
SPLIT = ["train"] * 56 + ["val"] * 16
CropsMaker = Callable[..., Path]


@pytest.fixture(scope="module")
def manifest(make_crops: CropsMaker) -> Path:
    return make_crops(AGES.astype(float).tolist(), 40, split=SPLIT)


@pytest.fixture(scope="module")
def banded(manifest: Path) -> Path:
    table = pd.read_csv(manifest)
    low = table.pop("age") // 10 * 10
    table.assign(age_low=low, age_high=low + 9).to_csv(manifest.with_name("bands.csv"), index=False)
    return manifest.with_name("bands.csv")


def recipe(settings: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "test",
        "age_bins": "0-80",
        "method": {"name": "lrn", "settings": {"generations": 1}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32, "heads": ["ldl", "reg"]},
        "train": {"epochs": 1, "batch_size": 28, "learning_rate": 0.01, "schedule": "onecycle"},
        "finish": {"name": "logit-adjusted", "settings": settings or {}},
    }
    return Recipe.validate({**table, **changes}, "test")


def test_another_finisher_leaves_the_settings_of_the_recipes_own() -> None:
    assert Recipe.load("lae-utkface").finish.settings == {"share": 0.8}
    adjusted = Recipe.load("lae-utkface", ["finish.settings.smooth=3.0", "finish.name=logit-adjusted"])
    assert adjusted.finish.settings == {"smooth": 3.0}
    assert Recipe.load("lae-utkface", ['finish.name="balanced"']).finish.settings == {"share": 0.8}
    for kept in (
        "finish.name=none",
        "finish.name=balanced",
    ):  # this one names none: they are for the ladder's
        assert Recipe.load("lae-ladder-utkface", [kept]).finish.settings == {"share": 0.8}


def test_the_prior_by_loop() -> None:
    bounds = [(3.0, 3.0), (3.9, 3.9), (70.0, 130.0), (10.0, 19.0), (99.0, 99.0)]
    counts = np.zeros(81)
    for low, high in bounds:
        ages = range(int(min(low, 80)), int(min(high, 80)) + 1)
        for age in ages:
            counts[age] += 1 / len(ages)
    found = age_prior(np.array(bounds), BINS, 0.0)
    assert found == pytest.approx((counts + 1 / 81) / 6)
    smoothed = age_prior(np.array(bounds), BINS, 2.0)
    assert smoothed.sum() == pytest.approx(1.0)
    assert smoothed[3] < found[3]
    assert smoothed[5] > found[5]


def test_evenness_counts_bands_alike() -> None:
    bounds = np.array([[0.0, 9.0]] * 3 + [[70.0, 130.0]])
    unknown = np.full(4, np.nan)
    assert evenness(np.array([5.0, 5.0, 12.0, 60.0]), unknown, bounds) == pytest.approx(-(1.0 + 10.0) / 2)
    ages = np.array([5.0, 20.0, 60.0, 75.0])
    said = ages + np.array([1.0, -2.0, 4.0, 8.0])
    assert evenness(said, ages, np.stack([ages, ages], axis=1)) == aar(said, ages).aar


def test_nothing_but_the_bias_changes_and_by_the_prior(manifest: Path, tmp_path: Path) -> None:
    run = train(recipe(), manifest, tmp_path / "run", cpu=True)
    assert run.finished_stages() == ["generation-1", "logit-adjusted"]
    before, after = (load_network(run.network_file(stage)) for stage in run.finished_stages())
    assert (after.head.heads, after.head.tau) == (("ldl",), 2.0)
    kept = after.state_dict()
    for name, tensor in before.state_dict().items():
        if not name.startswith("head.reg"):
            assert torch.equal(tensor, kept[name]) == (name != "head.ldl.bias"), name
    told = run.read_json("logit-adjusted", "validation.json")
    said = {stage: run.read_arrays(stage, "validation.npz") for stage in run.finished_stages()}
    ages = AGES[56:].astype(float)
    log_prior = np.log(age_prior(np.stack([AGES[:56]] * 2, axis=1), BINS, 2.0))
    mass = softmax(said["generation-1"]["logits"] / 2.0 - told["strength"] * log_prior)
    assert softmax(said["logit-adjusted"]["logits"] / 2.0) == pytest.approx(mass, abs=1e-5)
    merits = {
        strength: aar(
            softmax(said["generation-1"]["logits"] / 2.0 - strength * log_prior) @ BINS.ages, ages
        ).aar
        for strength in np.arange(11) / 10
    }
    assert told["tried"] == {str(strength): pytest.approx(merit) for strength, merit in merits.items()}
    assert told["strength"] == max(merits, key=lambda strength: merits[strength])
    assert told["finishes"] == "generation-1"


def test_it_finishes_an_old_run_of_bands_and_is_exported(banded: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"select": "band"}
    plain = recipe(**changes).model_copy(update={"finish": FinishSettings()})
    train(plain, banded, tmp_path / "run", cpu=True)
    run = train(recipe({"strengths": [0.5]}, **changes), banded, tmp_path / "run", resume=True, cpu=True)
    assert Run.open(run.path).recipe.finish.name == "logit-adjusted"
    told = run.read_json("logit-adjusted", "validation.json")
    assert (told["strength"], told["tried"]) == (0.5, {})
    card = export_run(run, tmp_path / "model.onnx", stage="logit-adjusted")
    assert card.decoding["age"] == "ldl"


def test_without_a_validation_part_the_strength_is_given(manifest: Path, tmp_path: Path) -> None:
    whole = manifest.with_name("whole.csv")
    pd.read_csv(manifest).assign(split="train").to_csv(whole, index=False)
    changes = {"train": {"epochs": 1, "batch_size": 28, "validation": False}}
    with pytest.raises(RecipeError, match="give a single one"):
        train(recipe(**changes), whole, tmp_path / "none", cpu=True)
    run = train(recipe({"strengths": [1.0]}, **changes), whole, tmp_path / "run", cpu=True)
    assert run.read_json("logit-adjusted", "validation.json")["strength"] == 1.0


@pytest.mark.parametrize("finisher", ["balanced", "logit-adjusted"])
@pytest.mark.parametrize(
    ("method", "heads"),
    [
        ({"name": "baseline", "settings": {"objective": "coral"}}, ["ldl"]),
        ({"name": "baseline", "settings": {"objective": "l1"}}, ["reg"]),
        ({"name": "lrn", "settings": {"generations": 1}}, ["reg"]),
    ],
)
def test_a_network_that_cannot_be_finished_is_refused_before_it_is_trained(
    finisher: str, method: dict[str, Any], heads: list[str], manifest: Path, tmp_path: Path
) -> None:
    network = {"backbone": "resnet10-tiny", "input_size": 32, "heads": heads}
    refused = recipe(method=method, network=network, finish={"name": finisher})
    with pytest.raises(RecipeError, match=r"finish.name.*FC layer over the ages"):
        train(refused, manifest, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_a_kernel_of_any_width_is_not_taken(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"finish.settings.smooth"):
        train(recipe({"smooth": 1e9}), manifest, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_tables_of_ages_refuse_bands_before_anything_is_trained(banded: Path, tmp_path: Path) -> None:
    run = train(recipe(select="band"), banded, tmp_path / "run", cpu=True)
    with pytest.raises(InputError, match="the table of generations needs ages, and 16 of 16"):
        generation_table([run.path], banded, "val")
    out = tmp_path / "none"
    (tmp_path / "small.toml").write_text(recipe(select="band").to_toml(), "utf-8")
    with pytest.raises(InputError, match="a sweep needs ages, and 16 of 16"):
        sweep(plan(tmp_path / "small.toml", [], [0]), banded, out, cpu=True)
    with pytest.raises(InputError, match="a ladder needs ages, and 72 of 72"):
        climb("lae-ladder-utkface", banded, out, starts={"": run.path}, cpu=True)
    with pytest.raises(InputError, match="a protocol needs ages, and 72 of 72"):
        train_folds(recipe(select="band"), banded, out, "morph-random", cpu=True)
    assert not out.exists()


def test_ages_that_are_all_the_same_have_no_prior(make_crops: CropsMaker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one age"):
        train(recipe(), make_crops([30.0] * 72, 40, split=SPLIT), tmp_path / "run", cpu=True)
