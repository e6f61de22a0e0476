"""Embeddings, margins and label distributions that adapt: values by hand, plain loops, degenerate cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.objectives.adaptive import aldl, avdl, gaussians, margins_of, meta_deviations, pml
from agelens.objectives.distribution import dex, dldl, dldl_v2
from agelens.objectives.probabilistic import divergences, ordinal_triplets, poe

BINS = torch.arange(20, 26, dtype=torch.float64)
AGES = torch.tensor([20.0, 22.7, 25.0, 31.0, 3.0], dtype=torch.float64)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _entropies(target: Tensor) -> float:
    return -(target * target.log()).sum(dim=1).mean().item()


# --- POE


def test_divergences_by_hand() -> None:
    means = torch.tensor([[0.0], [1.0]])
    log_variances = torch.tensor([[0.0], [math.log(4.0)]])
    # KL(N(0,1) ‖ N(1,4)) = ln 2 + 2/8 - 1/2; KL(N(1,4) ‖ N(0,1)) = -ln 2 + 5/2 - 1/2
    expected = (math.log(2) + 0.25 - 0.5) + (-math.log(2) + 2.5 - 0.5)
    torch.testing.assert_close(
        divergences(means, log_variances), torch.tensor([[0.0, expected], [expected, 0.0]])
    )


def test_triplets_are_a_plain_loop() -> None:
    apart, margin = _random(5, 5).abs(), 0.1
    ages = torch.tensor([20.0, 21.0, 21.0, 25.0, 30.0])
    hinges = [
        apart[anchor, near].item() - apart[anchor, far].item() + margin
        for anchor in range(5)
        for near in range(5)
        for far in range(5)
        if near != anchor and abs(ages[anchor] - ages[near]) < abs(ages[anchor] - ages[far])
    ]
    violated = [hinge for hinge in hinges if hinge > 0]
    assert 0 < len(violated) < len(hinges)
    assert ordinal_triplets(apart, ages, margin).item() == pytest.approx(sum(violated) / len(violated))
    assert ordinal_triplets(apart, torch.full((5,), 20.0), margin).item() == 0  # nobody is nearer


def test_poe_by_hand() -> None:
    halves = torch.tensor([20.0, 21.0])
    logits = torch.tensor([0.0, math.log(3.0), math.log(3.0), 0.0])  # two samples: (1/4, 3/4) and (3/4, 1/4)
    scores = torch.cat((torch.tensor([2.0, math.log(4.0)]), logits))[None]
    entropy = -(math.log(0.75) + math.log(0.25)) / 2
    to_standard = (4 + 4 - math.log(4) - 1) / 2
    value = poe(scores, torch.tensor([21.0]), halves, samples=2, alpha=0.5)
    assert value.item() == pytest.approx(entropy + 0.5 * to_standard)


def test_poe_of_one_sample_without_weights_is_cross_entropy() -> None:
    logits = _random(5, 6)
    scores = torch.cat((_random(5, 8, seed=1), logits), dim=1)
    torch.testing.assert_close(poe(scores, AGES, BINS, samples=1, alpha=0, beta=0), dex(logits, AGES, BINS))


# --- ALDL


def test_aldl_is_a_plain_loop() -> None:
    logits, widths = _random(5, 6), torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], dtype=torch.float64)
    total = 0.0
    for row, y in zip(logits.tolist(), AGES.clamp(20, 25).tolist(), strict=True):
        sigma = widths[int(y) - 20].item()
        target = [math.exp(-((k - y) ** 2) / (2 * sigma**2)) for k in range(20, 26)]
        for k in range(6):
            q = target[k] / sum(target)
            p = math.exp(row[k]) / sum(math.exp(z) for z in row)
            total += q * math.log(q / p) if q > 0 else 0.0
    value = aldl(torch.cat((logits, widths.expand(5, -1)), dim=1), AGES, BINS)
    assert value.item() == pytest.approx(total / 5, rel=1e-9)


def test_equal_widths_are_label_distribution_learning() -> None:
    logits = _random(5, 6)
    scores = torch.cat((logits, torch.full_like(logits, 2.0)), dim=1)
    entropy = _entropies(gaussians(AGES, torch.full_like(AGES, 2.0), BINS))
    assert aldl(scores, AGES, BINS).item() == pytest.approx(dldl(logits, AGES, BINS).item() - entropy)


# --- AVDL


def _meta(layer: nn.Linear, features: Tensor, deviations: Tensor, step: float) -> float:
    """The meta loss with real steps: each image is judged by the layer that the others' step makes."""
    total = 0.0
    for judged in range(len(features)):
        others = [row for row in range(len(features)) if row != judged]
        moved = nn.Linear(*reversed(layer.weight.shape)).double()
        moved.load_state_dict(layer.state_dict())
        target = gaussians(AGES[others], deviations[others], BINS)
        learned = F.log_softmax(moved(features[others]), dim=1)
        loss = F.kl_div(learned, target, reduction="sum") / len(features)
        loss.backward()
        with torch.no_grad():
            for parameter in moved.parameters():
                assert parameter.grad is not None
                parameter -= step * parameter.grad
            expected = F.softmax(moved(features[judged]), dim=0) @ BINS
        total += abs(expected.item() - AGES[judged].clamp(20, 25).item())
    return total / len(features)


