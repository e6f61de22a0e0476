"""Losses of faces compared with faces: values by hand, plain loops, degenerate cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agelens.objectives.references import ap, log_ages, mwr, older, pair_logits, relative_ranks, window_ranks

BINS = torch.arange(0, 101, dtype=torch.float64)
AGES = torch.tensor([20.0, 26.0, 30.0, 30.0, 41.0, 3.0], dtype=torch.float64)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scores(parts: int, hidden: int = 4) -> Tensor:
    scores = _random(len(AGES), parts * hidden)
    scores[:, -hidden:] = scores[0, -hidden:].clone()
    return scores


def test_ranks_by_hand() -> None:
    places = log_ages(torch.tensor([7.0, 3.0, 31.0, 0.0]))  # ln 8, ln 4, ln 32, ln 1
    ranks = relative_ranks(places, places[1], places[2])  # the middle of the window is ln √128 = 3.5 ln 2
    torch.testing.assert_close(ranks, torch.tensor([-1 / 3, -1.0, 1.0, -1.0]))
    found = window_ranks(
        torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 1.0]), torch.ones(2), torch.tensor([5.0, 0.25])
    )
    assert found.item() == pytest.approx(math.tanh(0.25 * 2))


def _mwr_loop(scores: Tensor, ages: list[float], window: float) -> float:
    rows = [[part.tolist() for part in row.chunk(4)] for row in scores]
    places = [math.log(y + 1) for y in ages]
    total, count = 0.0, 0
    for face, place in enumerate(places):
        for offset in (-8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8):
            ends = []
            for end, part in ((-window, 1), (window, 2)):
                wanted = place + offset * window + end
                gap = min(abs(p - wanted) for n, p in enumerate(places) if n != face)
                near = [
                    n
                    for n, p in enumerate(places)
                    if n != face and abs(p - wanted) == pytest.approx(gap, abs=1e-12)
                ]
                mean = [sum(rows[n][part][h] for n in near) / len(near) for h in range(4)]
                ends.append((places[near[0]], mean))
            (low, first), (high, second) = ends
            if high > low:
                hidden = [max(0.0, rows[face][0][h] + first[h] + second[h]) for h in range(4)]
                said = math.tanh(sum(h * v for h, v in zip(hidden, rows[face][3], strict=True)))
                rank = min(1.0, max(-1.0, (2 * place - low - high) / (high - low)))
                total += (said - rank) ** 2
                count += 1
    assert 0 < count < 11 * len(ages)
    return total / count


@pytest.mark.parametrize("window", [0.2, 0.4])
def test_mwr_is_a_plain_loop_over_windows(window: float) -> None:
    scores = _scores(4)
    expected = _mwr_loop(scores, AGES.tolist(), window)
    assert mwr(scores, AGES, BINS, window=window).item() == pytest.approx(expected, rel=1e-9)


def test_mwr_without_two_ages_is_nothing() -> None:
    scores = _scores(4).requires_grad_()
    for rows in (slice(0, 1), slice(2, 4)):  # a face alone, two of one age
        loss = mwr(scores[rows], AGES[rows], BINS)
        loss.backward()
        assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_a_comparison_by_hand() -> None:
    # a x = (1, -1), b x = (2, 0); a r = (0, 3), b r = (-2, 2); v = (1, 10)
    faces = (torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 0.0]]))
    others = (torch.tensor([[0.0, 3.0]]), torch.tensor([[-2.0, 2.0]]))
    last = torch.tensor([1.0, 10.0])
    # ReLU(-1, 1) - ReLU(2, 3) = (-2, -2)
    assert pair_logits(*faces, *others, last).item() == -22
    assert pair_logits(*others, *faces, last).item() == 22
    assert older(torch.tensor(0.0), 3.0).item() == 0.5
    assert older(torch.tensor(6.0), 3.0).item() == pytest.approx(0.01 + 0.98 * 0.977249868, rel=1e-5)
    assert older(torch.tensor(-100.0), 3.0).item() == pytest.approx(0.01, abs=1e-6)


def test_ap_is_a_plain_loop_over_pairs() -> None:
    scores = _scores(3)
    rows = [[part.tolist() for part in row.chunk(3)] for row in scores]
    total = 0.0
    for x in range(6):
        for r in range(6):
            if x != r:
                ahead = [max(0.0, p + q) for p, q in zip(rows[x][0], rows[r][1], strict=True)]
                behind = [max(0.0, p + q) for p, q in zip(rows[r][0], rows[x][1], strict=True)]
                logit = sum(v * (p - q) for v, p, q in zip(rows[0][2], ahead, behind, strict=True))
                share = 1 / (1 + math.exp(-logit))
                z = (AGES[x].item() - AGES[r].item()) / 4
                wanted = 0.01 + 0.98 * (1 + math.erf(z / math.sqrt(2))) / 2
                total -= wanted * math.log(share) + (1 - wanted) * math.log(1 - share)
    assert ap(scores, AGES, BINS, softness=4.0).item() == pytest.approx(total / 30, rel=1e-9)
    assert ap(scores[:1], AGES[:1], BINS).item() == 0
