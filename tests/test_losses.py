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