def test_deviations_follow_finite_differences_of_real_steps() -> None:
    torch.manual_seed(0)
    layer, features = nn.Linear(3, 6).double(), _random(5, 3)
    step, small = 0.5, 1e-4
    gradient = []
    for row in range(5):
        ends = []
        for sign in (1, -1):
            deviations = torch.full((5,), 2.0, dtype=torch.float64)
            deviations[row] += sign * small
            ends.append(_meta(layer, features, deviations, step))
        gradient.append((ends[0] - ends[1]) / (2 * small))
    slopes = torch.tensor(gradient, dtype=torch.float64)
    found = meta_deviations(layer(features), features, AGES, BINS, sigma=2.0, step=step, change=0.5)
    torch.testing.assert_close(found, 2.0 - 0.5 * slopes / slopes.abs().max(), rtol=1e-4, atol=1e-4)
    assert not found.requires_grad
    assert found.std() > 0.05


def test_avdl_takes_the_deviations_as_they_are() -> None:
    logits, features = _random(5, 6).requires_grad_(), _random(5, 3, seed=1)
    value = avdl(logits, AGES, BINS, features=features)
    found = meta_deviations(logits, features, AGES, BINS, sigma=2.0, step=0.01, change=1.0)
    target = gaussians(AGES, found, BINS)
    torch.testing.assert_close(value, F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean"))
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - target) / 5)
    turned = torch.arange(5).flip(0)
    torch.testing.assert_close(value, avdl(logits[turned], AGES[turned], BINS, features=features[turned]))


def test_an_image_alone_keeps_its_deviation() -> None:
    found = meta_deviations(_random(1, 6), _random(1, 3), AGES[:1], BINS, sigma=2.0, step=0.1, change=1.0)
    assert found.tolist() == [2.0]  # nobody else learns from it
    with pytest.raises(ValueError, match="needs the features"):
        avdl(_random(5, 6), AGES, BINS)


# --- PML


def test_margins_by_hand() -> None:
    thirds = torch.tensor([20.0, 21.0, 22.0])
    density = [math.exp(-1 / 8), 1.0, math.exp(-1 / 8)]  # centre 21, deviation 2
    mean = sum(density) / 3
    spread = math.sqrt(sum((d - mean) ** 2 for d in density) / 2)
    margins = margins_of(torch.tensor([21.0]), torch.tensor([2.0]), thirds, 0.1)
    assert margins[0].tolist() == pytest.approx([0.1 * (d - mean) / spread for d in density], rel=1e-4)


def test_a_variational_margin_is_added_before_the_margins_are_scaled() -> None:
    thirds = torch.tensor([20.0, 21.0, 22.0])
    height = 1 / (2 * math.sqrt(2 * math.pi))  # of a Gaussian of two years
    whole = [height * math.exp(-1 / 8) + 0.3, height, height * math.exp(-1 / 8) - 0.1]
    mean = sum(whole) / 3
    spread = math.sqrt(sum((m - mean) ** 2 for m in whole) / 2)
    margins = margins_of(
        torch.tensor([21.0]), torch.tensor([2.0]), thirds, 0.1, torch.tensor([[0.3, 0.0, -0.1]])
    )
    assert margins[0].tolist() == pytest.approx([0.1 * (m - mean) / spread for m in whole], rel=1e-4)


def test_pml_holds_the_logits_back_by_the_margin_of_the_labelled_age() -> None:
    logits, centres, of_ages = _random(5, 6), BINS + _random(6, seed=1), _random(6, seed=2)
    widths = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], dtype=torch.float64)
    features = _random(5, 2, seed=3)  # of no account
    margins = [values.expand(5, -1) for values in (centres, widths.log(), of_ages)]
    scores = torch.cat((logits, *margins, features), dim=1)
    for weight in (0.0, 0.1):
        total = 0.0
        for row in range(5):
            y = min(max(AGES[row].item(), 20.0), 25.0)
            age = int(y) - 20
            held = margins_of(
                centres[age : age + 1], widths[age : age + 1], BINS, 0.01, weight * of_ages[None]
            )
            total += dldl_v2(logits[row : row + 1] - held, AGES[row : row + 1], BINS).item()
        assert pml(scores, AGES, BINS, variational=weight).item() == pytest.approx(total / 5, rel=1e-9)


def test_without_a_margin_pml_is_dldl_v2() -> None:
    scores = _random(5, 24)
    torch.testing.assert_close(pml(scores, AGES, BINS, scale=0), dldl_v2(scores[:, :6], AGES, BINS))
