"""Temperature and conformal intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from agelens.calibration import LEVEL_GRID, Calibration, central_level
from agelens.errors import InputError
from agelens.label_distribution import AgeBins, gaussian, interval, softmax
from agelens.metrics import coverage, negative_log_likelihood

BINS = AgeBins(0, 100)


def drawn_faces(count: int, seed: int = 0, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose distribution at temperature ``factor`` is the one the ages were drawn from."""
    random = np.random.default_rng(seed)
    mass = gaussian(random.uniform(5, 95, count), BINS, 6.0)
    drawn = (random.random((count, 1)) > mass.cumsum(axis=1)).sum(axis=1)
    return np.log(mass) * factor, np.minimum(drawn, 100).astype(np.float64)


class TestTemperature:
    def test_golden_two_bins(self) -> None:
        """Logit ln 9 and right in 3 of 4: the best probability is 3/4, so ln 9 / T = ln 3."""
        logits = np.tile([math.log(9.0), 0.0], (4, 1))
        fitted = Calibration.fit(logits, [0, 0, 0, 1], AgeBins(0, 1))
        assert fitted.temperature == pytest.approx(2.0, abs=1e-4)

    @pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
    def test_finds_the_temperature_that_was_drawn(self, factor: float) -> None:
        logits, ages = drawn_faces(4000, factor=factor)
        assert Calibration.fit(logits, ages, BINS).temperature == pytest.approx(factor, rel=0.05)

    def test_is_the_best_of_a_dense_grid(self) -> None:
        logits, ages = drawn_faces(300, factor=2.0)
        fitted = Calibration.fit(logits, ages, BINS)
        best = negative_log_likelihood(fitted.distribution(logits), BINS, ages)
        for temperature in np.geomspace(0.2, 20, 60):
            assert best <= negative_log_likelihood(softmax(logits, temperature), BINS, ages) + 1e-9

    def test_ages_beyond_the_bins_count_as_the_last(self) -> None:
        logits, ages = drawn_faces(200)
        ages[:5] = 100.0
        beyond = ages.copy()
        beyond[:5] = 116.0
        assert (
            Calibration.fit(logits, ages, BINS).temperature
            == Calibration.fit(logits, beyond, BINS).temperature
        )

    def test_the_order_of_faces_does_not_matter(self) -> None:
        logits, ages = drawn_faces(200)
        order = np.random.default_rng(5).permutation(200)
        one, other = Calibration.fit(logits, ages, BINS), Calibration.fit(logits[order], ages[order], BINS)
        assert one.temperature == pytest.approx(other.temperature, abs=1e-6)
        np.testing.assert_allclose(one.nominal_levels, other.nominal_levels, atol=1e-6)


class TestCentralLevel:
    def test_golden(self) -> None:
        bins = AgeBins(10, 13)
        mass = np.tile([0.1, 0.2, 0.3, 0.4], (5, 1))
        # F = 0.05, 0.2, 0.45, 0.8; one-sided at the ends
        found = central_level(mass, bins, [10, 11, 12, 13, 14])
        np.testing.assert_allclose(found, [0.9, 0.6, 0.1, 0.6, math.inf])

    def test_is_the_smallest_level_that_covers(self) -> None:
        random = np.random.default_rng(0)
        bins = AgeBins(0, 20)
        mass = random.dirichlet(np.full(21, 0.5), 60)
        ages = random.integers(0, 21, 60).astype(np.float64)
        levels = central_level(mass, bins, ages)
        for row, age, level in zip(mass, ages, levels, strict=True):
            if level < 0.999:
                low, high = interval(row, bins, level + 1e-6)
                assert low <= age <= high
            if level > 1e-3:
                low, high = interval(row, bins, level - 1e-6)
                assert not low <= age <= high


