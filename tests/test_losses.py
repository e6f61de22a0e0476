"""Losses: golden value, plain-loop reference, degenerate case, invariant, gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agelens import losses


def _loop_softmax(row: list[float], tau: float) -> list[float]:
    exponentials = [math.exp(value / tau) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def _batch(size: int = 6, k: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(size, k, generator=generator, dtype=torch.float64)
    ancestor = torch.randn(size, k, generator=generator, dtype=torch.float64)
    index = torch.randint(0, k, (size,), generator=generator)
    regressed = torch.rand(size, generator=generator, dtype=torch.float64)
    ages = torch.rand(size, generator=generator, dtype=torch.float64)
    return logits, ancestor, index, regressed, ages


def test_cross_entropy_by_hand() -> None:
    # softmax((0, 2 ln 3) / 2) = (1/4, 3/4); the label is bin 1
    logits = torch.tensor([[0.0, 2 * math.log(3.0)]])
    assert losses.age_cross_entropy(logits, torch.tensor([1]), tau=2.0).item() == pytest.approx(
        -math.log(0.75), rel=1e-6
    )


def test_refined_label_distribution_by_hand() -> None:
    # offspring (1/4, 3/4), ancestor (1/2, 1/2), label 1, α = 0.25
    logits = torch.tensor([[0.0, 2 * math.log(3.0)]])
    value = losses.refined_label_distribution(
        logits, torch.tensor([1]), torch.zeros(1, 2), alpha=0.25, tau=2.0
    )
    soft = -0.5 * math.log(0.25) - 0.5 * math.log(0.75)
    assert value.item() == pytest.approx(0.25 * soft - 0.75 * math.log(0.75), rel=1e-6)


def test_slack_by_hand() -> None:
    # errors 0.3, 0.1, 0.0; slack 0.1, 0.2, 0.0 -> (0.2 + 0 + 0) / 3
    value = losses.slack_regression(
        torch.tensor([0.8, 0.4, 0.2]), torch.tensor([0.5, 0.5, 0.2]), torch.tensor([0.6, 0.7, 0.2])
    )
    assert value.item() == pytest.approx(0.2 / 3, rel=1e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_refinement_equals_a_plain_loop(alpha: float, tau: float) -> None:
    logits, ancestor, index, _, _ = _batch()
    total = 0.0
    for row, teacher, label in zip(logits.tolist(), ancestor.tolist(), index.tolist(), strict=True):
        p, q = _loop_softmax(row, tau), _loop_softmax(teacher, tau)
        soft = -sum(q_i * math.log(p_i) for q_i, p_i in zip(q, p, strict=True))
        total += alpha * soft + (1 - alpha) * -math.log(p[label])
    value = losses.refined_label_distribution(logits, index, ancestor, alpha=alpha, tau=tau)
    assert value.item() == pytest.approx(total / len(index), rel=1e-12)


def test_slack_and_l1_equal_a_plain_loop() -> None:
    _, _, _, regressed, ages = _batch(50)
    ancestor = torch.flip(regressed, (0,))
    rows = list(zip(regressed.tolist(), ages.tolist(), ancestor.tolist(), strict=True))
    slack = sum(max(0.0, abs(s - y) - abs(a - y)) for s, y, a in rows) / len(rows)
    assert losses.slack_regression(regressed, ages, ancestor).item() == pytest.approx(slack, rel=1e-12)
    l1 = sum(abs(s - y) for s, y, _ in rows) / len(rows)
    assert losses.l1_regression(regressed, ages).item() == pytest.approx(l1, rel=1e-12)


def test_alpha_zero_is_cross_entropy_and_a_perfect_ancestor_is_plain_l1() -> None:
    logits, ancestor, index, regressed, ages = _batch()
    torch.testing.assert_close(
        losses.refined_label_distribution(logits, index, ancestor, alpha=0.0, tau=2.0),
        losses.age_cross_entropy(logits, index, 2.0),
    )
    torch.testing.assert_close(
        losses.slack_regression(regressed, ages, ages), losses.l1_regression(regressed, ages)
    )
    assert losses.slack_regression(regressed, ages, regressed).item() == 0.0


def test_soft_cross_entropy_is_kl_plus_the_targets_entropy() -> None:
    logits, ancestor, _, _, _ = _batch()
    target = torch.softmax(ancestor / 2, 1)
    kl = torch.nn.functional.kl_div(torch.log_softmax(logits / 2, 1), target, reduction="batchmean")
    entropy = -(target * target.log()).sum(1).mean()
    torch.testing.assert_close(losses.soft_cross_entropy(logits, target, 2.0), kl + entropy)


def test_batch_order_does_not_matter() -> None:
    logits, ancestor, index, regressed, ages = _batch(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        losses.refined_label_distribution(logits, index, ancestor, alpha=0.5, tau=2.0),
        losses.refined_label_distribution(logits[order], index[order], ancestor[order], alpha=0.5, tau=2.0),
    )
    torch.testing.assert_close(
        losses.slack_regression(regressed, ages, ages / 2),
        losses.slack_regression(regressed[order], ages[order], ages[order] / 2),
    )


def test_gradients() -> None:
    logits, ancestor, index, regressed, ages = _batch()
    logits.requires_grad_(True)
    regressed.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda z: losses.refined_label_distribution(z, index, ancestor, alpha=0.5, tau=2.0), (logits,)
    )
    assert torch.autograd.gradcheck(lambda s: losses.slack_regression(s, ages, ages + 0.05), (regressed,))
    assert torch.autograd.gradcheck(lambda s: losses.l1_regression(s, ages), (regressed,))


def test_the_ancestor_gets_no_gradient() -> None:
    logits, ancestor, index, regressed, ages = _batch()
    ancestor.requires_grad_(True)
    teacher = (ages / 3).requires_grad_(True)
    logits.requires_grad_(True)
    regressed.requires_grad_(True)
    loss = losses.refined_label_distribution(logits, index, ancestor, alpha=0.5, tau=2.0)
    (loss + losses.slack_regression(regressed, ages, teacher)).backward()
    assert ancestor.grad is None
    assert teacher.grad is None
    assert logits.grad is not None


def test_shapes_and_settings_that_disagree_are_told() -> None:
    logits, ancestor, index, regressed, ages = _batch()
    with pytest.raises(ValueError, match=r"\(5,\).*\(6, 5\)"):
        losses.age_cross_entropy(logits, index[:5])
    with pytest.raises(ValueError, match="tau"):
        losses.age_cross_entropy(logits, index, tau=0.0)
    with pytest.raises(ValueError, match="alpha"):
        losses.refined_label_distribution(logits, index, ancestor, alpha=1.5, tau=1.0)
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        losses.soft_cross_entropy(logits, ancestor[:3])
    with pytest.raises(ValueError, match=r"\(4,\)"):
        losses.slack_regression(regressed, ages, ages[:4])


# --- LAE and AM-softmax ---

BIN_AGES = torch.arange(0, 101, dtype=torch.float64)


def test_gaussian_labels_are_the_normalised_density() -> None:
    ages = [0.0, 33.0, 100.0, 20.5]
    found = losses.gaussian_labels(torch.tensor(ages, dtype=torch.float64), BIN_AGES, 1.0)
    for row, age in zip(found.tolist(), ages, strict=True):
        density = [math.exp(-((k - age) ** 2) / 2) / math.sqrt(2 * math.pi) for k in range(101)]
        assert row == pytest.approx([value / sum(density) for value in density], abs=1e-12)


def test_label_divergence_by_hand_loop_and_degenerate() -> None:
    # target (1/2, 1/2), softmax (1/4, 3/4): 1/2 ln 2 + 1/2 ln(2/3)
    by_hand = losses.label_divergence(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.5, 0.5]]))
    assert by_hand.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)
    logits, ancestor, _, _, _ = _batch()
    target = torch.softmax(ancestor, 1)
    expected = 0.0
    for z, t in zip(logits.tolist(), target.tolist(), strict=True):
        p = _loop_softmax(z, 2.0)
        expected += sum(a * math.log(a / b) for a, b in zip(t, p, strict=True)) / len(logits)
    assert losses.label_divergence(logits, target, 2.0).item() == pytest.approx(expected, rel=1e-9)
    assert losses.label_divergence(logits, torch.softmax(logits / 2.0, 1), 2.0).item() == pytest.approx(
        0.0, abs=1e-12
    )


def test_expectation_error_and_its_squared_excess_per_sample() -> None:
    logits, _, _, _, _ = _batch()
    bins = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0], dtype=torch.float64)
    ages = torch.tensor([11.0, 25.0, 33.0, 47.0, 50.0, 10.0], dtype=torch.float64)
    errors = losses.expectation_error(logits, ages, bins, 2.0)
    expected = []
    for z, age in zip(logits.tolist(), ages.tolist(), strict=True):
        p = _loop_softmax(z, 2.0)
        expected.append(abs(sum(a * b for a, b in zip(p, bins.tolist(), strict=True)) - age))
    assert errors.tolist() == pytest.approx(expected, rel=1e-9)
    square = losses.squared_excess(errors, 3.0)
    assert square.item() == pytest.approx(sum((e - 3.0) ** 2 for e in expected) / 6, rel=1e-9)
    assert losses.squared_excess(torch.full((4,), 3.0), 3.0).item() == 0.0


def test_additive_margin_softmax_by_loop_and_without_margin() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(5, 4, generator=generator, dtype=torch.float64) * 2 - 1
    classes = torch.tensor([0, 3, 1, 1, 2])
    expected = 0.0
    for row, own in zip(cosines.tolist(), classes.tolist(), strict=True):
        top = math.exp(8.0 * (row[own] - 0.35))
        rest = sum(math.exp(8.0 * c) for k, c in enumerate(row) if k != own)
        expected -= math.log(top / (top + rest)) / 5
    found = losses.additive_margin_softmax(cosines, classes, 8.0, 0.35)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    plain = torch.nn.functional.cross_entropy(8.0 * cosines, classes)
    assert losses.additive_margin_softmax(cosines, classes, 8.0, 0.0).item() == pytest.approx(plain.item())
    assert found > plain


def test_laes_losses_do_not_depend_on_the_batchs_order_and_have_gradients() -> None:
    logits, ancestor, index, _, ages = _batch()
    target, bins = torch.softmax(ancestor, 1), torch.arange(5, dtype=torch.float64)
    functions = (
        lambda z, t, a, k: losses.label_divergence(z, t, 2.0),
        lambda z, t, a, k: losses.expectation_error(z, a, bins).mean(),
        lambda z, t, a, k: losses.squared_excess(losses.expectation_error(z, a, bins), 0.7),
        lambda z, t, a, k: losses.additive_margin_softmax(torch.tanh(z), k, 4.0, 0.2),
    )
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for function in functions:
        whole = function(logits, target, ages, index)
        mixed = function(logits[order], target[order], ages[order], index[order])
        assert whole.item() == pytest.approx(mixed.item(), rel=1e-12)
        z = logits.clone().requires_grad_(True)
        assert torch.autograd.gradcheck(lambda z, f=function: f(z, target, ages, index), (z,))


def test_laes_losses_refuse_what_does_not_fit() -> None:
    logits = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="target"):
        losses.label_divergence(logits, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="ages"):
        losses.expectation_error(logits, torch.zeros(3), torch.arange(5.0))
    with pytest.raises(ValueError, match="sigma"):
        losses.gaussian_labels(torch.zeros(2), torch.arange(5.0), 0.0)
    with pytest.raises(ValueError, match="mae"):
        losses.squared_excess(torch.zeros(2), -1.0)
    with pytest.raises(ValueError, match="margin"):
        losses.additive_margin_softmax(logits, torch.zeros(2, dtype=torch.long), 64.0, 1.0)
    with pytest.raises(ValueError, match="classes"):
        losses.additive_margin_softmax(logits, torch.zeros(3, dtype=torch.long), 64.0, 0.35)


# --- Bands ---


def _bands() -> tuple[Tensor, Tensor]:
    return torch.tensor([0, 1, 2, 4, 0, 3]), torch.tensor([0, 3, 4, 4, 4, 3])


def test_band_likelihood_by_hand_and_by_loop() -> None:
    # softmax (1/8, 3/8, 4/8): the last two bins hold 7/8
    logits = torch.log(torch.tensor([[1.0, 3.0, 4.0]]))
    by_hand = losses.band_likelihood(logits, torch.tensor([1]), torch.tensor([2]))
    assert by_hand.tolist() == pytest.approx([-math.log(7 / 8)], rel=1e-6)
    logits, *_ = _batch()
    low, high = _bands()
    rows = zip(logits.tolist(), low.tolist(), high.tolist(), strict=True)
    expected = [-math.log(sum(_loop_softmax(z, 2.0)[first : last + 1])) for z, first, last in rows]
    assert losses.band_likelihood(logits, low, high, 2.0).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_band_of_one_bin_is_the_cross_entropy_and_the_band_of_all_is_nothing() -> None:
    logits, _, index, _, _ = _batch()
    torch.testing.assert_close(
        losses.band_likelihood(logits, index, index, 2.0).mean(), losses.age_cross_entropy(logits, index, 2.0)
    )
    whole = losses.band_likelihood(logits, torch.zeros(6, dtype=torch.long), torch.full((6,), 4))
    assert whole.tolist() == pytest.approx([0.0] * 6, abs=1e-12)


def test_the_likelihoods_gradient_is_that_of_the_networks_own_distribution_in_the_band() -> None:
    logits, *_ = _batch()
    low, high = _bands()
    inside = (torch.arange(5) >= low[:, None]) & (torch.arange(5) <= high[:, None])
    own = torch.softmax(logits, 1) * inside
    z = logits.clone().requires_grad_(True)
    losses.soft_cross_entropy(z, own / own.sum(1, keepdim=True)).backward()
    other = logits.clone().requires_grad_(True)
    losses.band_likelihood(other, low, high).mean().backward()
    torch.testing.assert_close(z.grad, other.grad)


def test_band_distance_by_hand_and_as_the_absolute_error() -> None:
    estimates = torch.tensor([18.0, 20.0, 25.0, 29.5, 33.0])
    distances = losses.band_distance(estimates, torch.full((5,), 20.0), torch.full((5,), 29.0))
    assert distances.tolist() == [2.0, 0.0, 0.0, 0.5, 4.0]
    _, _, _, regressed, ages = _batch(40)
    assert torch.equal(losses.band_distance(regressed, ages, ages), (regressed - ages).abs())
    assert torch.equal(
        losses.l1_regression(regressed, ages, ages).double(), losses.l1_regression(regressed, ages)
    )


def test_slack_of_a_band_by_loop() -> None:
    _, _, _, regressed, low = _batch(30)
    high, ancestor = low + 0.1, regressed.flip(0)
    total = 0.0
    for s, a, lo, hi in zip(regressed.tolist(), ancestor.tolist(), low.tolist(), high.tolist(), strict=True):
        mine, theirs = max(lo - s, s - hi, 0.0), max(lo - a, a - hi, 0.0)
        total += max(0.0, mine - theirs) / 30
    assert losses.slack_regression(regressed, low, ancestor, high).item() == pytest.approx(total, rel=1e-12)


def test_curvature_by_hand_by_loop_and_of_a_gaussian() -> None:
    assert losses.logit_curvature(torch.tensor([[0.0, 1.0, 0.0, 2.0]])).tolist() == [(4 + 9) / 2]
    assert losses.logit_curvature(torch.arange(7.0)[None] * 3 + 2).tolist() == [0.0]
    gaussian = torch.log(losses.gaussian_labels(torch.tensor([40.0]).double(), BIN_AGES, 5.0))
    assert losses.logit_curvature(gaussian).item() == pytest.approx(5.0**-4, rel=1e-9)
    logits, *_ = _batch()
    expected = [sum((z[k + 1] - 2 * z[k] + z[k - 1]) ** 2 for k in (1, 2, 3)) / 3 for z in logits.tolist()]
    assert losses.logit_curvature(logits).tolist() == pytest.approx(expected, rel=1e-12)


def test_refinement_takes_label_distributions_too() -> None:
    logits, ancestor, index, _, _ = _batch()
    one_hot = torch.nn.functional.one_hot(index, 5).double()
    torch.testing.assert_close(
        losses.refined_label_distribution(logits, one_hot, ancestor, alpha=0.3, tau=2.0),
        losses.refined_label_distribution(logits, index, ancestor, alpha=0.3, tau=2.0),
    )


def test_gaussian_labels_of_deviations_of_their_own() -> None:
    ages = torch.tensor([20.0, 40.5], dtype=torch.float64)
    both = losses.gaussian_labels(ages, BIN_AGES, torch.tensor([1.0, 4.0], dtype=torch.float64))
    for row, age, sigma in zip(both, ages, (1.0, 4.0), strict=True):
        torch.testing.assert_close(row[None], losses.gaussian_labels(age[None], BIN_AGES, sigma))
    with pytest.raises(ValueError, match="sigma"):
        losses.gaussian_labels(ages, BIN_AGES, torch.tensor([1.0, 0.0]))


def test_the_losses_of_bands_do_not_depend_on_order_and_have_gradients() -> None:
    logits, _, _, regressed, ages = _batch()
    low, high = _bands()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(
        losses.band_likelihood(logits, low, high)[order],
        losses.band_likelihood(logits[order], low[order], high[order]),
    )
    torch.testing.assert_close(losses.logit_curvature(logits)[order], losses.logit_curvature(logits[order]))
    logits.requires_grad_(True)
    regressed.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: losses.band_likelihood(z, low, high, 2.0), (logits,))
    assert torch.autograd.gradcheck(losses.logit_curvature, (logits,))
    assert torch.autograd.gradcheck(lambda s: losses.band_distance(s, ages, ages + 0.01), (regressed,))


def test_the_losses_of_bands_refuse_what_does_not_fit() -> None:
    logits = torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        losses.band_likelihood(logits, torch.zeros(3, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        losses.band_distance(torch.zeros(2), torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="K >= 3"):
        losses.logit_curvature(torch.zeros(2, 2))
