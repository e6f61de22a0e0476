"""Objectives: golden values by hand, a plain loop, the degenerate case, the gradient, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from agelens.errors import InputError, PluginError
from agelens.objectives import OBJECTIVES, find_objective
from agelens.objectives.cascade import c3ae, two_points
from agelens.objectives.contract import CONTEXT, Objective, age_index, settings_of
from agelens.objectives.distribution import (
    adaptive_mean_residue,
    dex,
    dldl,
    dldl_v2,
    mean_variance,
    sord,
    unimodal_concentrated,
)
from agelens.objectives.diversity import label_diversity, random_codings
from agelens.objectives.ordinal import coral, corn, megaage_posterior, or_cnn, task_weights
from agelens.objectives.regression import l1, l2

BINS = torch.arange(20, 26, dtype=torch.float64)  # K = 6
AGES = torch.tensor([20.0, 22.7, 25.0, 31.0, 3.0], dtype=torch.float64)  # two of them beyond the bins
HALVES = torch.tensor([20.0, 21.0])  # two bins
THIRDS = torch.tensor([20.0, 21.0, 22.0])  # three bins

Loop = Callable[[list[float], float], float]


def _scores(objective: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows, k = len(AGES), len(BINS)
    shapes = {
        "reg": (rows,),
        "stagewise": (rows,),
        "ldl": (rows, k),
        "comparisons": (rows, 2 * k - 1),
        "codings": (rows, 30, 4),
        "cascade": (rows, 13),
        "anchored": (rows,),
        "bridge": (rows, 6),
        "forest": (rows, 2, 3, 4),
        "embedding": (rows, 2 * 3 + 4 * k),
        "margin": (rows, 4 * k + 2),
        "widths": (rows, 2 * k),
        "window": (rows, 4 * 3),
        "comparing": (rows, 3 * 3),
    }
    head = OBJECTIVES[objective].head
    shape = shapes.get(str(head), (rows, k - 1))
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    if head == "widths":
        scores[:, k:] = torch.arange(1, k + 1) / 2  # deviations of the ages, the same for every image
    if head in ("window", "comparing"):
        scores[:, -3:] = scores[0, -3:]  # the last layer, the same for every image
    return scores + 22 if head in ("reg", "stagewise", "anchored") else scores


def _settings(objective: str) -> dict[str, Any]:
    if objective == "avdl":  # its search is tried in test_adaptive
        return {"change": 0.0, "features": torch.ones(len(AGES), 2, dtype=torch.float64)}
    return {"label-diversity": {"classes": 4}, "poe": {"samples": 4}}.get(objective, {})


# --- plain loops, a row at a time


def _softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def _clamp(y: float) -> float:
    return min(max(y, 20.0), 25.0)


def _index(y: float) -> int:
    return int(_clamp(math.floor(y))) - 20


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def _gaussian(y: float, sigma: float) -> list[float]:
    return _softmax([-((k - _clamp(y)) ** 2) / (2 * sigma**2) for k in range(20, 26)])


def _ce(row: list[float], target: list[float]) -> float:
    return -sum(t * math.log(p) for t, p in zip(target, _softmax(row), strict=True))


def _mean(row: list[float]) -> float:
    return sum(k * p for k, p in enumerate(_softmax(row), start=20))


def _variance(row: list[float]) -> float:
    return sum((k - _mean(row)) ** 2 * p for k, p in enumerate(_softmax(row), start=20))


def _dex(row: list[float], y: float) -> float:
    return -math.log(_softmax(row)[_index(y)])


def _dldl_v2(row: list[float], y: float) -> float:
    target = _gaussian(y, 2)
    entropy = -sum(t * math.log(t) for t in target)
    return _ce(row, target) - entropy + abs(_mean(row) - _clamp(y))


def _residue(row: list[float], y: float) -> float:
    p = _softmax(row)
    residue = -sum((q + 1e-3) * math.log(q + 1e-3) for q in p if q < p[_index(y)])
    return _dex(row, y) + 0.2 * 0.5 * (_mean(row) - _clamp(y)) ** 2 + 0.05 * residue


def _unimodal(row: list[float], y: float) -> float:
    p, variance = _softmax(row), _variance(row) + 1e-3
    total = 0.5 * math.log(variance) + (_mean(row) - _clamp(y)) ** 2 / (2 * variance)
    for k in range(5):
        side = (k > _index(y)) - (k < _index(y))
        total += 10 * max(0.0, side * (p[k + 1] - p[k]))
    return total


def _ordinal(row: list[float], y: float) -> float:
    return -sum(
        math.log(_sigmoid(z)) if _index(y) > k else math.log(1 - _sigmoid(z)) for k, z in enumerate(row)
    )


def _megaage(row: list[float], y: float) -> float:
    total = _ce(row[5:], _gaussian(y, 2))
    for k in range(5):
        if abs(k - _index(y)) > 3:
            total += (_sigmoid(row[k]) - (_index(y) > k)) ** 2
    return total


def _c3ae(row: list[float], y: float) -> float:
    total, p = abs(row[0] - _clamp(y)), _softmax(row[1:])
    for k in range(12):
        share = max(0.0, 1 - abs(_clamp(y) - 10 * k) / 10)
        total += 10 * share * math.log(share / p[k]) if share else 0.0
    return total


LOOPS: dict[str, Loop] = {
    "l1": lambda s, y: abs(s - _clamp(y)),  # type: ignore[operator]
    "l2": lambda s, y: (s - _clamp(y)) ** 2,  # type: ignore[operator]
    "dex": _dex,
    "dldl": lambda row, y: _ce(row, _gaussian(y, 2)),
    "dldl-v2": _dldl_v2,
    "sord": lambda row, y: _ce(row, _softmax([-((k - _clamp(y)) ** 2) for k in range(20, 26)])),
    "mean-variance": lambda row, y: (
        _dex(row, y) + 0.1 * (_mean(row) - _clamp(y)) ** 2 + 0.05 * _variance(row)
    ),
    "adaptive-mean-residue": _residue,
    "unimodal-concentrated": _unimodal,
    "or-cnn": _ordinal,
    "coral": _ordinal,
    "megaage-posterior": _megaage,
    "ssr-net": lambda s, y: abs(s - _clamp(y)),  # type: ignore[operator]
    "c3ae": _c3ae,
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_plain_loop_gives_the_same(name: str) -> None:
    scores = _scores(name)
    each = [LOOPS[name](row, y) for row, y in zip(scores.tolist(), AGES.tolist(), strict=True)]
    assert OBJECTIVES[name].loss(scores, AGES, BINS).item() == pytest.approx(sum(each) / len(each), rel=1e-9)


def test_corn_is_a_plain_loop_over_conditional_tasks() -> None:
    scores = _scores("corn")
    total, pairs = 0.0, 0
    for k in range(5):
        for row, y in zip(scores.tolist(), AGES.tolist(), strict=True):
            if _index(y) > k - 1:
                p = _sigmoid(row[k])
                total -= math.log(p if _index(y) > k else 1 - p)
                pairs += 1
    assert (
        pairs == 1 + 3 + 5 + 5 + 1
    )  # task k is asked of the images with y ≥ k: 5 at most, 1 of the youngest
    assert corn(scores, AGES, BINS).item() == pytest.approx(total / pairs, rel=1e-9)


def test_label_diversity_is_a_plain_loop_over_codings() -> None:
    scores = _scores("label-diversity")
    codings = random_codings(6, 30, 4, 0).tolist()
    total = 0.0
    for image, y in zip(scores.tolist(), AGES.tolist(), strict=True):
        for row, coding in zip(image, codings, strict=True):
            total -= math.log(_softmax(row)[coding[_index(y)]])
    value = label_diversity(scores, AGES, BINS, classes=4)
    assert value.item() == pytest.approx(total / len(AGES), rel=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient(name: str) -> None:
    scores = _scores(name).requires_grad_()
    loss = OBJECTIVES[name].loss
    torch.autograd.gradcheck(lambda z: loss(z, AGES, BINS, **_settings(name)), scores)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    scores, turned = _scores(name), torch.arange(len(AGES)).flip(0)
    loss = OBJECTIVES[name].loss
    straight, reverse = (
        loss(scores[rows], AGES[rows], BINS, **_settings(name)).item()
        for rows in (torch.arange(len(AGES)), turned)
    )
    assert straight == pytest.approx(reverse, rel=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shapes_that_disagree_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        OBJECTIVES[name].loss(_scores(name), AGES[:3], BINS, **_settings(name))


# --- golden values by hand


def test_regression_by_hand() -> None:
    predicted, ages = torch.tensor([20.5, 24.0]), torch.tensor([20.0, 21.0])
    assert l1(predicted, ages, BINS.float()).item() == pytest.approx((0.5 + 3) / 2)
    assert l2(predicted, ages, BINS.float()).item() == pytest.approx((0.25 + 9) / 2)
    beyond = torch.tensor([25.0])
    assert l1(beyond, torch.tensor([90.0]), BINS.float()).item() == 0  # the nearest age of the bins


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])  # (1/4, 3/4)
    assert dex(logits, torch.tensor([21.9]), HALVES).item() == pytest.approx(-math.log(0.75))
    assert dex(logits, torch.tensor([20.0]), HALVES).item() == pytest.approx(-math.log(0.25))


def test_distributions_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    near, far = 1 / (1 + math.exp(-1 / 8)), 1 / (1 + math.exp(1 / 8))  # σ 2, label 20
    expected = -near * math.log(0.25) - far * math.log(0.75)
    twenty = torch.tensor([20.0])
    assert dldl(logits, twenty, HALVES).item() == pytest.approx(expected, rel=1e-6)
    entropy = -near * math.log(near) - far * math.log(far)
    assert dldl_v2(logits, twenty, HALVES).item() == pytest.approx(expected - entropy + 0.75, rel=1e-5)
    near, far = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))  # exp(0) : exp(-1), both distances are 1
    expected = -near * math.log(0.25) - far * math.log(0.75)
    for distance in ("absolute", "squared"):
        assert sord(logits, twenty, HALVES, distance=distance).item() == pytest.approx(expected, rel=1e-6)


def test_mean_variance_and_residue_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])  # μ 20.75, σ² 3/16
    twenty, one_more = torch.tensor([20.0]), torch.tensor([21.0])
    expected = -math.log(0.25) + 0.2 * 0.5 * 0.75**2 + 0.05 * 3 / 16
    assert mean_variance(logits, twenty, HALVES).item() == pytest.approx(expected, rel=1e-6)
    # label 21: the other bin (1/4) is less likely, and is the residue; label 20: no bin is
    expected = -math.log(0.75) + 0.2 * 0.5 * 0.25**2 - 0.05 * 0.251 * math.log(0.251)
    assert adaptive_mean_residue(logits, one_more, HALVES).item() == pytest.approx(expected, rel=1e-6)
    expected = -math.log(0.25) + 0.2 * 0.5 * 0.75**2
    assert adaptive_mean_residue(logits, twenty, HALVES).item() == pytest.approx(expected, rel=1e-6)


def test_unimodal_concentrated_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.25, 0.5]]))  # μ 21.25, σ² 11/16
    variance = 11 / 16 + 1e-3
    twenty = torch.tensor([20.0])
    # label 20: from 20 to 21 the sign is 0; from 21 to 22 p rises by 1/4 behind the label
    expected = 0.5 * math.log(variance) + 1.25**2 / (2 * variance) + 10 * 0.25
    assert unimodal_concentrated(logits, twenty, THIRDS).item() == pytest.approx(expected, rel=1e-5)
    # label 22: it never falls before the label
    expected = 0.5 * math.log(variance) + 0.75**2 / (2 * variance)
    assert unimodal_concentrated(logits, twenty + 2, THIRDS).item() == pytest.approx(expected, rel=1e-5)


def test_ordinal_by_hand() -> None:
    scores = torch.tensor([[math.log(3.0), 0.0]])  # σ 3/4 and 1/2, label 21: older than 20, not than 21
    label = torch.tensor([21.0])
    expected = -math.log(0.75) - math.log(0.5)
    assert or_cnn(scores, label, THIRDS).item() == pytest.approx(expected, rel=1e-6)
    assert coral(scores, label, THIRDS).item() == pytest.approx(expected, rel=1e-6)
    counts = torch.tensor([9.0, 1.0, 5.0])  # λ = (3, 1) / 4
    weighted = or_cnn(scores, label, THIRDS, importance="root", counts=counts).item()
    assert weighted == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.5), rel=1e-6)
    assert corn(scores, label, THIRDS).item() == pytest.approx(expected / 2, rel=1e-6)
    assert corn(scores, label - 1, THIRDS).item() == pytest.approx(-math.log(0.25), rel=1e-6)  # task 0 alone


def test_megaage_posterior_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, math.log(3.0)]])  # comparisons undecided; posterior (1, 1, 3) / 5
    scores = torch.cat((scores[:, :2], torch.log(torch.tensor([[1.0, 1.0, 3.0]]))), dim=1)
    target = _softmax([0.0, -1 / 8, -4 / 8])
    entropy = -sum(t * math.log(p) for t, p in zip(target, (0.2, 0.2, 0.6), strict=True))
    label = torch.tensor([20.0])
    assert megaage_posterior(scores, label, THIRDS).item() == pytest.approx(entropy, rel=1e-6)
    near = megaage_posterior(scores, label, THIRDS, margin=0.0).item()  # the comparison with 21: (1/2 - 0)²
    assert near == pytest.approx(entropy + 0.25, rel=1e-6)


def test_two_points_by_hand() -> None:
    points = two_points(torch.tensor([23.0, 30.0, 140.0]), 12)
    assert points[0].tolist()[:5] == pytest.approx([0, 0, 0.7, 0.3, 0])
    assert points[1].tolist()[:5] == [0, 0, 0, 1, 0]
    assert points[2].tolist()[-2:] == [0, 1]
    scores = torch.cat((torch.tensor([[20.0]]), torch.zeros(1, 12)), dim=1)
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.3)
    value = c3ae(scores, torch.tensor([23.0]), torch.arange(0.0, 101.0))
    assert value.item() == pytest.approx(3 + 10 * (math.log(12) - entropy), rel=1e-6)


# --- degenerate cases


def test_without_their_weights_the_losses_are_cross_entropy() -> None:
    scores = _scores("dex")
    plain = dex(scores, AGES, BINS)
    whole = AGES.floor()
    torch.testing.assert_close(mean_variance(scores, AGES, BINS, lambda_mean=0, lambda_variance=0), plain)
    torch.testing.assert_close(
        adaptive_mean_residue(scores, AGES, BINS, lambda_mean=0, lambda_residue=0), plain
    )
    torch.testing.assert_close(dldl(scores, whole, BINS, sigma=0.01), plain)
    torch.testing.assert_close(sord(scores, whole, BINS, scale=1e4), plain)
    torch.testing.assert_close(dldl_v2(scores, whole, BINS, sigma=0.01, lambda_er=0), plain)


def test_a_certain_distribution_has_a_finite_unimodal_loss() -> None:
    logits = torch.full((1, 6), -1e4, dtype=torch.float64)
    logits[0, 2] = 0
    value = unimodal_concentrated(logits, torch.tensor([22.0], dtype=torch.float64), BINS)
    assert value.item() == pytest.approx(0.5 * math.log(1e-3))


def test_the_deviation_of_a_label_widens_its_target() -> None:
    scores = _scores("dldl-v2")
    none = torch.full_like(AGES, float("nan"))
    known = torch.where(torch.arange(len(AGES)) == 1, 4.0, none)
    usual = dldl_v2(scores, AGES, BINS)
    torch.testing.assert_close(dldl_v2(scores, AGES, BINS, deviations=none), usual)
    assert dldl_v2(scores, AGES, BINS, deviations=known).item() != pytest.approx(usual.item())
    one = slice(1, 2)
    torch.testing.assert_close(
        dldl_v2(scores[one], AGES[one], BINS, deviations=known[one]),
        dldl_v2(scores[one], AGES[one], BINS, sigma=4.0),
    )
    with pytest.raises(ValueError, match="deviations"):
        dldl_v2(scores, AGES, BINS, deviations=known[:2])


def test_task_weights_of_bins_without_images() -> None:
    assert task_weights(torch.tensor([4.0, 0.0, 7.0])).tolist() == [1.0, 0.0]
    assert task_weights(torch.tensor([0.0, 0.0, 7.0])).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="no training image"):
        task_weights(torch.zeros(3))
    with pytest.raises(ValueError, match="counts"):
        or_cnn(_scores("or-cnn"), AGES, BINS, importance="root")


def test_codings_divide_the_ages_and_leave_no_class_empty() -> None:
    codings = random_codings(101, 30, 10, 0)
    assert codings.shape == (30, 101)
    assert all(sorted(set(row)) == list(range(10)) for row in codings.tolist())
    assert (codings.diff(dim=1) >= 0).all()
    assert len({tuple(row) for row in codings.tolist()}) == 30
    assert random_codings(101, 30, 10, 1).tolist() != codings.tolist()
    with pytest.raises(InputError, match="11 classes cannot divide 10 ages"):
        random_codings(10, 1, 11, 0)


def test_ages_go_to_their_bins() -> None:
    assert age_index(AGES, BINS).tolist() == [0, 2, 5, 5, 0]


# --- the contract


def test_settings_are_the_keywords_of_a_loss() -> None:
    settings = settings_of(dldl_v2, without=CONTEXT)
    assert settings().model_dump() == {"sigma": 2.0, "lambda_er": 1.0}
    with pytest.raises(ValidationError):
        settings(sigma=0)
    with pytest.raises(ValidationError):
        settings(tau=1)

    def mine(scores: Tensor, ages: Tensor, bin_ages: Tensor, *, counts: Tensor, delta: float = 1) -> Tensor:
        return scores.sum()

    assert Objective(mine).context() == ("counts",)
    assert list(settings_of(mine, without=CONTEXT).model_fields) == ["delta"]


def test_an_unknown_objective_lists_what_there_is() -> None:
    assert find_objective("dldl") is OBJECTIVES["dldl"]
    with pytest.raises(PluginError, match=f"no objective 'dlld'; there are {', '.join(OBJECTIVES)}"):
        find_objective("dlld")
    with pytest.raises(PluginError, match="is a function, not an agelens"):
        find_objective("agelens.objectives.regression:l1")
