"""Age bins, and ages to distributions and back."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agelens.errors import InputError
from agelens.label_distribution import (
    AgeBins,
    band,
    cumulative,
    cumulative_at,
    expected_age,
    gaussian,
    interval,
    point_mass,
    probability_at_least,
    quantile,
    softmax,
)

BINS = AgeBins(10, 13)


def random_distributions(count: int, bins: AgeBins, seed: int = 0) -> np.ndarray:
    mass = np.random.default_rng(seed).gamma(0.3, size=(count, len(bins)))
    return mass / mass.sum(axis=1, keepdims=True)


def plain_cumulative_at(distribution: list[float], bins: AgeBins, age: float) -> float:
    total = 0.0
    for bin_age, mass in zip(bins.ages.tolist(), distribution, strict=True):
        if age >= bin_age + 0.5:
            total += mass
        elif age > bin_age - 0.5:
            total += mass * (age - (bin_age - 0.5))
    return total


def plain_quantile(distribution: list[float], bins: AgeBins, q: float) -> float:
    total = 0.0
    for bin_age, mass in zip(bins.ages.tolist(), distribution, strict=True):
        if mass > 0 and total + mass >= q:
            return min(max(bin_age - 0.5 + (q - total) / mass, bins.minimum), bins.maximum)
        total += mass
    return float(bins.maximum)


class TestAgeBins:
    def test_text_goes_both_ways(self) -> None:
        assert AgeBins.parse(" 16-77 ") == AgeBins(16, 77)
        assert str(AgeBins(16, 77)) == "16-77"
        assert len(AgeBins(16, 77)) == 62

    @pytest.mark.parametrize("text", ["", "0", "0-", "-5-10", "1.5-3", "a-b", "0-100-200", "5-5", "9-2"])
    def test_bad_text_is_refused(self, text: str) -> None:
        with pytest.raises(InputError, match="age bins"):
            AgeBins.parse(text)

    def test_index_takes_completed_years_and_clamps(self) -> None:
        ages = [[9.99, 10.0, 10.99], [11.0, 13.2, 99.0]]
        assert BINS.index(ages).tolist() == [[0, 0, 0], [1, 3, 3]]
        assert BINS.index(12).dtype == np.int64

    @pytest.mark.parametrize("age", [math.nan, math.inf])
    def test_index_refuses_what_is_no_age(self, age: float) -> None:
        with pytest.raises(ValueError, match="finite"):
            BINS.index([11.0, age])

    def test_normalise_golden_and_inverse(self) -> None:
        bins = AgeBins(16, 66)
        assert bins.normalise([16, 41, 66, 76]).tolist() == [0.0, 0.5, 1.0, 1.2]
        ages = np.array([3.0, 16.5, 40.0, 90.0])
        np.testing.assert_allclose(bins.denormalise(bins.normalise(ages)), ages)


class TestSoftmax:
    def test_golden(self) -> None:
        np.testing.assert_allclose(softmax([0.0, math.log(3.0)]), [0.25, 0.75])
        np.testing.assert_allclose(softmax([0.0, math.log(9.0)], tau=2.0), [0.25, 0.75])

    def test_equals_a_plain_loop(self) -> None:
        logits = np.random.default_rng(1).normal(size=(3, 2, 5))
        found = softmax(logits, tau=1.7)
        for index in np.ndindex(3, 2):
            powers = [math.exp(z / 1.7) for z in logits[index]]
            np.testing.assert_allclose(found[index], [power / sum(powers) for power in powers])

    def test_large_logits_do_not_overflow(self) -> None:
        assert softmax([1e6, 0.0, -1e6]).tolist() == [1.0, 0.0, 0.0]

    def test_a_shift_changes_nothing(self) -> None:
        logits = np.random.default_rng(2).normal(size=(4, 6))
        np.testing.assert_allclose(softmax(logits + 50.0), softmax(logits))

    @pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
    def test_tau_must_be_positive(self, tau: float) -> None:
        with pytest.raises(ValueError, match="tau"):
            softmax([0.0, 1.0], tau)


class TestTargets:
    def test_point_mass_golden(self) -> None:
        assert point_mass([11.75, 99], BINS).tolist() == [[0, 0.25, 0.75, 0], [0, 0, 0, 1]]

    def test_gaussian_golden(self) -> None:
        weights = np.exp([-0.5, 0.0, -0.5, -2.0])
        np.testing.assert_allclose(gaussian(11, BINS, 1.0), weights / weights.sum())

    def test_gaussian_equals_a_plain_loop(self) -> None:
        bins = AgeBins(0, 100)
        for age in (0.0, 17.3, 64.0, 100.0):
            density = [math.exp(-((k - age) ** 2) / (2 * 2.5**2)) for k in range(101)]
            np.testing.assert_allclose(gaussian(age, bins, 2.5), [d / sum(density) for d in density])

    def test_a_point_between_two_bins_has_its_mean(self) -> None:
        mass = point_mass([10.0, 10.25, 12.9, 9.0, 40.0], BINS)
        np.testing.assert_allclose(expected_age(mass, BINS), [10.0, 10.25, 12.9, 10.0, 13.0])
        np.testing.assert_allclose(mass.sum(axis=-1), 1.0)

    def test_a_band_is_even_or_takes_a_shape(self) -> None:
        assert band([11, 12], [12, 130], BINS).tolist() == [[0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]
        shape = [0.1, 0.6, 0.2, 0.1]
        assert band(11, 12, BINS, shape).tolist() == pytest.approx([0, 0.75, 0.25, 0])
        assert band([11], [11], BINS).tolist() == point_mass([11], BINS).tolist()
        with pytest.raises(ValueError, match="ends before"):
            band(12, 11, BINS)
        with pytest.raises(ValueError, match="no mass"):
            band(12, 13, BINS, [1.0, 0.0, 0.0, 0.0])

    def test_narrow_gaussian_is_point_mass(self) -> None:
        np.testing.assert_allclose(gaussian([10, 12], BINS, 0.05), point_mass([10, 12], BINS), atol=1e-12)

    def test_gaussian_clamps_what_lies_outside(self) -> None:
        np.testing.assert_array_equal(gaussian([3, 116], BINS, 1.0), gaussian([10, 13], BINS, 1.0))

    def test_gaussian_sums_to_one_however_narrow(self) -> None:
        np.testing.assert_allclose(gaussian([10.0, 11.5, 13.0], BINS, 1e-3).sum(axis=1), 1.0)

    def test_sigma_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="sigma"):
            gaussian(11, BINS, 0.0)


class TestExpectedAge:
    def test_golden(self) -> None:
        assert expected_age([0.5, 0.0, 0.0, 0.5], BINS) == pytest.approx(11.5)

    def test_equals_a_plain_loop(self) -> None:
        mass = random_distributions(6, BINS)
        plain = [sum(p * age for p, age in zip(row, (10, 11, 12, 13), strict=True)) for row in mass.tolist()]
        np.testing.assert_allclose(expected_age(mass, BINS), plain)

    def test_of_point_mass_is_the_age(self) -> None:
        assert expected_age(point_mass([10, 12, 13], BINS), BINS).tolist() == [10, 12, 13]

    def test_leading_axes(self) -> None:
        mass = random_distributions(6, BINS)
        np.testing.assert_array_equal(
            expected_age(mass.reshape(2, 3, 4), BINS), expected_age(mass, BINS).reshape(2, 3)
        )

    def test_other_number_of_bins_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(2, 3\)"):
            expected_age(np.ones((2, 3)) / 3, BINS)


class TestCumulative:
    def test_golden(self) -> None:
        np.testing.assert_allclose(cumulative([0.1, 0.2, 0.3, 0.4]), [0.1, 0.3, 0.6, 1.0])

    def test_at_golden(self) -> None:
        ages = [9.0, 9.5, 10.0, 10.5, 12.0, 13.5, 20.0]
        mass = np.tile([0.1, 0.2, 0.3, 0.4], (len(ages), 1))
        np.testing.assert_allclose(cumulative_at(mass, BINS, ages), [0, 0, 0.05, 0.1, 0.45, 1, 1])

    def test_at_equals_a_plain_loop(self) -> None:
        mass = random_distributions(20, BINS)
        ages = np.random.default_rng(3).uniform(9, 14, 20)
        plain = [plain_cumulative_at(row, BINS, age) for row, age in zip(mass.tolist(), ages, strict=True)]
        np.testing.assert_allclose(cumulative_at(mass, BINS, ages), plain)


class TestQuantile:
    def test_golden(self) -> None:
        mass = [0.1, 0.2, 0.3, 0.4]
        assert quantile(mass, BINS, 0.2) == pytest.approx(11.0)  # half of the second bin
        assert quantile(mass, BINS, 0.6) == pytest.approx(12.5)
        assert quantile(mass, BINS, 0.01) == 10.0  # 9.6, clipped

    @pytest.mark.parametrize("q", [0.03, 0.25, 0.5, 0.77, 0.98])
    def test_equals_a_plain_loop(self, q: float) -> None:
        mass = random_distributions(40, BINS)
        plain = [plain_quantile(row, BINS, q) for row in mass.tolist()]
        np.testing.assert_allclose(quantile(mass, BINS, q), plain, atol=1e-9)

    def test_of_point_mass_stays_in_its_bin(self) -> None:
        mass = point_mass([10, 11, 12, 13], BINS)
        assert quantile(mass, BINS, 0.5).tolist() == [10, 11, 12, 13]
        assert quantile(mass, BINS, 0.9).tolist() == pytest.approx([10.4, 11.4, 12.4, 13.0])

    def test_ends_are_the_range(self) -> None:
        mass = point_mass([11, 12], BINS)
        assert quantile(mass, BINS, 0.0).tolist() == [10, 10]
        assert quantile(mass, BINS, 1.0).tolist() == [13, 13]

    @settings(deadline=None, max_examples=40)  # no clock: machines are busy
    @given(st.integers(0, 10_000), st.floats(0.001, 0.999))
    def test_inverts_the_cumulative_distribution(self, seed: int, q: float) -> None:
        bins = AgeBins(0, 20)
        mass = random_distributions(1, bins, seed)[0] + 1e-6
        mass /= mass.sum()
        age = quantile(mass, bins, q)
        if bins.minimum < age < bins.maximum:
            assert cumulative_at(mass, bins, age) == pytest.approx(q, abs=1e-9)

    def test_q_of_each_row(self) -> None:
        mass = random_distributions(3, BINS)
        q = np.array([0.2, 0.5, 0.8])
        each = [float(quantile(row, BINS, share)) for row, share in zip(mass, q, strict=True)]
        assert quantile(mass, BINS, q).tolist() == each

    @pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
    def test_q_outside_is_refused(self, q: float) -> None:
        with pytest.raises(ValueError, match="q must lie"):
            quantile([0.25] * 4, BINS, q)


class TestInterval:
    def test_golden(self) -> None:
        low, high = interval([0.25] * 4, BINS, 0.5)
        assert (float(low), float(high)) == (10.5, 12.5)

    def test_holds_its_share_of_the_mass(self) -> None:
        bins = AgeBins(0, 100)
        mass = gaussian([40.0, 55.5], bins, 6.0)
        low, high = interval(mass, bins, 0.8)
        np.testing.assert_allclose(cumulative_at(mass, bins, high) - cumulative_at(mass, bins, low), 0.8)

    def test_level_zero_is_the_median_and_one_the_range(self) -> None:
        mass = random_distributions(5, BINS)
        low, high = interval(mass, BINS, 0.0)
        np.testing.assert_array_equal(low, high)
        low, high = interval(mass, BINS, 1.0)
        assert (low == 10).all()
        assert (high == 13).all()

    def test_grows_with_the_level(self) -> None:
        mass = random_distributions(30, BINS)
        ends = [interval(mass, BINS, level) for level in np.linspace(0, 1, 21)]
        for (low, high), (lower, higher) in pairwise(ends):
            assert (lower <= low).all()
            assert (high <= higher).all()

    def test_level_outside_is_refused(self) -> None:
        with pytest.raises(ValueError, match="level"):
            interval([0.25] * 4, BINS, 1.5)


class TestProbabilityAtLeast:
    def test_golden(self) -> None:
        assert probability_at_least([0.1, 0.2, 0.3, 0.4], BINS, 12) == pytest.approx(0.7)

    def test_equals_a_plain_loop(self) -> None:
        mass = random_distributions(10, BINS)
        plain = [sum(p for p, age in zip(row, (10, 11, 12, 13), strict=True) if age >= 11) for row in mass]
        np.testing.assert_allclose(probability_at_least(mass, BINS, 11), plain)

    def test_a_fraction_rounds_up(self) -> None:
        mass = random_distributions(10, BINS)
        np.testing.assert_array_equal(
            probability_at_least(mass, BINS, 11.2), probability_at_least(mass, BINS, 12)
        )

    def test_outside_the_bins(self) -> None:
        mass = random_distributions(10, BINS)
        assert (probability_at_least(mass, BINS, 0) == 1).all()
        assert (probability_at_least(mass, BINS, 14) == 0).all()

    def test_falls_as_the_threshold_rises(self) -> None:
        mass = random_distributions(10, BINS)
        rows = np.array([probability_at_least(mass, BINS, threshold) for threshold in range(9, 15)])
        assert (np.diff(rows, axis=0) <= 0).all()
