"""OneCycle against PyTorch's, batch norms of parts of a batch, crops against torchvision's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop

from agelens.networks.age_network import Outputs
from agelens.training.fit import _joined, _Trainer
from agelens.training.optimisation import learning_rate, make_optimizer, momentum, restore_state, set_rate
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.stage import Batch
from agelens.training.transforms import Augmentation, _crop_sides


def onecycle(**values: Any) -> TrainSettings:
    table = {"schedule": "onecycle", "learning_rate": 0.1, "warmup": 0.3, "epochs": 4, **values}
    return TrainSettings.model_validate(table)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_onecycle_can_be_pytorchs(optimizer: str) -> None:
    settings = onecycle(optimizer=optimizer, cycle_momentum=[0.95, 0.85], last_rate=4e-6)
    mine = make_optimizer(nn.Linear(2, 1), settings)
    theirs = make_optimizer(nn.Linear(2, 1), settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=21, pct_start=6.999 / 21)
    for step in range(21):
        set_rate(mine, learning_rate(step, 21, 5, settings), momentum(step, 21, settings))
        (ours,), (torchs,) = mine.param_groups, theirs.param_groups
        assert ours["lr"] == pytest.approx(torchs["lr"], rel=0.02, abs=1e-7)
        name = "betas" if optimizer == "adam" else "momentum"
        assert ours[name] == pytest.approx(torchs[name], abs=1e-3)
        theirs.step()
        schedule.step()
    assert ours["lr"] == pytest.approx(0.1 / 25 / 1e4)


def test_the_momentum_stays_without_the_option_or_the_schedule() -> None:
    assert momentum(3, 10, onecycle()) is None
    assert momentum(3, 10, TrainSettings(cycle_momentum=(0.95, 0.85))) is None
    optimizer = make_optimizer(nn.Linear(2, 1), onecycle(momentum=0.7))
    set_rate(optimizer, 0.5)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.5, 0.7)
    table = {"name": "x", "method": {"name": "lrn"}, "train": {"cycle_momentum": [0.95, 0.85]}}
    recipe = Recipe.validate(table, "x")
    assert "cycle_momentum = [0.95, 0.85]" in recipe.to_toml()
    assert "cycle_momentum" not in Recipe.validate({**table, "train": {}}, "x").to_toml()


def test_outputs_of_parts_are_joined() -> None:
    parts = [Outputs(torch.ones(2, 3), None, torch.zeros(2)), Outputs(torch.ones(1, 3), None, torch.ones(1))]
    joined = _joined(parts)
    assert isinstance(joined, Outputs)
    assert joined.features.shape == (3, 3)
    assert joined.logits is None
    assert joined.regressed is not None
    assert joined.regressed.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("length", "ghost"), [(1, 4), (2, 2)])
def test_batch_norms_see_parts_of_a_batch(length: int, ghost: int) -> None:
    network = nn.BatchNorm2d(3)
    torch.manual_seed(0)
    images = torch.randn(8, 3, 5, 5) * torch.arange(1, 9).view(8, 1, 1, 1)
    batch = Batch(images, torch.zeros(8 // length, 4))

    def outputs(ghost: int) -> Tensor:
        trainer = SimpleNamespace(settings=TrainSettings(ghost_batch=ghost), runs=network)
        found: Tensor = _Trainer._outputs(trainer, batch)  # type: ignore[arg-type]
        return found

    parts = outputs(ghost)
    assert torch.equal(parts, torch.cat([network(images[:4]), network(images[4:])]))
    torch.testing.assert_close(parts[:4].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.equal(outputs(0), network(images))
    assert torch.equal(outputs(8), network(images))


def sides(count: int, redraw: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    return _crop_sides(Augmentation(redraw=redraw), uniform)


def test_crops_that_are_drawn_again_are_as_torchvisions() -> None:
    width, height = sides(20_000, redraw=True)
    assert max(width.max(), height.max()) <= 1
    image = torch.empty(3, 1000, 1000)
    torch.manual_seed(0)
    drawn = [RandomResizedCrop.get_params(image, [0.8, 1.0], [0.8, 1.25])[2:] for _ in range(4000)]
    theirs = torch.tensor(drawn, dtype=torch.float64) / 1000
    assert float((width * height).mean()) == pytest.approx(float(theirs.prod(1).mean()), abs=0.003)
    oblong, torchs = (width / height).log().abs().mean(), (theirs[:, 1] / theirs[:, 0]).log().abs().mean()
    assert float(oblong) == pytest.approx(float(torchs), abs=0.004)
    cut_width, cut_height = sides(20_000, redraw=False)
    assert float((cut_width * cut_height).mean()) > float((width * height).mean()) + 0.01
    aspect = Augmentation(scale=(1.0, 1.0), aspect=(1.5, 2.0), redraw=True)  # none fits: the whole
    never = _crop_sides(aspect, lambda low, high: torch.full((3,), (low + high) / 2))
    assert [side.tolist() for side in never] == [[1.0] * 3] * 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_state_that_was_stored_row_by_row_goes_on_as_it_was(optimizer: str) -> None:
    """A fused kernel goes along memory: state in another order would be of other weights."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 16, 1)).to(
            memory_format=torch.channels_last
        )

    def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    images = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    settings = TrainSettings(optimizer=optimizer, learning_rate=0.01)  # type: ignore[arg-type]
    one, again = network(), network()
    ours, restored = make_optimizer(one, settings), make_optimizer(again, settings)
    step(one, ours)
    again.load_state_dict(one.state_dict())
    kept = {
        f"{index}.{key}": torch.as_tensor(value).clone(memory_format=torch.contiguous_format)
        for index, values in ours.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }
    restore_state(restored, kept)
    step(one, ours)
    step(again, restored)
    for mine, theirs in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="no parameter 9"):
        restore_state(restored, {"9.exp_avg": torch.zeros(1)})
