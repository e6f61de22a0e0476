"""The baseline: every objective trains, resumes, is exported and calibrated; what cannot work is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, PluginError, RecipeError, RunError
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.inference.estimator import AgeEstimator
from agelens.label_distribution import AgeBins
from agelens.methods.baseline import Baseline
from agelens.networks.age_network import Outputs
from agelens.networks.heads import HEADS
from agelens.networks.stored import load_network
from agelens.objectives import OBJECTIVES, Objective
from agelens.training.recipe import Recipe
from agelens.training.stage import Batch, run_on_crops

BINS = AgeBins(0, 80)
QUICK = ("l1", "or-cnn")


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [float(generator.integers(0, 81)) for _ in range(64)]
    return make_crops(ages, 40, split=["train"] * 48 + ["val"] * 16)


def _recipe(objective: str, heads: tuple[str, ...] = (), **settings: object) -> Recipe:
    head = OBJECTIVES[objective].head if objective in OBJECTIVES else "ldl"
    learns = getattr(HEADS[str(head)], "learns", ("ldl",))
    backbone = objective if objective in ("ssr-net", "c3ae") else "resnet10-tiny"
    table = {
        "name": "test",
        "seed": 1,
        "age_bins": "0-80",
        "method": {"name": "baseline", "settings": {"objective": objective, **settings}},
        "network": {
            "backbone": backbone,
            "input_size": 64 if backbone == "ssr-net" else 32,
            "enlarge": backbone == "ssr-net",
            "heads": heads or learns,
        },
        "train": {"epochs": 3, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.003},
    }
    return Recipe.validate(table, "test")


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in OBJECTIVES]
)
def test_it_learns_is_exported_and_has_calibrated_intervals(
    objective: str, manifest: Path, tmp_path: Path
) -> None:
    run = train(_recipe(objective), manifest, tmp_path / "run", cpu=True)
    log = [line.split(",") for line in (run.stage("baseline") / "log.csv").read_text().splitlines()]
    loss = log[0].index("loss")
    assert float(log[-1][loss]) < float(log[1][loss])
    card = export_run(run, tmp_path / "model.onnx")
    assert card.calibration is not None
    assert card.calibration.samples == 16
    assert card.provenance["recipe"]["method"]["settings"]["objective"] == objective
    network = load_network(run.network_file("baseline"))
    pixels = np.asarray(Image.open(manifest.parent / "50.png"))
    crops = CropSet(pixels[None], np.zeros(1, np.float32), np.zeros(1, np.int64))
    ours = run_on_crops(network, crops, run.recipe.network.input_size)
    (face,) = AgeEstimator(tmp_path / "model.onnx").estimate(pixels, aligned=True)
    assert face.age == pytest.approx(float(ours.age[0]), abs=1.0)  # resized by other code; votes are whole
    low, high = face.interval(0.9)
    assert 0 <= low < high <= 80


def test_the_stage_passes_scores_settings_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def spy(scores, ages, bin_ages, *, counts, deviations, weight: float = 1.0):  # type: ignore[no-untyped-def]
        seen.update(scores=scores, ages=ages, counts=counts, deviations=deviations, weight=weight)
        return scores.sum()

    monkeypatch.setitem(OBJECTIVES, "spy", Objective(spy))
    stage = Baseline(_recipe("spy", weight=3), BINS).stages()[0]
    ages, deviations = np.array([1.5, 1, 99], np.float32), np.array([np.nan, 2, np.nan], np.float32)
    crops = CropSet(np.zeros((3, 8, 8, 3), np.uint8), ages, np.arange(3), deviations=deviations)
    assert stage.look(crops, crops) == ()
    logits = torch.ones(3, 81)
    batch = Batch(torch.zeros(3, 3, 8, 8), torch.from_numpy(crops.labels()), {})
    stage.loss(Outputs(torch.zeros(3, 4), logits, None), batch)
    assert seen["scores"] is logits
    assert seen["weight"] == 3.0
    np.testing.assert_array_equal(np.asarray(seen["ages"]), ages)
    np.testing.assert_array_equal(np.asarray(seen["deviations"]), deviations)
    counts = seen["counts"]
    assert isinstance(counts, torch.Tensor)
    assert (counts[1], counts[80], counts.sum()) == (2, 1, 3)


def test_settings_and_heads_are_checked() -> None:
    with pytest.raises(RecipeError, match=r"network\.heads\]: the objective 'dldl' trains the head 'ldl'"):
        Baseline(_recipe("dldl", heads=("reg",)), BINS)
    with pytest.raises(RecipeError, match=r"settings\.sigma"):
        Baseline(_recipe("dldl", sigma=-1), BINS)
    with pytest.raises(RecipeError, match="no such setting; it has sigma"):
        Baseline(_recipe("dldl", tau=1), BINS)
    with pytest.raises(RecipeError, match=r"settings\.objective\]: must name one of l1"):
        Baseline(
            _recipe("dldl").model_copy(
                update={"method": _recipe("x").method.model_copy(update={"settings": {}})}
            ),
            BINS,
        )
    with pytest.raises(PluginError, match="no objective 'dlld'"):
        Baseline(_recipe("dlld"), BINS)


def test_an_age_that_is_missing_is_refused() -> None:
    stage = Baseline(_recipe("or-cnn"), BINS).stages()[0]
    ages = np.array([1, np.nan], np.float32)
    crops = CropSet(np.zeros((2, 8, 8, 3), np.uint8), ages, np.arange(2))
    with pytest.raises(
        InputError, match="'or-cnn' needs an exact age for every image: 1 of 2 in split train"
    ):
        stage.look(crops, crops)


@pytest.mark.parametrize("objective", ["ap", "mwr"])
def test_a_reference_set_that_is_empty_or_of_one_age_is_refused(objective: str) -> None:
    stage = Baseline(_recipe(objective), BINS).stages()[0]
    for ages, message in (([], "the reference set is empty"), ([30.0, 30.0], "all training images are 30")):
        pixels = np.zeros((len(ages), 8, 8, 3), np.uint8)
        crops = CropSet(pixels, np.array(ages, np.float32), np.arange(len(ages)))
        with pytest.raises(InputError, match=message):
            stage.look(crops, crops)
    with pytest.raises(RecipeError, match=r"settings\.references\].*greater than or equal to 1"):
        Baseline(_recipe(objective, references=0), BINS)


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(100))

    def breaks(scores, ages, bin_ages):  # type: ignore[no-untyped-def]
        return scores.mean() * (float("nan") if next(steps) == 4 else 1.0)

    monkeypatch.setitem(OBJECTIVES, "breaks", Objective(breaks))
    with pytest.raises(
        RunError, match=r"baseline stopped in epoch 2, step 2 of 3: loss nan \(batch of 16, training"
    ) as error:
        train(_recipe("breaks"), manifest, tmp_path / "run", cpu=True)
    assert "the checkpoint of epoch 1 is kept" in str(error.value)
    assert (tmp_path / "run" / "baseline" / "checkpoint.safetensors").exists()
    monkeypatch.setitem(OBJECTIVES, "breaks", Objective(lambda scores, ages, bin_ages: scores.mean()))
    run = train(_recipe("breaks"), manifest, tmp_path / "run", resume=True, cpu=True)
    assert run.finished_stages() == ["baseline"]


def test_it_starts_from_a_backbone(manifest: Path, tmp_path: Path) -> None:
    first = train(_recipe("dex"), manifest, tmp_path / "first", cpu=True)
    recipe = _recipe("corn")
    still = recipe.model_copy(update={"train": recipe.train.model_copy(update={"learning_rate": 1e-12})})
    second = train(still, manifest, tmp_path / "second", start=first.path, cpu=True)
    ours, theirs = (
        dict(load_network(run.network_file("baseline")).named_parameters()) for run in (first, second)
    )
    torch.testing.assert_close(ours["backbone.stem.0.weight"], theirs["backbone.stem.0.weight"])
    assert ours["head.ldl.weight"].shape != theirs["head.linear.weight"].shape
