"""Metrics of bands: golden values, plain loops, the degenerate band of one age, order."""

from __future__ import annotations

import numpy as np
import pytest

from agelens import metrics
from agelens.label_distribution import AgeBins

BINS = AgeBins(0, 100)
BANDS = [(0, 2), (3, 9), (10, 19), (20, 29), (70, 130)]


def drawn(count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates and the bands of as many images."""
    random = np.random.default_rng(0)
    bands = np.array(BANDS, dtype=float)[random.integers(len(BANDS), size=count)]
    return random.uniform(0, 100, count), bands[:, 0], bands[:, 1]


def test_by_hand() -> None:
    estimates, low, high = [18.0, 29.9, 30.0, 99.0, 5.0], [20, 20, 20, 70, 3], [29, 29, 29, 130, 9]
    assert metrics.band_distances(estimates, low, high).tolist() == pytest.approx([2, 0.9, 1, 0, 0])
    assert metrics.band_distance(estimates, low, high) == pytest.approx(3.9 / 5)
    assert metrics.band_hits(estimates, low, high).tolist() == [False, True, False, True, True]
    assert metrics.band_accuracy(estimates, low, high) == 60.0


def test_loops_agree_and_order_does_not_matter() -> None:
    estimates, low, high = drawn()
    rows = list(zip(estimates, low, high, strict=True))
    distances = [max(lo - e, e - hi, 0.0) for e, lo, hi in rows]
    assert metrics.band_distances(estimates, low, high).tolist() == pytest.approx(distances)
    hits = [lo <= int(e) <= hi for e, lo, hi in rows]
    assert metrics.band_hits(estimates, low, high).tolist() == hits
    order = np.random.default_rng(1).permutation(len(estimates))
    assert metrics.band_accuracy(estimates[order], low[order], high[order]) == pytest.approx(
        metrics.band_accuracy(estimates, low, high)
    )


def test_a_band_of_one_age_is_the_age() -> None:
    estimates, ages, _ = drawn()
    assert metrics.band_distance(estimates, ages, ages) == pytest.approx(metrics.mae(estimates, ages))
    low, high = estimates - 8, estimates + 8
    covered = metrics.censored_coverage(ages, ages, low, high)
    assert covered.certain == covered.possible == metrics.coverage(ages, low, high)


def test_the_most_probable_band_is_the_one_of_the_largest_sum() -> None:
    random = np.random.default_rng(2)
    distribution = random.dirichlet(np.full(101, 0.1), size=50)
    masses = metrics.band_masses(distribution, BINS, BANDS)
    for row, found in zip(distribution, masses, strict=True):
        assert found.tolist() == pytest.approx([row[low : high + 1].sum() for low, high in BANDS])
    best = [int(np.argmax([row[low : high + 1].sum() for low, high in BANDS])) for row in distribution]
    assert metrics.most_probable_band(distribution, BINS, BANDS).tolist() == best
    assert len(set(best)) > 2


def test_bands_beyond_the_bins_have_the_nearest_bins_mass() -> None:
    distribution = np.eye(3)[[0, 2]]
    assert metrics.band_masses(distribution, AgeBins(20, 22), [(0, 19), (21, 130)]).tolist() == [
        [1, 0],
        [0, 1],
    ]


def test_censored_coverage_by_hand() -> None:
    low, high = [20, 20, 20, 70], [29, 29, 29, 130]
    covered = metrics.censored_coverage(low, high, [18, 25, 30, 60], [30, 40, 40, 80])
    assert covered == (0.25, 0.75)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before"):
        metrics.band_distance([3.0], [9], [3])
    with pytest.raises(ValueError, match="NaN"):
        metrics.band_hits([float("nan")], [3], [9])
    with pytest.raises(ValueError, match="no images"):
        metrics.censored_coverage([], [], [], [])
    with pytest.raises(ValueError, match=r"\(M, 2\)"):
        metrics.band_masses(np.ones((2, 101)), BINS, [1, 2])
