"""LAE's representation stage: the loss against a plain transcription, recipes, tricks, RandAugment."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agelens.errors import InputError, RecipeError
from agelens.experiments.ladder import climb, judge_rungs, rungs
from agelens.experiments.train import train
from agelens.label_distribution import AgeBins
from agelens.methods.lae import LongTailed
from agelens.networks.age_network import Outputs
from agelens.training.rand_augment import rand_augment
from agelens.training.recipe import Recipe, recipe_tricks
from agelens.training.stage import Batch
from agelens.training.transforms import Augmentation, augment

BINS = AgeBins(0, 100)
DrawFace = Callable[..., NDArray[np.uint8]]


def _recipe(settings: dict[str, object] | None = None, **network: object) -> Recipe:
    table = {
        "name": "test",
        "method": {"name": "lae", "settings": settings or {}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32, "heads": ["ldl"], **network},
    }
    return Recipe.validate(table, "test")


def exact(ages: list[float]) -> torch.Tensor:
    """(B, 4) labels of exact ages."""
    years = torch.tensor(ages)
    return torch.stack([years, torch.full_like(years, math.nan), years, years], dim=1)


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [105.0, *(float(generator.integers(1, 81)) for _ in range(59))]
    return make_crops(ages, 40, split=["train"] * 40 + ["val"] * 20)


def test_the_loss_is_eq_3_and_ages_beyond_the_bins_are_clamped() -> None:
    stage = LongTailed(_recipe({"lambda_er": 0.5}), BINS).stages()[0]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 101, generator=generator)
    ages = [7.0, 64.0, 116.0]
    parts = stage.loss(Outputs(torch.zeros(3, 4), logits, None), Batch(torch.zeros(3, 3, 8, 8), exact(ages)))
    divergence = error = 0.0
    for row, age in zip(logits.double().tolist(), [7.0, 64.0, 100.0], strict=True):
        total = sum(math.exp(z) for z in row)
        said = [math.exp(z) / total for z in row]
        density = [math.exp(-((k - age) ** 2) / 2) for k in range(101)]
        label = [value / sum(density) for value in density]
        divergence += sum(a * math.log(a / b) for a, b in zip(label, said, strict=True) if a > 0) / 3
        error += abs(sum(k * b for k, b in enumerate(said)) - age) / 3
    assert parts["ld"].item() == pytest.approx(divergence, rel=1e-5)
    assert parts["er"].item() == pytest.approx(error, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(divergence + 0.5 * error, rel=1e-5)


def test_bands_and_voted_deviations_beside_an_exact_age() -> None:
    logits = torch.randn(3, 101, generator=torch.Generator().manual_seed(1))
    labels = torch.cat(
        [exact([30.0]), torch.tensor([[45.5, 4.0, 45.5, 45.5], [math.nan, math.nan, 70, 130]])]
    )
    outputs = Outputs(torch.zeros(3, 4), logits, None)
    plain = (
        LongTailed(_recipe({"smoothness": 2.0}), BINS)
        .stages()[0]
        .loss(outputs, Batch(torch.empty(0), labels))
    )
    said = torch.softmax(logits.double(), 1)
    ages = torch.arange(101).double()
    divergence = 0.0
    for row, age, sigma in ((0, 30.0, 1.0), (1, 45.5, 1.0)):
        label = torch.softmax(-((ages - age) ** 2) / (2 * sigma**2), 0)
        divergence += float((label * (label.clamp_min(1e-300).log() - said[row].log())).sum())
    divergence -= math.log(float(said[2, 70:].sum()))
    expected = said @ ages
    errors = abs(float(expected[0]) - 30) + abs(float(expected[1]) - 45.5) + max(0, 70 - float(expected[2]))
    curvature = float(logits[2].double().diff(n=2).square().mean()) / 3
    assert plain["ld"].item() == pytest.approx(divergence / 3, rel=1e-5)
    assert plain["er"].item() == pytest.approx(errors / 3, rel=1e-5)
    assert plain["curvature"].item() == pytest.approx(curvature, rel=1e-5)
    assert plain["loss"].item() == pytest.approx((divergence + errors) / 3 + 2 * curvature, rel=1e-5)
    voted = (
        LongTailed(_recipe({"voted": True}), BINS).stages()[0].loss(outputs, Batch(torch.empty(0), labels))
    )
    wide = torch.softmax(-((ages - 45.5) ** 2) / (2 * 4.0**2), 0)
    narrow = torch.softmax(-((ages - 45.5) ** 2) / 2, 0)
    change = float((torch.xlogy(wide, wide) - wide * said[1].log()).sum())
    change -= float((torch.xlogy(narrow, narrow) - narrow * said[1].log()).sum())
    assert (voted["ld"] - plain["ld"]).item() == pytest.approx(change / 3, abs=1e-5)


def test_lae_has_one_head_and_its_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match=r"network\.heads"):
        LongTailed(_recipe(heads=["ldl", "reg"]), BINS)
    with pytest.raises(RecipeError, match=r"method\.settings\.sigma"):
        LongTailed(_recipe({"sigma": 0}), BINS)
    assert LongTailed(_recipe(), BINS).stages()[0].network().head.tau == 1.0


def test_the_recipe_of_the_paper_has_the_papers_values() -> None:
    recipe = Recipe.load("lae-guess-the-age")
    train_ = recipe.train
    assert (train_.epochs, train_.batch_size, train_.weight_decay) == (24, 256, 5e-4)
    assert (train_.schedule, train_.scaled_rate, recipe.age_bins) == ("onecycle", 0.005, "0-100")
    assert (recipe.augment.randaugment, recipe.augment.magnitude) == (2, 9)
    assert recipe.finish.name == "balanced"
    assert (recipe.finish.settings["epochs"], recipe.finish.settings["learning_rate"]) == (8, 0.001)
    assert recipe.finish.settings["augment"] is True
    doubled = Recipe.load("lae-guess-the-age", ["train.batch_size=512"])
    assert doubled.train.scaled_rate == 0.01
    baseline = Recipe.load("lae-baseline-s")
    assert (baseline.network.backbone, baseline.train.epochs) == ("resnet18", 75)
    assert (baseline.train.milestones, baseline.train.learning_rate) == ((20, 40, 60), 0.005)
    assert (baseline.augment.scale, baseline.augment.flip, baseline.augment.randaugment) == ((1, 1), 0.5, 0)
    identity = Recipe.load("identity")
    assert (identity.train.epochs, identity.train.milestones) == (18, (7, 14, 16))
    assert (identity.method.settings["scale"], identity.method.settings["margin"]) == (64.0, 0.35)


def test_tricks_are_switches_and_what_is_set_by_hand_wins() -> None:
    assert recipe_tricks("lae-baseline-s") == ["architecture", "pre-training", "augmentation", "onecycle"]
    augmented = Recipe.load("lae-baseline-s", ['tricks=["augmentation"]', "augment.magnitude=5"])
    assert (augmented.augment.randaugment, augmented.augment.magnitude) == (2, 5)
    assert augmented.network.backbone == "resnet18"
    both = Recipe.load("lae-baseline-s", ['tricks=["architecture", "onecycle"]'])
    assert (both.network.backbone, both.train.schedule, both.train.epochs) == (
        "tf_efficientnetv2_m",
        "onecycle",
        24,
    )
    with pytest.raises(RecipeError, match="no such trick"):
        Recipe.load("lae-baseline-s", ['tricks=["luck"]'])
    with pytest.raises(RecipeError, match="tricks"):
        Recipe.load("lrn", ["tricks=3"])


def test_the_ladder_is_not_cumulative() -> None:
    assert rungs(["a", "b"], ["a", "b"]) == {"baseline": (), "a": ("a",), "b": ("b",), "all": ("a", "b")}
    tricks = recipe_tricks("lae-baseline-s")
    paper = rungs(tricks, recipe_tricks("lae-baseline-s", alone=True))
    assert list(paper) == ["baseline", "architecture", "pre-training", "augmentation", "all"]  # Table 2
    assert paper["all"] == (*list(paper)[1:-1], "onecycle")
    last = Recipe.load("lae-baseline-s", [f"tricks={tricks}", "finish.name=balanced"])
    assert (last.train.schedule, last.network.pretrained) == ("onecycle", False)
    assert last.finish.settings == {"augment": True, "keep": "last"}


def test_a_ladder_is_climbed_judged_and_gone_on_with(manifest: Path, tmp_path: Path) -> None:
    table = _recipe().to_toml().partition("\n[")  # tricks come before the first table
    small = "[train]\nepochs = 1\nbatch_size = 20\nlearning_rate = 0.01\n"
    recipe = tmp_path / "ladder.toml"
    recipe.write_text(
        'name = "ladder"\n[method]\nname = "lae"\n[network]\nbackbone = "resnet10-tiny"\ninput_size = 32\n'
        f'heads = ["ldl"]\n{small}[finish.settings]\nepochs = 1\nbatch_size = 20\n'
        "[trick.augmentation.augment]\nrandaugment = 2\n[trick.pre-training]\n"
    )
    assert table
    with pytest.raises(InputError, match="resnet10-tiny"):
        climb(recipe, manifest, tmp_path / "runs", cpu=True)
    first = train(Recipe.load(recipe), manifest, tmp_path / "first", cpu=True)
    starts = {"resnet10-tiny": first.path}
    runs = climb(recipe, manifest, tmp_path / "runs", starts=starts, cpu=True)
    rows = judge_rungs(runs, manifest, "val")
    assert [row.model for row in rows] == [
        "baseline",
        "+augmentation",
        "+pre-training",
        "all tricks",
        "classification",
    ]
    stamps = [run.stage("representation").joinpath("network.safetensors").stat().st_mtime_ns for run in runs]
    again = climb(recipe, manifest, tmp_path / "runs", starts=starts, cpu=True)
    assert stamps == [
        run.stage("representation").joinpath("network.safetensors").stat().st_mtime_ns for run in again
    ]
    figures = rows[0].figures
    assert figures.aar == pytest.approx(max(0, 7 - figures.mae) + max(0, 3 - figures.sigma))
    assert runs[0].facts["clamped"] == 1
    with pytest.raises(InputError, match="no tricks"):
        climb("lrn", manifest, tmp_path / "other", cpu=True)


def test_the_log_has_the_groups_curve_and_aar(manifest: Path, tmp_path: Path) -> None:
    table = _recipe().model_dump()
    table["train"] |= {"epochs": 2, "batch_size": 20, "keep": "best", "learning_rate": 0.01}
    table["select"] = "aar"
    run = train(Recipe.validate(table, "test"), manifest, tmp_path / "run", cpu=True)
    with open(run.stage("representation") / "log.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {"val AAR", "val sigma", "val MAE(21-30)", "val MAE age", "ld", "er"} <= set(rows[0])
    kept = run.read_json("representation", "validation.json")["estimates"]["age"]
    assert kept["AAR"] == pytest.approx(max(float(row["val AAR"]) for row in rows), abs=2e-3)


def test_randaugment_is_seeded_per_image_and_keeps_pixels() -> None:
    images = torch.randint(0, 256, (24, 3, 20, 20), dtype=torch.uint8)
    draws = [rand_augment(images, 2, 9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert (draws[0].dtype, draws[0].shape) == (torch.uint8, images.shape)
    assert torch.equal(rand_augment(images, 0, 9, torch.Generator()), images)
    still = rand_augment(images[:1].expand(400, -1, -1, -1), 1, 9, torch.Generator().manual_seed(0))
    kinds = {tuple(image.flatten().tolist()) for image in still}
    assert 20 <= len(kinds) <= 26  # 14 operations, most of them signed
    with pytest.raises(ValueError, match="magnitude"):
        rand_augment(images, 1, 31, torch.Generator())


def test_views_with_randaugment_and_hue_are_views() -> None:
    crops = torch.randint(0, 256, (6, 24, 24, 3), dtype=torch.uint8)
    base = Augmentation(scale=(1, 1), aspect=(1, 1), flip=0)
    plain = augment(crops, base, 24, torch.Generator())
    still = augment(crops, Augmentation((1, 1), (1, 1), 0, randaugment=1, magnitude=0), 24, torch.Generator())
    changed = (still - plain).abs().amax(dim=(1, 2, 3)) > 0.02
    assert changed.sum() < 6  # at magnitude 0 most operations do nothing
    turned = augment(crops, Augmentation((1, 1), (1, 1), 0, hue=0.2), 24, torch.Generator().manual_seed(1))
    std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    sums = [((view.permute(0, 2, 3, 1) * std + mean) * 255).sum(3) for view in (plain, turned)]
    torch.testing.assert_close(sums[0], sums[1], atol=0.1, rtol=0)  # a turn about grey keeps R + G + B
    assert not torch.allclose(plain, turned, atol=0.1)
