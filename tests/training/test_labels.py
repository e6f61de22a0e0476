"""Labels of a batch, and training on them: whole ages as before, ages between bins, bands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from agelens.data.crop_set import load_crops
from agelens.data.manifest import label_kinds, read_manifest
from agelens.errors import RecipeError, RunError
from agelens.evaluation.evaluate import evaluate_system
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.losses import l1_regression, refined_label_distribution, slack_regression
from agelens.methods.lrn import LabelRefinery
from agelens.networks.age_network import Outputs
from agelens.training.labels import AgeLabels
from agelens.training.recipe import Recipe
from agelens.training.run import best_stage
from agelens.training.stage import Batch, CropOutputs, judge_ages

DrawFace = Callable[..., NDArray[np.uint8]]
BINS = AgeBins(0, 100)
NAN = math.nan


def exact(*ages: float) -> torch.Tensor:
    """(B, 4) labels of exact ages."""
    years = torch.tensor(ages)
    return torch.stack([years, torch.full_like(years, NAN), years, years], dim=1)


def test_whole_ages_are_learned_to_the_bit_as_without_bands() -> None:
    random = torch.Generator().manual_seed(0)
    years = torch.randint(0, 117, (32,), generator=random).float()
    logits, other = torch.randn(2, 32, 101, generator=random)
    regressed, inherited = torch.rand(2, 32, generator=random)
    labels = AgeLabels.of(exact(*years.tolist()))
    index, y = years.floor().clamp(0, 100).long(), years.clamp(0, 100) / 100
    pairs = [
        (
            lambda z: labels.likelihood_loss(z, BINS, 2.0),
            lambda z: F.cross_entropy(z / 2.0, index),
        ),
        (
            lambda z: labels.refined_loss(z, other, BINS, alpha=0.5, tau=2.0),
            lambda z: refined_label_distribution(z, index, other, alpha=0.5, tau=2.0),
        ),
    ]
    for ours, plain in pairs:
        a, b = logits.clone().requires_grad_(True), logits.clone().requires_grad_(True)
        assert torch.equal(ours(a), plain(b))
        ours(a).backward()
        plain(b).backward()
        assert torch.equal(a.grad, b.grad)
    ends = [end / 100 for end in labels.bounds(BINS)]
    for ours, plain in [
        (lambda s: l1_regression(s, *ends), lambda s: (s - y).abs().mean()),
        (
            lambda s: slack_regression(s, ends[0], inherited, ends[1]),
            lambda s: torch.relu((s - y).abs() - (inherited - y).abs()).mean(),
        ),
    ]:
        a, b = regressed.clone().requires_grad_(True), regressed.clone().requires_grad_(True)
        assert torch.equal(ours(a), plain(b))
        ours(a).backward()
        plain(b).backward()
        assert torch.equal(a.grad, b.grad)
    assert labels.curvature_loss(logits) is None


def test_an_age_between_two_bins_keeps_its_mean() -> None:
    labels = AgeLabels.of(exact(25.25, 40.0, 0.5, 99.75, 120.5))
    assert labels.whole_index(BINS) is None
    mass = labels.distribution(BINS, torch.full((5, 101), 1 / 101))
    ages = torch.arange(101.0)
    assert (mass @ ages).tolist() == pytest.approx([25.25, 40.0, 0.5, 99.75, 100.0])
    assert mass.sum(1).tolist() == pytest.approx([1.0] * 5)
    assert (mass[0, 25].item(), mass[0, 26].item(), (mass > 0).sum(1).tolist()) == (
        0.75,
        0.25,
        [2, 1, 2, 2, 1],
    )
    logits = torch.randn(5, 101, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        labels.likelihood_loss(logits, BINS, 2.0), -(mass * F.log_softmax(logits / 2, 1)).sum(1).mean()
    )


def test_a_band_takes_the_ancestors_shape_and_one_year_is_one_hot() -> None:
    ancestor = torch.softmax(torch.randn(3, 101, generator=torch.Generator().manual_seed(2)), 1)
    bands = torch.tensor([[NAN, NAN, 20.0, 29.0], [NAN, NAN, 70.0, 130.0], [NAN, NAN, 8.0, 8.0]])
    mass = AgeLabels.of(bands).distribution(BINS, ancestor)
    torch.testing.assert_close(mass[0, 20:30], ancestor[0, 20:30] / ancestor[0, 20:30].sum())
    torch.testing.assert_close(mass[1, 70:], ancestor[1, 70:] / ancestor[1, 70:].sum())
    assert mass[2].tolist() == F.one_hot(torch.tensor(8), 101).tolist()
    assert mass[0, :20].sum() == mass[0, 30:].sum() == 0
    nothing = torch.zeros(3, 101)
    nothing[:, 50] = 1
    uniform = AgeLabels.of(bands).distribution(BINS, nothing)
    assert uniform[0, 20:30].tolist() == pytest.approx([0.1] * 10)
    torch.testing.assert_close(uniform.sum(1), torch.ones(3))


def test_a_mixed_batch_is_the_mean_of_its_parts() -> None:
    logits = torch.randn(3, 101, generator=torch.Generator().manual_seed(3))
    targets = torch.cat([exact(33.0, 61.5), torch.tensor([[NAN, NAN, 3.0, 9.0]])])
    whole = AgeLabels.of(targets)
    parts = [AgeLabels.of(targets[k : k + 1]).likelihood_loss(logits[k : k + 1], BINS) for k in range(3)]
    torch.testing.assert_close(whole.likelihood_loss(logits, BINS), torch.stack(parts).mean())
    assert whole.banded.tolist() == [False, False, True]
    assert whole.distance(torch.tensor([30.0, 62.0, 12.0])).tolist() == [3.0, 0.5, 3.0]
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        AgeLabels.of(targets[:, :3])


def test_validation_judges_ages_and_bands_apart() -> None:
    logits = np.full((4, 101), -20.0)
    logits[[0, 1, 2, 3], [30, 25, 35, 80]] = 5.0
    logits[3, 60] = 4.9
    outputs = CropOutputs(
        np.array([30.0, 25.0, 35.0, 71.0]), None, np.array([30.0, 25.0, 35.0, 71.0]), logits
    )
    ages = np.array([32.0, NAN, NAN, NAN])
    bounds = np.array([[32.0, 32.0], [20.0, 29.0], [20.0, 29.0], [70.0, 130.0]])
    found = judge_ages(outputs, ages, bounds, BINS)
    assert found.figures["MAE age"] == 2.0
    assert found.figures["band distance age"] == 2.0
    assert found.figures["band accuracy"] == pytest.approx(66.6667)
    assert found.table["band accuracy"] == pytest.approx(200 / 3)
    assert found.table["bands"] == 3
    assert found.table["estimates"]["age"]["band accuracy"] == pytest.approx(200 / 3)
    assert found.arrays["bounds"].tolist() == bounds.tolist()


@pytest.fixture(scope="module")
def banded(tmp_path_factory: pytest.TempPathFactory, draw_face: DrawFace) -> Path:
    """Drawn faces with bands, in the manifest's columns; the last training row has an exact age."""
    folder = tmp_path_factory.mktemp("banded")
    random = np.random.default_rng(0)
    lines = ["path,age,age_low,age_high,split"]
    for number in range(80):
        age = int(random.integers(0, 81))
        Image.fromarray(draw_face(age, size=48, seed=number)).save(folder / f"{number}.png")
        low = age // 20 * 20
        high = "" if low == 60 else low + 19
        label = f"{age},," if number == 63 else f",{low},{high}"
        lines.append(f"{number}.png,{label},{'train' if number < 64 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(48).to_dict()))
    return folder / "manifest.csv"


def recipe(method: str, heads: list[str], **changed: object) -> Recipe:
    table = {
        "name": "test",
        "select": "band",
        "method": {"name": method, "settings": {"generations": 2} if method == "lrn" else {}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32, "heads": heads},
        "train": {
            "epochs": 4,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "keep": "best",
        },
        **changed,
    }
    return Recipe.validate(table, "test")


def test_crops_carry_every_kind_of_label(banded: Path) -> None:
    crops = load_crops(read_manifest(banded))
    assert label_kinds(read_manifest(banded)) == {"exact": 1, "band": 79}
    labels = crops.labels()
    assert labels[63, 0] == labels[63, 2] == labels[63, 3]
    assert np.isnan(labels[:63, 0]).all()
    assert labels[:, 3].max() == 130
    some = crops.select(np.arange(80) >= 62)
    np.testing.assert_array_equal(some.labels(), labels[62:])
    plain = read_manifest(banded)[["path", "age"]].iloc[63:64].assign(age_std=2.5)
    plain.attrs = read_manifest(banded).attrs
    assert label_kinds(plain) == {"apparent": 1}
    assert load_crops(plain, cache=False).labels()[0, 1] == 2.5


@pytest.mark.parametrize(("method", "heads"), [("lae", ["ldl"]), ("lrn", ["ldl", "reg"])])
def test_a_run_on_bands_learns_them_and_its_best_stage_is_known(
    banded: Path, tmp_path: Path, method: str, heads: list[str]
) -> None:
    run = train(recipe(method, heads), banded, tmp_path / "run", cpu=True)
    stage = best_stage(run)
    accuracies = {
        name: run.read_json(name, "validation.json")["band accuracy"] for name in run.finished_stages()
    }
    assert accuracies[stage] == max(accuracies.values())
    rows = (run.stage(run.finished_stages()[0]) / "log.csv").read_text().splitlines()
    columns = rows[0].split(",")
    losses = [float(row.split(",")[columns.index("loss")]) for row in rows[1:]]
    assert losses[-1] < losses[0]
    assert {"curvature", "val band accuracy", "val band distance age"} <= set(columns)
    assert "val MAE age" not in columns
    with pytest.raises(RunError, match="select by band"):
        best_stage(run, "mae")
    if method == "lrn":
        return
    card = export_run(run, tmp_path / "model.onnx")
    assert card.provenance["validation_band_accuracy"] == accuracies[stage]
    assert card.calibration is not None
    assert card.calibration.samples == 16
    found = evaluate_system(tmp_path / "model.onnx", banded, "val", by=("age_band",), replicates=10)
    hits = run.read_json(stage, "validation.json")["estimates"]["age"]["band accuracy"]
    assert found.overall["band accuracy(estimate)"].value == pytest.approx(hits)


def test_what_bands_cannot_do_is_told(banded: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RecipeError, match="all validation images have bands"):
        train(recipe("lae", ["ldl"], select="mae"), banded, out, cpu=True)
    with pytest.raises(RecipeError, match="bands need bins that are given"):
        train(recipe("lae", ["ldl"], age_bins="train"), banded, out, cpu=True)
    with pytest.raises(RecipeError, match="balanced learns exact and apparent ages, and 63 training"):
        train(recipe("lae", ["ldl"], finish={"name": "balanced"}), banded, out, cpu=True)
    table = read_manifest(banded)
    lines = [f"{path},{30}.0,{split}" for path, split in zip(table["path"], table["split"], strict=True)]
    ages = banded.with_name("ages.csv")
    ages.write_text("path,age,split\n" + "\n".join(lines) + "\n")
    with pytest.raises(RecipeError, match="no validation image has a band"):
        train(recipe("lae", ["ldl"]), ages, out, cpu=True)
    assert not out.exists()


@pytest.mark.parametrize(
    ("method", "settings", "head"),
    [
        ("baseline", {"objective": "or-cnn"}, "ldl"),
        ("baseline", {"objective": "corn"}, "ldl"),
        ("baseline", {"objective": "mwr"}, "reg"),
        ("fixed-features", {"regressor": "ohrank"}, "ldl"),
    ],
)
def test_ordinal_heads_and_comparisons_refuse_bands(
    method: str, settings: dict[str, str], head: str, banded: Path, tmp_path: Path
) -> None:
    table = recipe("lae", [head]).model_dump(mode="json")
    named = Recipe.validate({**table, "method": {"name": method, "settings": settings}}, "test")
    with pytest.raises(RecipeError, match="learns exact and apparent ages, and 63 training images"):
        train(named, banded, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_the_score_of_a_band_is_the_distance_to_it() -> None:
    stage = LabelRefinery(recipe("lrn", ["ldl"]), AgeBins(0, 1)).stages()[0]
    network = stage.network()
    outputs = Outputs(torch.zeros(2, 4), torch.tensor([[0.0, 50.0], [50.0, 0.0]]), None)
    targets = torch.tensor([[NAN, NAN, 3.0, 9.0], [2.5, NAN, 2.5, 2.5]])
    assert stage.score(network, outputs, Batch(torch.empty(0), targets))["train MAE"].item() == pytest.approx(
        (2 + 2.5) / 2
    )
