"""Metrics: golden values, plain loops, degenerate cases, invariants, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agelens.label_distribution import AgeBins, gaussian, point_mass
from agelens.metrics import (
    Partition,
    aar,
    aar_columns,
    aar_from_means,
    absolute_errors,
    bias,
    bootstrap_group_means,
    bootstrap_interval,
    bootstrap_means,
    by_group,
    coverage,
    crps,
    crps_scores,
    cumulative_accuracy,
    epsilon_error,
    interval_width,
    log_scores,
    mae,
    negative_log_likelihood,
    paired_bootstrap,
    pit,
    rmse,
)

PREDICTED = np.array([20.0, 33.0, 8.0, 61.0])
AGES = np.array([21.0, 30.0, 8.0, 68.0])
BINS = AgeBins(10, 13)


def drawn(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ages = random.integers(0, 100, count).astype(np.float64)
    return ages + random.normal(1.0, 6.0, count), ages


def drawn_distributions(count: int, bins: AgeBins, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(len(bins), 0.4), count)


POINT_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mae": mae,
    "rmse": rmse,
    "bias": bias,
    "ca5": lambda predicted, ages: cumulative_accuracy(predicted, ages, 5),
    "aar": lambda predicted, ages: aar(predicted, ages).aar,
    "epsilon": lambda predicted, ages: epsilon_error(predicted, ages, np.full(len(ages), 4.0)),
}
every_point_metric = pytest.mark.parametrize("metric", POINT_METRICS.values(), ids=POINT_METRICS)


class TestPointMetrics:
    def test_golden(self) -> None:
        assert absolute_errors(PREDICTED, AGES).tolist() == [1, 3, 0, 7]
        assert mae(PREDICTED, AGES) == 2.75
        assert rmse(PREDICTED, AGES) == pytest.approx(math.sqrt(59 / 4))
        assert bias(PREDICTED, AGES) == -1.25

    def test_equal_plain_loops(self) -> None:
        predicted, ages = drawn()
        errors = [p - a for p, a in zip(predicted.tolist(), ages.tolist(), strict=True)]
        assert mae(predicted, ages) == pytest.approx(sum(abs(e) for e in errors) / 200)
        assert rmse(predicted, ages) == pytest.approx(math.sqrt(sum(e * e for e in errors) / 200))
        assert bias(predicted, ages) == pytest.approx(sum(errors) / 200)

    def test_a_perfect_system(self) -> None:
        assert (mae(AGES, AGES), rmse(AGES, AGES), bias(AGES, AGES)) == (0, 0, 0)
        assert aar(AGES, AGES).aar == 10.0

    @every_point_metric
    def test_the_order_of_images_does_not_matter(self, metric: Callable[..., float]) -> None:
        predicted, ages = drawn()
        order = np.random.default_rng(1).permutation(len(ages))
        assert metric(predicted[order], ages[order]) == pytest.approx(metric(predicted, ages))

    @every_point_metric
    def test_every_image_twice_changes_nothing(self, metric: Callable[..., float]) -> None:
        predicted, ages = drawn()
        twice = np.tile(predicted, 2), np.tile(ages, 2)
        assert metric(*twice) == pytest.approx(metric(predicted, ages))

    @every_point_metric
    @pytest.mark.parametrize(
        ("predicted", "ages", "message"),
        [
            ([], [], "no images"),
            ([1.0, 2.0], [1.0], r"\(2,\).*\(1,\)"),
            ([[1.0, 2.0]], [[1.0, 2.0]], r"\(1, 2\)"),
            ([1.0, math.nan], [1.0, 2.0], "predicted holds NaN"),
            ([1.0, 2.0], [1.0, math.nan], "NaN"),
        ],
    )
    def test_refusals(
        self, metric: Callable[..., float], predicted: list[float], ages: list[float], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            metric(predicted, ages)

    @settings(deadline=None, max_examples=40)  # no clock: machines are busy
    @given(st.integers(0, 1000))
    def test_rmse_is_at_least_mae_and_mae_at_least_bias(self, seed: int) -> None:
        predicted, ages = drawn(20, seed)
        assert rmse(predicted, ages) >= mae(predicted, ages) - 1e-12
        assert mae(predicted, ages) >= abs(bias(predicted, ages)) - 1e-12


class TestCumulativeAccuracy:
    def test_golden_is_strictly_less(self) -> None:
        assert cumulative_accuracy(PREDICTED, AGES, 3) == 50.0  # the error of 3 does not count
        assert cumulative_accuracy(PREDICTED, AGES, 3.001) == 75.0
        assert cumulative_accuracy(PREDICTED, AGES, 8) == 100.0

    def test_equals_a_plain_loop(self) -> None:
        predicted, ages = drawn()
        inside = 0
        for p, a in zip(predicted, ages, strict=True):
            if abs(p - a) < 5:
                inside += 1
        assert cumulative_accuracy(predicted, ages, 5) == pytest.approx(100 * inside / len(ages))

    def test_nothing_is_within_zero(self) -> None:
        assert cumulative_accuracy(AGES, AGES, 0) == 0.0

    def test_rises_with_n(self) -> None:
        predicted, ages = drawn()
        shares = [cumulative_accuracy(predicted, ages, n) for n in range(12)]
        assert shares == sorted(shares)


class TestEpsilonError:
    def test_golden(self) -> None:
        """One deviation off: 1 - exp(-1/2)."""
        assert epsilon_error([24.0], [20.0], [4.0]) == pytest.approx(0.3934693402873666)

    def test_equals_a_plain_loop(self) -> None:
        predicted, mean = drawn(50)
        std = np.random.default_rng(2).uniform(0.5, 6, 50)
        total = 0.0
        for x, mu, sigma in zip(predicted, mean, std, strict=True):
            total += 1 - math.exp(-((x - mu) ** 2) / (2 * sigma**2))
        assert epsilon_error(predicted, mean, std) == pytest.approx(total / 50)

    def test_voters_who_agree(self) -> None:
        assert epsilon_error([20.0, 20.1], [20.0, 20.0], [0.0, 0.0]) == 0.5
        assert epsilon_error([20.1], [20.0], [1e-9]) == 1.0  # of which it is the limit

    def test_lies_between_zero_and_one(self) -> None:
        predicted, mean = drawn(50)
        assert 0 <= epsilon_error(predicted, mean, np.full(50, 0.01)) <= 1
        assert epsilon_error(mean, mean, np.full(50, 3.0)) == 0

    def test_a_negative_deviation_is_refused(self) -> None:
        with pytest.raises(ValueError, match="negative"):
            epsilon_error([20.0], [20.0], [-1.0])


class TestAAR:
    def test_golden(self) -> None:
        """Errors 1 and 3 in group 21-30, 2 in group 1-10, 5 at age 90, which is in no group."""
        found = aar([22.0, 27.0, 3.0, 95.0], [21.0, 30.0, 5.0, 90.0])
        assert found.mae == 2.75
        assert found.sigma == pytest.approx(0.75)  # both groups have MAE 2
        assert found.aar == pytest.approx((7 - 2.75) + (3 - 0.75))
        assert found.group_mae[0] == found.group_mae[2] == 2.0
        assert found.empty == ("11-20", "31-40", "41-50", "51-60", "61-70", "71-81")
        assert np.isnan(found.group_mae[1])

    def test_equals_a_plain_loop(self) -> None:
        predicted, ages = drawn(400)
        groups: list[list[float]] = [[] for _ in range(8)]
        errors = np.abs(predicted - ages)
        for error, age in zip(errors, ages, strict=True):
            if 1 <= age <= 81:
                groups[7 if age > 70 else int((age - 1) // 10)].append(error)
        overall = sum(errors) / 400
        assert all(groups)
        sigma = math.sqrt(sum((sum(g) / len(g) - overall) ** 2 for g in groups) / 8)
        found = aar(predicted, ages)
        assert found.sigma == pytest.approx(sigma)
        assert found.aar == pytest.approx(max(0, 7 - overall) + max(0, 3 - sigma))
        assert found.empty == ()

    @pytest.mark.parametrize(
        ("age", "group"), [(1, 0), (10.9, 0), (11, 1), (70, 6), (70.5, 6), (71, 7), (81.9, 7)]
    )
    def test_borders_of_groups_are_completed_years(self, age: float, group: int) -> None:
        found = aar([age + 1], [age])
        assert [index for index, value in enumerate(found.group_mae) if value == pytest.approx(1)] == [group]

    def test_neither_part_falls_below_zero(self) -> None:
        assert aar([5.0, 150.0], [5.0, 50.0]).aar == 0.0

    @pytest.mark.parametrize("age", [0.0, 0.9, 82.0])
    def test_without_any_group_there_is_none(self, age: float) -> None:
        with pytest.raises(ValueError, match="no group"):
            aar([age], [age])

    def test_from_means_is_the_same_and_vectorised(self) -> None:
        predicted, ages = drawn(300)
        columns = aar_columns(predicted, ages)
        halves = np.stack([columns[:150].mean(axis=0), columns[150:].mean(axis=0)])
        expected = [aar(predicted[:150], ages[:150]).aar, aar(predicted[150:], ages[150:]).aar]
        np.testing.assert_allclose(aar_from_means(halves), expected)


class TestIntervals:
    def test_golden(self) -> None:
        assert coverage([20, 30, 40, 50], [20, 25, 41, 10], [21, 30, 50, 49.9]) == 0.5  # ends count
        assert interval_width([20, 25], [21, 30]) == 3.0

    def test_coverage_equals_a_plain_loop(self) -> None:
        middle, ages = drawn()
        low, high = middle - 4, middle + 7
        inside = sum(1 for a, b, c in zip(low, ages, high, strict=True) if a <= b <= c)
        assert coverage(ages, low, high) == pytest.approx(inside / len(ages))

    def test_everything_and_a_point(self) -> None:
        _, ages = drawn()
        assert coverage(ages, np.zeros(200), np.full(200, 100.0)) == 1.0
        assert coverage(ages, ages, ages) == 1.0
        assert interval_width(ages, ages) == 0.0

    def test_an_interval_the_wrong_way_round_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ends before"):
            interval_width([2.0], [1.0])


class TestCRPS:
    def test_golden(self) -> None:
        """Half on 10, half on 12, true age 11: 1/4 over each of two years."""
        assert crps([[0.5, 0, 0.5, 0]], BINS, [11]) == pytest.approx(0.5)
        assert crps([[0.5, 0, 0.5, 0]], BINS, [14]) == pytest.approx(0.5 + 2)

    def test_equals_the_integral(self) -> None:
        """Integrate (F(x) - 1[x >= y])² over a fine grid, F the staircase of the distribution."""
        mass = drawn_distributions(10, BINS)
        ages = np.random.default_rng(1).uniform(9, 15, 10).round(2)
        step = 0.001
        grid = np.arange(8, 16, step) + step / 2
        for row, age, score in zip(mass, ages, crps_scores(mass, BINS, ages), strict=True):
            staircase = (row[:, None] * (grid >= BINS.ages[:, None])).sum(axis=0)
            assert score == pytest.approx(((staircase - (grid >= age)) ** 2).sum() * step, abs=2e-3)

    def test_equals_plain_expectations(self) -> None:
        mass = drawn_distributions(8, BINS)
        ages = [9.0, 10, 11, 12, 13, 14, 11.5, 30]
        ends = BINS.ages.tolist()
        for row, age, score in zip(mass, ages, crps_scores(mass, BINS, ages), strict=True):
            distance = sum(p * abs(a - age) for p, a in zip(row, ends, strict=True))
            spread = sum(p * q * abs(a - b) for p, a in zip(row, ends, strict=True) for q, b in zip(row, ends, strict=True))  # fmt: skip  # noqa: E501
            assert score == pytest.approx(distance - spread / 2)

    def test_of_point_mass_is_the_absolute_error(self) -> None:
        bins = AgeBins(0, 100)
        assert crps(point_mass(PREDICTED, bins), bins, AGES) == pytest.approx(mae(PREDICTED, AGES))

    def test_is_proper(self) -> None:
        """The distribution that the ages come from scores best."""
        bins = AgeBins(0, 40)
        truth = gaussian(20, bins, 4.0)
        expected = {
            sigma: sum(
                p * crps(gaussian([20], bins, sigma), bins, [age])
                for age, p in zip(bins.ages, truth, strict=True)
            )
            for sigma in (1.0, 3.0, 4.0, 5.0, 9.0)
        }
        assert min(expected, key=expected.__getitem__) == 4.0

    def test_other_bins_are_refused(self) -> None:
        with pytest.raises(ValueError, match="ages by bins"):
            crps([[0.5, 0.5]], BINS, [11])
        with pytest.raises(ValueError, match="NaN"):
            crps([[0.5, math.nan, 0.5, 0]], BINS, [11])


class TestLogLikelihood:
    def test_golden(self) -> None:
        mass = [[0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0.0]]
        assert negative_log_likelihood(mass, BINS, [10, 11.9]) == pytest.approx(1.5 * math.log(2))

    def test_equals_a_plain_loop(self) -> None:
        mass = drawn_distributions(20, BINS)
        ages = np.random.default_rng(1).integers(10, 14, 20)
        plain = [-math.log(row[age - 10]) for row, age in zip(mass, ages, strict=True)]
        np.testing.assert_allclose(log_scores(mass, BINS, ages), plain)

    def test_certain_and_right(self) -> None:
        assert negative_log_likelihood(point_mass([10, 12], BINS), BINS, [10, 12]) == 0.0

    def test_an_impossible_age_is_bounded(self) -> None:
        score = negative_log_likelihood(point_mass([10], BINS), BINS, [12])
        assert score == pytest.approx(-math.log(1e-12))

    def test_ages_outside_count_as_the_outermost_bin(self) -> None:
        mass = drawn_distributions(2, BINS)
        np.testing.assert_array_equal(log_scores(mass, BINS, [0, 99]), log_scores(mass, BINS, [10, 13]))


class TestPIT:
    def test_golden(self) -> None:
        found = pit(np.tile([0.1, 0.2, 0.3, 0.4], (4, 1)), BINS, [10, 12, 13, 20])
        np.testing.assert_allclose(found, [0.05, 0.45, 0.8, 1.0])

    def test_is_uniform_when_the_distribution_is_right(self) -> None:
        bins = AgeBins(0, 100)
        random = np.random.default_rng(0)
        mass = gaussian(random.uniform(30, 70, 4000), bins, 8.0)
        ages = (random.random((4000, 1)) > mass.cumsum(axis=1)).sum(axis=1)
        shares, _ = np.histogram(pit(mass, bins, ages), bins=10, range=(0, 1))
        assert np.abs(shares / 4000 - 0.1).max() < 0.025

    def test_leans_when_the_estimates_do(self) -> None:
        bins = AgeBins(0, 100)
        assert pit(gaussian([40.0], bins, 5.0), bins, [50])[0] > 0.95
        assert pit(gaussian([40.0], bins, 5.0), bins, [40])[0] == pytest.approx(0.5)


class TestByGroup:
    def test_groups_are_sorted(self) -> None:
        assert list(by_group(mae, ["b", "c", "a"], [1, 2, 3], [1, 2, 3])) == ["a", "b", "c"]

    def test_golden_with_an_empty_group(self) -> None:
        found = by_group(mae, ["f", "m", "f", "f"], PREDICTED, AGES, order=["m", "f", "x"])
        assert list(found) == ["m", "f", "x"]
        assert (found["m"].value, found["m"].count) == (3.0, 1)
        assert found["f"].value == pytest.approx(8 / 3)
        assert math.isnan(found["x"].value)
        assert found["x"].count == 0

    def test_pooled_groups_give_the_whole(self) -> None:
        predicted, ages = drawn()
        groups = np.where(ages < 18, "child", np.where(ages < 60, "adult", "old"))
        found = by_group(mae, groups, predicted, ages)
        total = sum(group.value * group.count for group in found.values())
        assert total / 200 == pytest.approx(mae(predicted, ages))

    def test_columns_may_be_distributions(self) -> None:
        mass = drawn_distributions(4, BINS)
        found = by_group(lambda d, a: crps(d, BINS, a), ["a", "b", "a", "b"], mass, [10, 11, 12, 13])
        assert found["b"].value == pytest.approx(crps(mass[1::2], BINS, [11, 13]))

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="disagree"):
            by_group(mae, ["a"], PREDICTED, AGES)
        with pytest.raises(ValueError, match=r"\['b'\]"):
            by_group(mae, ["a", "b", "a", "a"], PREDICTED, AGES, order=["a"])


class TestBootstrap:
    def test_means_equal_a_plain_resampling(self) -> None:
        values = np.random.default_rng(1).normal(size=(7, 3))
        random = np.random.default_rng(11)
        draws = random.integers(0, 7, size=(50, 7))
        plain = np.array([values[draw].mean(axis=0) for draw in draws])
        np.testing.assert_allclose(bootstrap_means(values, replicates=50, seed=11), plain)

    def test_blocks_do_not_change_the_distribution(self) -> None:
        """300,000 images go three replicates a block; their spread is that of a mean."""
        values = np.random.default_rng(1).normal(size=300_000)
        means = bootstrap_means(values, replicates=40)
        assert means.shape == (40, 1)
        assert len(set(means[:, 0])) == 40
        assert means.std() == pytest.approx(1 / math.sqrt(300_000), rel=0.4)

    def test_interval_of_a_mean_is_the_textbook_one(self) -> None:
        values = np.random.default_rng(2).normal(5.0, 2.0, 400)
        found = bootstrap_interval(values)
        half = 1.96 * values.std() / 20
        assert found.value == pytest.approx(values.mean())
        assert found.low == pytest.approx(values.mean() - half, abs=0.02)
        assert found.high == pytest.approx(values.mean() + half, abs=0.02)

    def test_interval_covers_the_truth_as_often_as_it_says(self) -> None:
        covered = 0
        for seed in range(200):
            found = bootstrap_interval(
                np.random.default_rng(seed).exponential(size=80), replicates=400, level=0.9, seed=seed
            )
            covered += found.low <= 1.0 <= found.high
        assert 0.82 <= covered / 200 <= 0.95

    def test_a_statistic_of_several_columns(self) -> None:
        predicted, ages = drawn(300)
        found = bootstrap_interval(aar_columns(predicted, ages), aar_from_means, replicates=300)
        assert found.value == pytest.approx(aar(predicted, ages).aar)
        assert found.low < found.value < found.high

    def test_equal_values_have_no_spread(self) -> None:
        found = bootstrap_interval(np.full(30, 2.5), replicates=20)
        assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5, 2.5))

    def test_the_seed_decides(self) -> None:
        values = np.random.default_rng(2).normal(size=50)
        assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
        assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="N > 0"):
            bootstrap_interval([])
        with pytest.raises(ValueError, match="NaN"):
            bootstrap_interval([1.0, math.nan])
        with pytest.raises(ValueError, match="replicates"):
            bootstrap_interval([1.0], replicates=0)
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval([1.0], level=1.0)
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval([1.0], level=0.0)
        with pytest.raises(ValueError, match="statistic"):
            bootstrap_interval(np.ones((3, 2)))

    def test_a_draw_without_any_group_is_passed_over(self) -> None:
        found = bootstrap_interval(aar_columns([22.0, 0.5], [21.0, 0.5]), aar_from_means, replicates=50)
        assert math.isfinite(found.low)
        assert math.isfinite(found.high)

    @pytest.mark.parametrize("codes", [[-2, 0], [0, 1], [0]])
    def test_broken_partitions_are_refused(self, codes: list[int]) -> None:
        with pytest.raises(ValueError, match="codes"):
            bootstrap_group_means([1.0, 2.0], [Partition(np.array(codes), 1)])


class TestPairedBootstrap:
    def test_golden_difference(self) -> None:
        found = paired_bootstrap([1.0, 2.0, 3.0], [2.0, 2.0, 5.0])
        assert found.difference == -1.0

    def test_equals_a_plain_loop(self) -> None:
        random = np.random.default_rng(4)
        a, b = random.exponential(5, 40), random.exponential(5.5, 40)
        draws = np.random.default_rng(0).integers(0, 40, size=(500, 40))
        differences = np.array([a[draw].mean() - b[draw].mean() for draw in draws])
        found = paired_bootstrap(a, b, replicates=500)
        np.testing.assert_allclose([found.low, found.high], np.quantile(differences, [0.025, 0.975]))
        smaller = min((differences <= 0).sum(), (differences >= 0).sum())
        assert found.p == pytest.approx(min(1.0, 2 * (smaller + 1) / 501))

    def test_pairing_sees_what_separate_intervals_do_not(self) -> None:
        hard = np.random.default_rng(0).exponential(5, 500)
        found = paired_bootstrap(hard, hard + 0.1)
        assert found.high < 0
        assert found.p == pytest.approx(2 / 2001)

    def test_a_system_against_itself(self) -> None:
        errors = np.random.default_rng(0).exponential(5, 50)
        found = paired_bootstrap(errors, errors)
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)

    def test_changes_sign_with_the_order(self) -> None:
        random = np.random.default_rng(4)
        a, b = random.exponential(5, 40), random.exponential(5.5, 40)
        one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
        assert one.difference == -other.difference
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
        assert one.p == other.p

    def test_no_difference_is_seldom_significant(self) -> None:
        random = np.random.default_rng(9)
        significant = 0
        for seed in range(200):
            a, b = random.exponential(5, (2, 100))
            significant += paired_bootstrap(a, b, replicates=300, seed=seed).p < 0.05
        assert significant / 200 < 0.11

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match=r"errors_a \(2,\), errors_b \(1,\)"):
            paired_bootstrap([1.0, 2.0], [1.0])
        with pytest.raises(ValueError, match="level"):
            paired_bootstrap([1.0], [1.0], level=0.0)
        with pytest.raises(ValueError, match="level"):
            paired_bootstrap([1.0], [1.0], level=1.0)
