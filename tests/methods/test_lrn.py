"""The label refinery: each generation's loss against a plain transcription, temperatures, frozen ancestor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agelens.errors import RecipeError
from agelens.label_distribution import AgeBins
from agelens.methods.lrn import Generation, LabelRefinery
from agelens.networks.age_network import AgeNetwork, Outputs
from agelens.training.recipe import Recipe
from agelens.training.stage import Batch

BINS = AgeBins(0, 10)


def _recipe(**settings: object) -> Recipe:
    table = {
        "name": "test",
        "age_bins": "0-10",
        "method": {"name": "lrn", "settings": settings},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
    }
    return Recipe.validate(table, "test")


def _outputs(seed: int, batch: int = 5) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(batch, 4, generator=generator),
        torch.randn(batch, len(BINS), generator=generator),
        torch.rand(batch, generator=generator),
    )


def _exact(*ages: float) -> Tensor:
    """(B, 4) labels of exact ages."""
    years = torch.tensor(ages)
    return torch.stack([years, torch.full_like(years, math.nan), years, years], dim=1)


class _Fixed(torch.nn.Module):
    """An ancestor that says the same of every batch."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__()
        self.outputs = outputs
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Outputs:
        self.seen = images
        return self.outputs


def _softmax(z: Tensor, tau: float) -> list[float]:
    return [float(value) for value in torch.softmax(z.double() / tau, 0)]


@pytest.mark.parametrize(("ancestor_tau", "used"), [(None, 2.0), (1.0, 1.0)])
def test_the_ancestors_loss_is_eq_16(ancestor_tau: float | None, used: float) -> None:
    settings = {"generations": 1, "tau": 2.0, "lambda_1": 4.0}
    if ancestor_tau is not None:
        settings["ancestor_tau"] = ancestor_tau
    stage = LabelRefinery(_recipe(**settings), BINS).stages()[0]
    outputs, ages = _outputs(1), _exact(0.0, 3.0, 10.0, 5.0, 99.0)
    parts = stage.loss(outputs, Batch(torch.zeros(5, 3, 8, 8), ages))
    assert outputs.logits is not None
    assert outputs.regressed is not None
    expected_ldl, expected_reg = 0.0, 0.0
    for z, s, age in zip(outputs.logits, outputs.regressed.tolist(), [0, 3, 10, 5, 10], strict=True):
        expected_ldl -= math.log(_softmax(z, used)[age]) / 5
        expected_reg += abs(s - age / 10) / 5
    assert parts["ldl"].item() == pytest.approx(expected_ldl, rel=1e-5)
    assert parts["reg"].item() == pytest.approx(expected_reg, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(expected_ldl + 4 * expected_reg, rel=1e-5)


def test_the_offsprings_loss_is_eq_17_with_targets_at_the_offsprings_temperature() -> None:
    recipe = _recipe(generations=2, tau=2.0, ancestor_tau=1.0, alpha=0.3, lambda_t=7.0)
    stage = LabelRefinery(recipe, BINS).stages()[1]
    inherited, outputs = _outputs(2), _outputs(3)
    ancestor = _Fixed(inherited)
    stage.ready(lambda name: ancestor)  # type: ignore[arg-type, return-value]
    images, ages = torch.randn(5, 3, 8, 8), _exact(1.0, 2.0, 3.0, 4.0, 10.0)
    parts = stage.loss(outputs, Batch(images, ages))
    ldl = reg = 0.0
    assert outputs.logits is not None
    assert outputs.regressed is not None
    assert inherited.logits is not None
    assert inherited.regressed is not None
    for i, age in enumerate([1, 2, 3, 4, 10]):
        p, q = _softmax(outputs.logits[i], 2.0), _softmax(inherited.logits[i], 2.0)
        soft = -sum(b * math.log(a) for a, b in zip(p, q, strict=True))
        ldl += (0.3 * soft + 0.7 * -math.log(p[age])) / 5
        slack = abs(float(inherited.regressed[i]) - age / 10)
        reg += max(0.0, abs(float(outputs.regressed[i]) - age / 10) - slack) / 5
    assert parts["ldl"].item() == pytest.approx(ldl, rel=1e-5)
    assert parts["reg"].item() == pytest.approx(reg, rel=1e-4)
    assert parts["loss"].item() == pytest.approx(ldl + 7 * reg, rel=1e-5)
    assert ancestor.seen is images  # the same augmented view


def test_bands_and_ages_between_two_bins() -> None:
    nan = math.nan
    targets = torch.tensor([[nan, nan, 3.0, 6.0], [7.25, nan, 7.25, 7.25], [nan, nan, 9.0, 130.0]])
    recipe = _recipe(generations=2, tau=2.0, alpha=0.25, lambda_1=3.0, lambda_t=5.0, smoothness=0.5)
    first, second = LabelRefinery(recipe, BINS).stages()
    outputs, inherited = _outputs(4, 3), _outputs(5, 3)
    second.ready(lambda name: _Fixed(inherited))  # type: ignore[arg-type, return-value]
    assert outputs.logits is not None
    assert outputs.regressed is not None
    assert inherited.logits is not None
    assert inherited.regressed is not None
    p = [_softmax(z, 2.0) for z in outputs.logits]
    q = [_softmax(z, 2.0) for z in inherited.logits]
    split = [0.0] * 7 + [0.75, 0.25] + [0.0] * 2
    hard = [
        [value * (3 <= k <= 6) / sum(q[0][3:7]) for k, value in enumerate(q[0])],
        split,
        [value * (k >= 9) / sum(q[2][9:]) for k, value in enumerate(q[2])],
    ]
    bands = [(0.3, 0.6), (0.725, 0.725), (0.9, 1.0)]

    def crossed(target: list[float], said: list[float]) -> float:
        return -sum(t * math.log(s) for t, s in zip(target, said, strict=True))

    def distance(s: float, low: float, high: float) -> float:
        return max(low - s, s - high, 0.0)

    told = first.loss(outputs, Batch(torch.zeros(3, 3, 8, 8), targets))
    ldl = (-math.log(sum(p[0][3:7])) + crossed(split, p[1]) - math.log(sum(p[2][9:]))) / 3
    reg = sum(distance(s, *band) for s, band in zip(outputs.regressed.tolist(), bands, strict=True)) / 3
    curvature = float(outputs.logits[[0, 2]].double().diff(n=2).square().mean(1).sum()) / 3
    assert told["ldl"].item() == pytest.approx(ldl, rel=1e-5)
    assert told["reg"].item() == pytest.approx(reg, rel=1e-5)
    assert told["curvature"].item() == pytest.approx(curvature, rel=1e-5)
    assert told["loss"].item() == pytest.approx(ldl + 3 * reg + 0.5 * curvature, rel=1e-5)

    told = second.loss(outputs, Batch(torch.zeros(3, 3, 8, 8), targets))
    ldl = sum(0.25 * crossed(q[k], p[k]) + 0.75 * crossed(hard[k], p[k]) for k in range(3)) / 3
    slack = sum(
        max(0.0, distance(s, *band) - distance(a, *band))
        for s, a, band in zip(outputs.regressed.tolist(), inherited.regressed.tolist(), bands, strict=True)
    )
    assert told["ldl"].item() == pytest.approx(ldl, rel=1e-5)
    assert told["loss"].item() == pytest.approx(ldl + 5 * slack / 3, rel=1e-5)
    assert set(told) == {"loss", "ldl", "reg"}


@pytest.mark.parametrize(("heads", "parts"), [(["ldl"], {"loss", "ldl"}), (["reg"], {"loss", "reg"})])
def test_single_heads(heads: list[str], parts: set[str]) -> None:
    table = _recipe(generations=2).model_dump()
    table["network"]["heads"] = heads
    recipe = Recipe.validate(table, "test")
    torch.manual_seed(0)
    first, second = LabelRefinery(recipe, BINS).stages()
    network = first.network()
    second.ready(lambda name: network)
    images = torch.randn(2, 3, 32, 32)
    for stage in (first, second):
        told = stage.loss(stage.network()(images), Batch(images, _exact(1.0, 9.0)))
        assert set(told) == parts
        assert told["loss"].isfinite()


def test_every_generation_starts_from_the_same_weights_and_keeps_its_own_temperature() -> None:
    recipe = _recipe(generations=3, tau=2.0, ancestor_tau=1.0)
    torch.manual_seed(1)
    start = LabelRefinery(recipe, BINS).stages()[0].network().state_dict()
    stages = LabelRefinery(recipe, BINS, start).stages()
    networks = [stage.network() for stage in stages]
    for network in networks:
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, start[name]), name
    assert [network.head.tau for network in networks] == [1.0, 2.0, 2.0]
    assert [stage.name for stage in stages] == ["generation-1", "generation-2", "generation-3"]


