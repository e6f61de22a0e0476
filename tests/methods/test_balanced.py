"""The balanced stage: what it freezes, Eq. 4, kept features against the trunk in the loop, any method."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agelens.data.crop_set import CropSet, load_crops
from agelens.data.manifest import read_manifest
from agelens.errors import InputError, RecipeError, RunError
from agelens.experiments.tradeoff import plot_tradeoff, tradeoff
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.label_distribution import AgeBins
from agelens.methods.balanced import BalancedSettings, BalancedStage
from agelens.networks.age_network import Outputs
from agelens.networks.stored import load_network
from agelens.training.recipe import Recipe
from agelens.training.run import Run, best_stage
from agelens.training.stage import Batch

DrawFace = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    drawn = generator.choice([25, 26, 30, 31, 60, 8], 72, p=[0.35, 0.25, 0.2, 0.1, 0.05, 0.05])
    return make_crops(drawn.astype(float).tolist(), 40, split=["train"] * 56 + ["val"] * 16)


def _recipe(method: str = "lae", finish: dict[str, Any] | None = None, name: str = "balanced") -> Recipe:
    heads = ["ldl"] if method == "lae" else ["ldl", "reg"]
    table = {
        "name": "test",
        "age_bins": "0-80",
        "method": {"name": method, "settings": {"generations": 1} if method == "lrn" else {}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32, "heads": heads},
        "train": {"epochs": 1, "batch_size": 28, "learning_rate": 0.01, "schedule": "onecycle"},
        "finish": {"name": name, "settings": {"epochs": 3, "batch_size": 28, **(finish or {})}},
    }
    return Recipe.validate(table, "test")


def _log(run: Run) -> list[dict[str, str]]:
    with open(run.stage("balanced") / "log.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def _states(run: Run, first: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    networks = [load_network(run.stage(stage) / "network.safetensors") for stage in (first, "balanced")]
    return networks[0].state_dict(), networks[1].state_dict()


@pytest.mark.parametrize("settings", [{}, {"cache": False}, {"augment": True}])
def test_everything_but_the_fc_layer_stays_bit_for_bit(
    manifest: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = train(_recipe("lae", settings), manifest, tmp_path / "run", cpu=True)
    assert run.finished_stages() == ["representation", "balanced"]
    before, after = _states(run, "representation")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.ldl.weight", "head.ldl.bias"}
    assert any(name.endswith("running_mean") for name in before)


def test_kept_features_give_what_the_trunk_in_the_loop_gives(manifest: Path, tmp_path: Path) -> None:
    runs = {
        cache: train(_recipe("lae", {"cache": cache}), manifest, tmp_path / str(cache), cpu=True)
        for cache in (True, False)
    }
    states = [_states(run, "representation")[1] for run in runs.values()]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)
    for row, other in zip(_log(runs[True]), _log(runs[False]), strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-3)
        assert float(row["val MAE age"]) == pytest.approx(float(other["val MAE age"]), abs=2e-3)


def test_it_finishes_a_refinery_with_its_ldl_head_and_an_old_run_too(manifest: Path, tmp_path: Path) -> None:
    run = train(_recipe("lrn", name="none"), manifest, tmp_path / "run", cpu=True)
    assert run.finished_stages() == ["generation-1"]
    said = run.read_json("generation-1", "validation.json")["estimates"]["ldl"]["MAE"]
    run = train(_recipe("lrn"), manifest, tmp_path / "run", resume=True, cpu=True)
    assert run.finished_stages() == ["generation-1", "balanced"]
    assert Run.open(run.path).recipe.finish.name == "balanced"
    told = run.read_json("balanced", "validation.json")
    assert (told["finishes"], told["mae"]) == ("generation-1", said)
    network = load_network(run.stage("balanced") / "network.safetensors")
    assert (network.head.heads, network.head.tau) == (("ldl",), 2.0)
    card = export_run(run, tmp_path / "model.onnx", stage="balanced")
    assert card.decoding["age"] == "ldl"
    with pytest.raises(RunError, match="another recipe"):
        train(_recipe("lrn", {"epochs": 2}), manifest, tmp_path / "run", resume=True, cpu=True)


def test_a_stage_killed_half_way_goes_on_to_the_same_weights(manifest: Path, tmp_path: Path) -> None:
    whole = train(_recipe(), manifest, tmp_path / "whole", cpu=True)

    class StopError(Exception):
        pass

    class Interrupting:
        def note(self, message: str) -> None:
            """Nothing."""

        def step(self, *_: Any) -> None:
            """Nothing."""

        def epoch(self, stage: str, epoch: int, *_: Any) -> None:
            if stage == "balanced" and epoch == 2:
                raise StopError

    with pytest.raises(StopError):
        train(_recipe(), manifest, tmp_path / "part", reporter=Interrupting(), cpu=True)
    part = train(_recipe(), manifest, tmp_path / "part", resume=True, cpu=True)
    for mine, theirs in zip(_states(whole, "representation"), _states(part, "representation"), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [row["loss"] for row in _log(whole)] == [row["loss"] for row in _log(part)]


class _Earlier:
    """A finished stage, as fit shows it."""

    def __init__(self, network: Any, crops: CropSet) -> None:
        self.network, self.crops = network, crops

    def __call__(self, name: str) -> Any:
        return self.network

    def validation(self, name: str) -> dict[str, Any]:
        return {"estimates": {"ldl": {"MAE": 4.0 if name == "b" else 5.0}}}

    def arrays(self, name: str) -> dict[str, Any]:
        return {"age": self.crops.ages + 4.0, "ages": self.crops.ages}


def _crops(ages: list[float]) -> CropSet:
    pixels = np.random.default_rng(0).integers(0, 255, (len(ages), 40, 40, 3), dtype=np.uint8)
    return CropSet(pixels, np.array(ages, np.float32), np.arange(len(ages)))


def _stage(**settings: Any) -> BalancedStage:
    recipe = _recipe()
    stage = BalancedStage(recipe, BalancedSettings(**settings), AgeBins(0, 80), ("a", "b"))
    torch.manual_seed(0)
    from agelens.methods.lae import LongTailed

    network = LongTailed(recipe, AgeBins(0, 80)).stages()[0].network()
    stage.ready(_Earlier(network, _crops([10.0, 20.0])))
    return stage


def test_the_loss_is_eq_4_with_the_representations_mae() -> None:
    stage = _stage()
    assert (stage.source, stage.mae) == ("b", 4.0)
    logits = torch.randn(3, 81, generator=torch.Generator().manual_seed(1))
    ages = torch.tensor([3.0, 50.0, 99.0])
    parts = stage.loss(Outputs(torch.zeros(3, 4), logits, None), Batch(torch.zeros(3), ages))
    square = 0.0
    for row, age in zip(logits.double(), [3.0, 50.0, 80.0], strict=True):
        said = torch.softmax(row, 0)
        error = abs(float((said * torch.arange(81)).sum()) - age)
        square += (error - 4.0) ** 2 / 3
    assert parts["square"].item() == pytest.approx(square, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(parts["ld"].item() + square, rel=1e-5)


def test_ages_without_an_image_are_told_and_one_age_is_refused() -> None:
    stage = _stage()
    told = stage.look(_crops([1.0, 1.0, 40.0, 95.0]), _crops([10.0]))
    assert "79 ages have no training image" in told[1]
    assert told[2] == "1 training images are not aged 1 to 81 and are never drawn"
    order = stage.order(stage.sets["train"], 0, torch.Generator())
    assert order.rows.shape == (4,)
    assert set(order.rows) <= {0, 1, 2}
    everyone = _stage(ages=(0, 130))
    everyone.look(_crops([1.0, 95.0]), _crops([10.0]))
    assert set(everyone.order(everyone.sets["train"], 0, torch.Generator()).rows) <= {0, 1}
    with pytest.raises(InputError, match="of 1 age"):
        _stage().look(_crops([40.0, 40.9]), _crops([10.0]))
    with pytest.raises(InputError, match="0 training images"):
        _stage().look(_crops([90.0, 95.0]), _crops([10.0]))


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_the_constant_can_be_a_share_of_the_mae(share: float) -> None:
    stage = _stage(share=share)
    logits = torch.zeros(1, 81)  # expects 40
    parts = stage.loss(Outputs(torch.zeros(1, 4), logits, None), Batch(torch.zeros(1), torch.tensor([30.0])))
    assert parts["square"].item() == pytest.approx((10 - share * 4.0) ** 2, rel=1e-5)


def test_a_network_without_a_distribution_cannot_be_balanced() -> None:
    class NoLabels(_Earlier):
        def validation(self, name: str) -> dict[str, Any]:
            return {"estimates": {"reg": {"MAE": 4.0}, "age": {"MAE": 4.0}}}

    stage = BalancedStage(_recipe(), BalancedSettings(), AgeBins(0, 80), ("a",))
    with pytest.raises(InputError, match="ldl"):
        stage.ready(NoLabels(None, _crops([1.0])))


def test_its_settings_are_checked_with_their_key(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"finish\.settings\.epoch"):
        train(_recipe("lae", {"epoch": 3}), manifest, tmp_path / "run", cpu=True)


def test_selection_by_aar_and_the_trade_off(manifest: Path, tmp_path: Path) -> None:
    run = train(_recipe(), manifest, tmp_path / "run", cpu=True)
    points = tradeoff(run)
    assert [point.epoch for point in points] == [0, 1, 2, 3]
    before = run.read_json("representation", "validation.json")["estimates"]["age"]
    assert (points[0].mae, points[0].sigma) == pytest.approx((before["MAE"], before["sigma"]))
    plot_tradeoff(run, tmp_path / "tradeoff.svg")
    assert (tmp_path / "tradeoff.svg").read_text().count("<path") > 10
    aars = {}
    for stage in run.finished_stages():
        aars[stage] = run.read_json(stage, "validation.json")["estimates"]["age"]["AAR"]
    assert best_stage(run, "aar") == max(aars, key=lambda stage: aars[stage])
    with pytest.raises(InputError, match="luck"):
        best_stage(run, "luck")
    unfinished = train(_recipe(name="none"), manifest, tmp_path / "other", cpu=True)
    with pytest.raises(RunError, match="no balanced stage"):
        tradeoff(unfinished)


def test_kept_features_take_the_place_of_images(manifest: Path) -> None:
    crops = load_crops(read_manifest(manifest))
    shapes = {}
    for cache in (True, False):
        stage = _stage(cache=cache)
        stage.look(crops, crops)
        stage.to(torch.device("cpu"))
        network = stage.network()
        rows = stage.order(crops, 0, torch.Generator().manual_seed(0)).rows[:8]
        inputs, _ = stage.inputs(crops, rows, 32, torch.Generator(), torch.device("cpu"))
        assert network(inputs).logits.shape[0] == 8
        shapes[cache] = inputs.shape[1:]
    assert shapes[False] == (3, 32, 32)
    assert len(shapes[True]) == 1