class TestConformal:
    def test_golden_rank(self) -> None:
        """Nine faces: coverage 0.5 takes the 5th smallest score, 0.9 the 9th, above it the whole range."""
        bins = AgeBins(0, 10)
        logits = np.zeros((9, 11))
        ages = np.array([5, 5, 5, 4, 6, 7, 8, 9, 2], dtype=np.float64)
        fitted = Calibration.fit(logits, ages, bins)
        scores = np.sort(central_level(softmax(logits), bins, ages))
        assert fitted.nominal_level(0.5) == pytest.approx(scores[4])
        assert fitted.nominal_level(0.9) == pytest.approx(scores[8])
        assert fitted.nominal_level(0.91) == 1.0

    def test_rank_equals_a_plain_count(self) -> None:
        logits, ages = drawn_faces(37)
        fitted = Calibration.fit(logits, ages, BINS)
        scores = sorted(central_level(fitted.distribution(logits), BINS, ages).tolist())
        for percent, nominal in enumerate(fitted.nominal_levels, start=1):
            # the smallest score that at least a share c of the n + 1 faces reach, the new face counted above
            reached = [score for k, score in enumerate(scores, start=1) if 100 * k >= percent * 38]
            assert nominal == pytest.approx(reached[0] if reached else 1.0)

    @pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
    def test_covers_new_faces_of_a_wrong_shape(self, level: float) -> None:
        """A network three times too sure on half of its faces: temperature alone cannot repair it."""
        logits, ages = drawn_faces(6000, seed=1)
        logits[::2] *= 9.0
        fitted = Calibration.fit(logits[:3000], ages[:3000], BINS)
        low, high = fitted.interval(fitted.distribution(logits[3000:]), BINS, level)
        assert coverage(ages[3000:], low, high) == pytest.approx(level, abs=0.025)
        plain = interval(fitted.distribution(logits[3000:]), BINS, level)
        assert (low - plain[0]).std() > 0

    def test_average_coverage_holds_for_few_faces(self) -> None:
        """Over many small calibration sets the coverage is at least what was asked: the guarantee."""
        covered = []
        for seed in range(60):
            logits, ages = drawn_faces(60, seed=100 + seed)
            fitted = Calibration.fit(logits[:19], ages[:19], BINS)
            low, high = fitted.interval(fitted.distribution(logits[19:]), BINS, 0.8)
            covered.append(coverage(ages[19:], low, high))
        assert np.mean(covered) >= 0.78

    def test_ages_outside_the_bins_need_the_whole_range(self) -> None:
        logits, ages = drawn_faces(100)
        ages[:20] = 110.0
        fitted = Calibration.fit(logits, ages, BINS)
        assert fitted.nominal_level(0.5) < 1.0
        assert fitted.nominal_level(0.9) == 1.0

    def test_levels_rise(self) -> None:
        logits, ages = drawn_faces(500)
        assert (np.diff(Calibration.fit(logits, ages, BINS).nominal_levels) >= 0).all()

    @pytest.mark.parametrize("level", [0.0, 0.005, 0.995, 1.0, math.nan])
    def test_levels_outside_the_grid_are_refused(self, level: float) -> None:
        calibration = Calibration(1.0, LEVEL_GRID, LEVEL_GRID, 100, "val")
        with pytest.raises(InputError, match="level"):
            calibration.interval(gaussian([30.0], BINS, 3.0), BINS, level)

    def test_levels_between_the_grid_are_interpolated(self) -> None:
        calibration = Calibration(1.0, (0.2, 0.4), (0.3, 0.5), 10, "val")
        assert calibration.nominal_level(0.25) == pytest.approx(0.35)


def banded(ages: np.ndarray, width: int = 10) -> np.ndarray:
    """(N, 2) bands of some years that hold the ages."""
    low = np.floor(ages / width) * width
    return np.stack([low, low + width - 1], axis=1)