def test_the_ancestor_is_frozen_and_in_evaluation_mode() -> None:
    recipe = _recipe(generations=2)
    torch.manual_seed(0)
    first, second = LabelRefinery(recipe, BINS).stages()
    ancestor = first.network().train()
    asked: list[str] = []

    def finished(name: str) -> AgeNetwork:
        asked.append(name)
        return ancestor

    second.ready(finished)
    before = {name: tensor.clone() for name, tensor in ancestor.state_dict().items()}
    offspring = second.network().train()
    images = torch.randn(4, 3, 32, 32)
    batch = Batch(images, _exact(1.0, 2.0, 3.0, 4.0))
    second.loss(offspring(images), batch)["loss"].backward()
    assert asked == ["generation-1"]
    assert not ancestor.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in ancestor.state_dict().items())
    assert all(parameter.grad is None for parameter in ancestor.parameters())
    assert any(parameter.grad is not None for parameter in offspring.parameters())


@pytest.mark.parametrize("settings", [{"tau": 0.0}, {"alpha": 1.5}, {"generations": 0}, {"temperature": 2}])
def test_settings_out_of_range_are_told_with_their_key(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"method.settings.{next(iter(settings))}"):
        LabelRefinery(_recipe(**settings), BINS)


def test_cen_and_lrn_are_presets_of_one_method() -> None:
    lrn, cen = Recipe.load("lrn"), Recipe.load("cen")
    assert lrn.method.name == cen.method.name == "lrn"
    refinery = LabelRefinery(lrn, BINS).settings
    assert (refinery.tau, refinery.alpha, refinery.lambda_1, refinery.lambda_t) == (2.0, 0.5, 4.0, 4.0)
    assert (refinery.generations, refinery.ancestor_tau) == (4, None)
    assert LabelRefinery(cen, BINS).settings.ancestor_tau == 1.0
    for recipe in (lrn, cen):  # LRN Sec. 4.3.2
        train = recipe.train
        assert (train.epochs, train.batch_size, train.step_epochs, train.gamma) == (160, 128, 40, 0.1)
        assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 1e-4)
        assert recipe.network.input_size == 224
        assert (recipe.augment.scale, recipe.augment.aspect, recipe.augment.flip) == (
            (0.8, 1.0),
            (0.8, 1.25),
            0.5,
        )
    assert (lrn.train.learning_rate, Recipe.load("lrn-pretrain").train.learning_rate) == (0.001, 0.01)


def test_generation_names_follow_t() -> None:
    assert Generation(7, LabelRefinery(_recipe(), BINS).settings, _recipe(), BINS).name == "generation-7"
