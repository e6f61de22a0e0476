"""Starts of the networks of two-teacher distillation, and options that the paper leaves open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.errors import RecipeError, RunError
from agelens.experiments.train import train
from agelens.label_distribution import AgeBins
from agelens.methods.ordinal_dark import OrdinalDark, RankerStage
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone
from agelens.networks.guided import GuidedStudent
from agelens.networks.pvp import PermutationNetwork
from agelens.networks.stored import load_network
from agelens.training.recipe import Recipe
from agelens.training.start import start_weights

BINS = AgeBins(0, 100)
TINY = (
    "method.settings.width=0.02",
    "method.settings.length=4",
    "method.settings.permutations=6",
    "method.settings.zca=3",
    "method.settings.classifier='vgg16-64'",
    "method.settings.classifier_pretrained=false",
    "network.backbone='zca3:student-small-3x3@0.25'",
    "train.epochs=1",
    "train.batch_size=16",
    "network.input_size=64",
    "age_bins='0-100'",
)


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    return make_crops([1.6 * n for n in range(50)], 64, split=(["train"] * 4 + ["val"]) * 10)


def recipe(*more: str, name: str = "ordinal-dark-small") -> Recipe:
    return Recipe.load(name, [*TINY, *more])


def stages(*names: str) -> str:
    return f"method.settings.stages={list(names)}"


def test_a_start_beside_a_hint_stage_is_where_the_hints_begin() -> None:
    small = recipe(stages("hint", "student"))
    torch.manual_seed(5)
    backbone = make_backbone(small.network.backbone)
    start = AgeNetwork(backbone, AgeHead(backbone.num_features, BINS, ("ldl",))).state_dict()
    hint = OrdinalDark(small, BINS, start).stages()[0]
    hint.ranker = PermutationNetwork(4, 6, 64, width=0.02)  # type: ignore[attr-defined]
    begun = hint.network().student.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(begun[name], tensor) for name, tensor in start.items())


def test_a_start_that_no_stage_would_use_is_refused() -> None:
    for names in (["ranker"], ["ranker", "classifier"]):
        with pytest.raises(RecipeError, match="there is neither"):
            OrdinalDark(recipe(stages(*names)), BINS, {})
    with pytest.raises(RecipeError, match="a classifier alone starts by --start"):
        OrdinalDark(recipe(stages("classifier"), "method.settings.classifier_start='run'"), BINS)


def test_the_classifier_of_a_whole_run_starts_from_another_run(manifest: Path, tmp_path: Path) -> None:
    alone = "network.backbone='zca3:vgg16-64@0.02'"
    first = train(
        recipe(stages("classifier"), alone, name="ordinal-dark-classifier"),
        manifest,
        tmp_path / "first",
        random_start=True,
        cpu=True,
    )
    whole = recipe(f"method.settings.classifier_start='{first.path}'")
    assert OrdinalDark.missing_start(whole, start=False) == ""
    assert "classifier_start" in OrdinalDark.missing_start(recipe(), start=True)  # --start is the student's
    assert OrdinalDark.missing_start(recipe(stages("hint", "student")), start=False) == ""
    begun = OrdinalDark(whole, BINS).stages()[1].network().state_dict()
    expected = load_network(first.network_file("classifier")).state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in expected.items())
    with pytest.raises(
        RunError, match=r"holds a 'zca3:vgg16-64@0\.02', the recipe wants 'zca3:student-small"
    ):
        start_weights(first.path, whole, BINS)


def test_with_imagenets_weights_the_connected_layers_start_as_the_papers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import agelens.methods.ordinal_dark.stage as module

    asked: list[bool] = []

    def published(name: str, pretrained: bool = False) -> Any:
        asked.append(pretrained)
        return make_backbone(name)

    monkeypatch.setattr(module, "make_backbone", published)
    settings = ("method.settings.classifier_pretrained=true", "method.settings.width=0.0625")
    network = OrdinalDark(recipe(*settings), BINS).stages()[1].network()
    chain = network.backbone.backbone  # type: ignore[union-attr]
    deviations = [float(m.weight.detach().std()) for m in chain.top if isinstance(m, torch.nn.Linear)]
    assert deviations == pytest.approx([0.08, 0.08], rel=0.05)  # 0.02 / sqrt(1 / 16)
    assert float(chain.chain[0].weight.detach().std()) > 0.1  # "ImageNet's" are left as they are
    pvp = OrdinalDark(recipe(*settings, "method.settings.classifier='pvp-64'"), BINS).stages()[1].network()
    assert asked == [True, False]  # nobody publishes weights of PVP
    first = pvp.backbone.backbone.chain[0]  # type: ignore[union-attr]
    assert float(first.weight.detach().std()) == pytest.approx(0.08, rel=0.1)


def test_a_class_may_be_a_permutation_and_its_reverse(manifest: Path) -> None:
    crops = load_crops(read_manifest(manifest))

    def rising(*more: str) -> float:
        """Share of sequences whose permutation, undone, gives faces from young to old."""
        groups = "method.settings.groups=[[0, 40], [20, 60], [40, 80]]"
        stage = OrdinalDark(recipe(stages("ranker"), groups, *more), BINS).stages()[0]
        assert isinstance(stage, RankerStage)
        stage.look(crops, crops)
        order = stage.order(crops, 0, torch.Generator().manual_seed(0))
        undone = np.take_along_axis(order.rows, stage.permutations[order.targets], axis=1)
        steps = np.sign(np.diff(crops.ages[undone], axis=1))
        assert (steps == steps[:, :1]).all()
        return float((steps[:, 0] > 0).mean())

    few = "method.settings.sequences=200"
    assert rising(few) == 1.0
    assert 0.4 < rising(few, "method.settings.either_direction=true") < 0.6


def test_regressors_may_end_in_a_relu() -> None:
    torch.manual_seed(0)
    backbone = make_backbone("student-small@0.25")
    student = AgeNetwork(backbone, AgeHead(backbone.num_features, BINS, ("ldl",)))
    images = torch.randn(2, 3, 64, 64)
    plain, rectified = (GuidedStudent(student, (5,), (7,), rectified=relu).eval() for relu in (False, True))
    rectified.load_state_dict(plain.state_dict())
    (free,), (cut,) = plain(images).hints, rectified(images).hints
    assert (free < 0).any()
    assert torch.equal(cut, free.relu())
    assert GuidedStudent.rebuild(rectified.describe()).rectified
    older = {key: value for key, value in plain.describe().items() if key != "rectified"}
    assert not GuidedStudent.rebuild(older).rectified


def test_fg_net_is_fine_tuned_from_a_megaage_student_of_its_own_ages(manifest: Path, tmp_path: Path) -> None:
    fine = Recipe.load("ordinal-dark-fgnet", [*TINY[5:-1]])
    paper = Recipe.load("ordinal-dark-fgnet")
    assert (paper.age_bins, paper.train.epochs, paper.train.rates) == ("0-70", 5, ((0, 5e-5),))
    with pytest.raises(RecipeError, match="--set age_bins=0-70"):
        train(fine, manifest, tmp_path / "run", cpu=True)
    table = fine.model_dump() | {"age_bins": "0-80", "needs_start": ""}
    table["network"]["same_bins"] = False
    other = train(Recipe.validate(table, "other"), manifest, tmp_path / "other", cpu=True)
    with pytest.raises(RunError, match=r"a head of the ages 0-80.* 0-70"):
        train(fine, manifest, tmp_path / "run", start=other.path, cpu=True)
    table["age_bins"] = "0-70"
    megaage = train(Recipe.validate(table, "megaage"), manifest, tmp_path / "megaage", cpu=True)
    slow = Recipe.validate(fine.model_dump() | {"train": {**table["train"], "rates": [[0, 1e-12]]}}, "slow")
    run = train(slow, manifest, tmp_path / "run", start=megaage.path, cpu=True)
    heads = [load_network(r.network_file("student")).head.state_dict() for r in (megaage, run)]
    torch.testing.assert_close(heads[0]["ldl.weight"], heads[1]["ldl.weight"], atol=1e-6, rtol=0)
    argmax = run.read_json("student", "validation.json")["argmax"]
    assert set(argmax) == {"MAE", "CA(5)"}
    arrays = run.read_arrays("student", "validation.npz")
    near = np.abs(arrays["logits"].argmax(1) - arrays["ages"]) < 5
    assert argmax["CA(5)"] == pytest.approx(100 * near.mean())
