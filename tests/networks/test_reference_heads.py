"""Heads that compare: windows that move, posteriors of comparisons, references that are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.methods.reference_sets import choose_references, keep_references
from agelens.networks.age_network import AgeNetwork
from agelens.networks.backbones import LayeredBackbone
from agelens.networks.heads import HEADS, age_network
from agelens.networks.reference_heads import ComparingHead, WindowHead

BINS = AgeBins(20, 40)
YEARS = torch.arange(20.0, 41.0)


def _window(references: int = 2, window: float = 0.2) -> WindowHead:
    """A head whose features are the ages themselves: it knows each face's place in every window."""
    torch.manual_seed(0)
    head = WindowHead(2, BINS, references=references, width=8, window=window).eval()
    ages = YEARS.repeat_interleave(references)
    head.refer(torch.stack((ages, torch.ones_like(ages)), dim=1), ages)
    return head


def test_the_window_is_a_plain_loop() -> None:
    head = _window()
    head.reference_features += torch.randn(head.reference_features.shape)
    with torch.no_grad():
        features = torch.randn(6, 2) + torch.tensor([30.0, 1.0])
        moves, found = head.moves(features), head.years(features)
        parts = head.linear(features).chunk(3, dim=1)[0]
        kept = head.linear(head.reference_features)
        for row in range(6):
            nearest = sorted(
                ((features[row] - head.reference_features[k, r]).norm().item(), YEARS[k].item())
                for k in range(21)
                for r in range(2)
            )[:5]
            middle = round(sum(age for _, age in nearest) / 5) - 20
            for _ in range(10):
                place = math.log(middle + 21)
                below = min(range(21), key=lambda k: abs(math.log(k + 21) - (place - 0.2)))
                above = min(range(21), key=lambda k: abs(math.log(k + 21) - (place + 0.2)))
                below, above = max(0, min(below, middle - 1)), min(20, max(above, middle + 1))
                low, high = math.log(below + 21), math.log(above + 21)
                said = 0.0
                for r in range(2):
                    hidden = torch.relu(parts[row] + kept[below, r, 8:16] + kept[above, r, 16:])
                    said += math.tanh((hidden * head.last).sum().item()) / 2
                moved = (low + high) / 2 + (high - low) / 2 * said
                assert moves[row, middle].item() == pytest.approx(moved, abs=1e-5)
                years = math.exp(moved) - 1
                middle = min(20, max(0, round(years - 20)))
            assert found[row].item() == pytest.approx(years, abs=1e-3)


def test_a_network_that_knows_ends_at_the_age(monkeypatch: pytest.MonkeyPatch) -> None:
    head = _window()

    def knows(features: Tensor) -> Tensor:  # where the face lies in each window, clipped to its ends
        places = torch.log1p(YEARS)
        low, high = places[head.below], places[head.above]
        return torch.log1p(features[:, :1]).maximum(low).minimum(high)

    monkeypatch.setattr(head, "moves", knows)
    ages = torch.tensor([20.0, 23.4, 31.0, 40.0])
    head.reference_features[:, :, 0] = 25.0  # it begins far off: at the youngest references
    torch.testing.assert_close(head.years(torch.stack((ages, torch.ones(4)), dim=1)), ages)
    assert (head.below < head.above).all()
    assert (head.below[1:] < torch.arange(1, 21)).all()


def test_the_posterior_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ComparingHead(2, AgeBins(20, 21), references=1, softness=2.0).eval()
    head.refer(torch.zeros(2, 2), torch.tensor([20.0, 21.0]))
    monkeypatch.setattr(head, "older", lambda raw: torch.tensor([[0.9, 0.4]]))
    step = 0.01 + 0.98 * 0.6914624613  # Φ(1 / 2)
    expected = [
        0.9 * math.log(0.5) + 0.1 * math.log(0.5) + 0.4 * math.log(1 - step) + 0.6 * math.log(step),
        0.9 * math.log(step) + 0.1 * math.log(1 - step) + 0.4 * math.log(0.5) + 0.6 * math.log(0.5),
    ]
    found = head.logits(torch.zeros(1, 3)).softmax(dim=1)
    torch.testing.assert_close(found, torch.tensor([expected]).softmax(dim=1))


def test_true_comparisons_give_the_true_age(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ComparingHead(2, BINS, references=2, softness=3.0).eval()
    ages = YEARS.repeat_interleave(2)
    head.refer(torch.zeros(42, 2), ages)
    truth = torch.tensor([27.0, 33.0])
    older = 0.01 + 0.98 * torch.special.ndtr((truth[:, None] - ages) / 3)
    monkeypatch.setattr(head, "older", lambda raw: older)
    outputs = head(torch.zeros(2, 2))
    assert outputs.logits.argmax(dim=1).tolist() == [7, 13]
    torch.testing.assert_close(head.decode(outputs).age, truth, atol=0.3, rtol=0)


@pytest.mark.parametrize("name", ["window", "comparing"])
def test_without_references_it_says_so(name: str) -> None:
    head = HEADS[name](3, BINS, references=2)
    assert head(torch.zeros(1, 3)).logits is None  # in training they are the others of the batch
    with pytest.raises(InputError, match="the reference set of the network is empty"):
        head.eval()(torch.zeros(1, 3))
    with pytest.raises(InputError, match="needs 2 references for each of 21 ages: 0 features and 0 ages"):
        head.refer(torch.zeros(0, 3), torch.zeros(0))


def _crops(ages: list[float]) -> CropSet:
    pixels = np.zeros((len(ages), 32, 32, 3), np.uint8)
    pixels[:] = np.array(ages, np.uint8).reshape(-1, 1, 1, 1)
    return CropSet(pixels, np.array(ages, np.float32), np.arange(len(ages)))


def test_references_are_of_each_age_or_the_nearest() -> None:
    crops = _crops([20, 20, 20, 22, 39, 70])
    chosen = choose_references(crops, BINS, 2, seed=0)
    ages = chosen.ages.reshape(21, 2)
    assert ages[:, 0].tolist() == ages[:, 1].tolist() == [20, 20, *[22] * 9, *[39] * 9, 40]
    assert len(set(chosen.rows[:2])) == 2  # of three images two
    assert chosen.rows[4:6].tolist() == [3, 3]  # there is one
    again = choose_references(crops, BINS, 2, seed=0)
    assert (again.rows == chosen.rows).all()
    with pytest.raises(InputError, match="the reference set is empty: no training image has an age"):
        choose_references(_crops([]), BINS, 2, seed=0)
    with pytest.raises(InputError, match="two ages or more; all training images are 20"):
        choose_references(_crops([20, 3]), BINS, 2, seed=0)


def test_the_network_keeps_what_it_sees_in_them() -> None:
    torch.manual_seed(0)
    network = age_network(
        LayeredBackbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), 4), HEADS["comparing"](4, BINS)
    )
    assert isinstance(network, AgeNetwork)
    references = choose_references(_crops([20, 30, 40]), BINS, 5, seed=0)
    keep_references(network, references, 32, batch=7)
    assert network.training
    head = network.head
    assert isinstance(head, ComparingHead)
    assert head.reference_ages[0].tolist() == [20] * 5
    torch.testing.assert_close(head.reference_features[0, 0], head.reference_features[0, 1])
    assert (head.reference_features[0, 0] - head.reference_features[20, 0]).abs().max() > 1e-3
    assert {"reference_features", "reference_ages"} <= set(head.state_dict())