class TestBands:
    def test_bands_of_one_year_are_the_ages(self) -> None:
        logits, ages = drawn_faces(400)
        ages = np.clip(np.floor(ages), 0, 99)
        exact = Calibration.fit(logits, ages, BINS)
        hidden = np.where(np.arange(400) < 200, np.nan, ages)
        bands = Calibration.fit(logits, hidden, BINS, bounds=np.stack([ages, ages], axis=1))
        assert bands.temperature == pytest.approx(exact.temperature, rel=1e-4)
        assert bands.nominal_levels == pytest.approx(exact.nominal_levels, abs=0.02)
        assert bands.samples == 400

    def test_the_temperature_is_the_likeliest_of_the_bands(self) -> None:
        logits, ages = drawn_faces(3000, factor=2.5)
        bounds = banded(np.clip(ages, 0, 99))
        fitted = Calibration.fit(logits, np.full(3000, np.nan), BINS, bounds=bounds)

        def likelihood(temperature: float) -> float:
            mass = softmax(logits, temperature)
            rows = zip(mass, bounds.astype(int), strict=True)
            return float(np.mean([math.log(row[low : high + 1].sum()) for row, (low, high) in rows]))

        best = likelihood(fitted.temperature)
        assert all(best >= likelihood(fitted.temperature * factor) for factor in (0.5, 0.9, 1.1, 2.0))
        assert fitted.temperature == pytest.approx(Calibration.fit(logits, ages, BINS).temperature, rel=0.1)

    @pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
    def test_intervals_fitted_on_bands_cover_the_hidden_ages(self, level: float) -> None:
        logits, ages = drawn_faces(8000, seed=3, factor=2.0)
        hidden, bounds = np.full(4000, np.nan), banded(np.clip(ages[:4000], 0, 99))
        fitted = Calibration.fit(logits[:4000], hidden, BINS, bounds=bounds)
        low, high = fitted.interval(fitted.distribution(logits[4000:]), BINS, level)
        assert coverage(ages[4000:], low, high) == pytest.approx(level, abs=0.025)

    def test_an_age_between_two_bins_is_likely_by_both(self) -> None:
        logits = np.array([[0.0, 4.0, 1.0], [3.0, 0.0, 0.0]])
        bins = AgeBins(0, 2)
        split = Calibration.fit(logits, np.array([1.5, 0.0]), bins)
        twice = np.array([[0.0, 4.0, 1.0], [0.0, 4.0, 1.0], [3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
        whole = Calibration.fit(twice, np.array([1.0, 2.0, 0.0, 0.0]), bins)
        assert split.temperature == pytest.approx(whole.temperature, rel=1e-5)

    def test_labels_that_do_not_fit_are_refused(self) -> None:
        logits, ages = drawn_faces(5)
        with pytest.raises(ValueError, match="finite"):
            Calibration.fit(logits, np.full(5, np.nan), BINS)
        with pytest.raises(ValueError, match=r"bounds \(4, 2\)"):
            Calibration.fit(logits, ages, BINS, bounds=np.zeros((4, 2)))


class TestFitRefuses:
    def test_a_network_that_only_regresses(self) -> None:
        with pytest.raises(InputError, match="regression only"):
            Calibration.fit(None, [30.0], BINS)

    @pytest.mark.parametrize(
        ("logits", "ages"),
        [
            (np.zeros((3, 101)), np.zeros(2)),
            (np.zeros((3, 100)), np.zeros(3)),
            (np.zeros((0, 101)), np.zeros(0)),
            (np.zeros(101), np.zeros(1)),
        ],
    )
    def test_shapes(self, logits: np.ndarray, ages: np.ndarray) -> None:
        with pytest.raises(ValueError, match="must be"):
            Calibration.fit(logits, ages, BINS)

    def test_nan(self) -> None:
        logits = np.zeros((2, 101))
        logits[1, 4] = np.nan
        with pytest.raises(ValueError, match="finite"):
            Calibration.fit(logits, [1, 2], BINS)
        with pytest.raises(ValueError, match="finite"):
            Calibration.fit(np.zeros((2, 101)), [1, np.nan], BINS)


class TestDict:
    def test_survives_json(self) -> None:
        logits, ages = drawn_faces(50)
        fitted = Calibration.fit(logits, ages, BINS, split="val")
        again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
        assert again == fitted
        assert (again.samples, again.split) == (50, "val")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("temperature", -1.0, "temperature"),
            ("temperature", None, "damaged"),
            ("temperature", "warm", "warm"),
            ("level_grid", [0.1], "one length"),
            ("level_grid", [0.2, 0.1], "level_grid"),
            ("nominal_levels", [0.2, 1.2], "nominal_levels"),
            ("nominal_levels", 3, "damaged"),
            ("samples", 0, "samples"),
        ],
    )
    def test_damage_is_named(self, key: str, value: object, message: str) -> None:
        values = Calibration(1.5, (0.1, 0.2), (0.2, 0.3), 10, "val").to_dict() | {key: value}
        with pytest.raises(ValueError, match=message):
            Calibration.from_dict(values)

    @pytest.mark.parametrize("key", ["temperature", "level_grid", "nominal_levels", "samples", "split"])
    def test_a_missing_key_is_named(self, key: str) -> None:
        values = Calibration(1.5, (0.1, 0.2), (0.2, 0.3), 10, "val").to_dict()
        del values[key]
        with pytest.raises(ValueError, match=key):
            Calibration.from_dict(values)
