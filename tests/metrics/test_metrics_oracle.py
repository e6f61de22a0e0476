"""Every metric against an oracle in plain Python that knows nothing of agelens.

The oracle (everything above the line) uses loops, and definitions other than those the package computes by:
CRPS as an integral of squared steps, the binomial bounds by bisection of exact sums. It is compared to 1e-12
on random and on degenerate input.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Numbers = Sequence[float]
Mass = Sequence[Sequence[float]]


def mean(values: Numbers) -> float:
    return math.fsum(values) / len(values)


def oracle_mae(said: Numbers, true: Numbers) -> float:
    return mean([abs(a - b) for a, b in zip(said, true, strict=True)])


def oracle_rmse(said: Numbers, true: Numbers) -> float:
    return math.sqrt(mean([(a - b) ** 2 for a, b in zip(said, true, strict=True)]))


def oracle_bias(said: Numbers, true: Numbers) -> float:
    return mean([a - b for a, b in zip(said, true, strict=True)])


def oracle_ca(said: Numbers, true: Numbers, n: float) -> float:
    hits = 0
    for a, b in zip(said, true, strict=True):
        if -n < a - b < n:
            hits += 1
    return 100 * hits / len(said)


def oracle_epsilon(said: Numbers, centre: Numbers, spread: Numbers) -> float:
    scores = []
    for a, m, s in zip(said, centre, spread, strict=True):
        if s == 0:
            scores.append(0.0 if a == m else 1.0)
        else:
            scores.append(1 - math.exp(-((a - m) ** 2) / (2 * s * s)))
    return mean(scores)


GROUPS = [(1, 10), (11, 20), (21, 30), (31, 40), (41, 50), (51, 60), (61, 70), (71, 81)]


def oracle_aar(said: Numbers, true: Numbers) -> tuple[float, float, list[float | None]]:
    """AAR, sigma, MAE by group (None where a group is empty)."""
    overall = oracle_mae(said, true)
    by_group: list[float | None] = []
    for first, last in GROUPS:
        errors = [abs(a - b) for a, b in zip(said, true, strict=True) if first <= int(b // 1) <= last]
        by_group.append(mean(errors) if errors else None)
    squares = [(value - overall) ** 2 for value in by_group if value is not None]
    sigma = math.sqrt(mean(squares))
    return max(0.0, 7 - overall) + max(0.0, 3 - sigma), sigma, by_group


def oracle_coverage(true: Numbers, low: Numbers, high: Numbers) -> float:
    return sum(a <= t <= b for t, a, b in zip(true, low, high, strict=True)) / len(true)


def oracle_width(low: Numbers, high: Numbers) -> float:
    return mean([b - a for a, b in zip(low, high, strict=True)])


def oracle_crps(mass: Mass, youngest: int, true: Numbers) -> float:
    """The integral of (F(x) - [x >= age])^2 over x, step by step."""
    scores = []
    for row, age in zip(mass, true, strict=True):
        jumps = sorted([(float(youngest + k), p, 0) for k, p in enumerate(row)] + [(float(age), 0.0, 1)])
        pieces, below, passed = [], 0.0, 0
        for place, (x, p, is_age) in enumerate(jumps[:-1]):
            below += p
            passed += is_age
            pieces.append((below - passed) ** 2 * (jumps[place + 1][0] - x))
        scores.append(math.fsum(pieces))
    return mean(scores)


def oracle_nll(mass: Mass, youngest: int, true: Numbers) -> float:
    scores = []
    for row, age in zip(mass, true, strict=True):
        place = min(max(math.floor(age) - youngest, 0), len(row) - 1)
        scores.append(-math.log(max(row[place], 1e-12)))
    return mean(scores)


def oracle_pit(mass: Mass, youngest: int, true: Numbers) -> list[float]:
    """The mass below the age, that of bin l spread evenly from l - 1/2 to l + 1/2."""
    result = []
    for row, age in zip(mass, true, strict=True):
        parts = []
        for k, p in enumerate(row):
            left = youngest + k - 0.5
            parts.append(p * (0.0 if age <= left else 1.0 if age >= left + 1 else age - left))
        result.append(min(1.0, math.fsum(parts) / math.fsum(row)))
    return result


def oracle_at_least(mass: Mass, youngest: int, threshold: float) -> list[float]:
    return [
        math.fsum(p for k, p in enumerate(row) if youngest + k >= threshold) / math.fsum(row) for row in mass
    ]


def oracle_central(mass: Mass, youngest: int, level: float) -> tuple[list[float], list[float]]:
    """Ends of the central interval, walking up the bins until the tail is filled."""

    def walk(row: Numbers, q: float) -> float:
        wanted, below = q * math.fsum(row), 0.0
        for k, p in enumerate(row):
            if below + p >= wanted - 1e-15:
                age = youngest + k - 0.5 + ((wanted - below) / p if p > 0 else 1.0)
                return min(max(age, youngest), youngest + len(row) - 1)
            below += p
        return youngest + len(row) - 1

    tail = (1 - level) / 2
    return [walk(row, tail) for row in mass], [walk(row, 1 - tail) for row in mass]


def oracle_cells(said: Numbers, true: Numbers, sexes: Sequence[str], first: int, last: int) -> float:
    """MAE as the mean over the cells sex by single year that have images."""
    cells: dict[tuple[str, int], list[float]] = {}
    for a, b, sex in zip(said, true, sexes, strict=True):
        if first <= int(b // 1) <= last:
            cells.setdefault((sex, int(b // 1)), []).append(abs(a - b))
    return mean([mean(errors) for errors in cells.values()])


def oracle_share(hits: Sequence[bool], members: Sequence[bool]) -> float | None:
    """Share of the members that were hit; None for fewer than 30."""
    chosen = [hit for hit, member in zip(hits, members, strict=True) if member]
    return None if len(chosen) < 30 else sum(chosen) / len(chosen)


def oracle_brier(probability: Numbers, reached: Sequence[bool]) -> float:
    return mean([(p - (1 if r else 0)) ** 2 for p, r in zip(probability, reached, strict=True)])


def oracle_accuracy(probability: Numbers, reached: Sequence[bool]) -> float:
    return 100 * sum((p >= 0.5) == r for p, r in zip(probability, reached, strict=True)) / len(probability)


def oracle_quantile(values: Numbers, q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    under = math.floor(place)
    over = min(under + 1, len(ordered) - 1)
    return ordered[under] + (ordered[over] - ordered[under]) * (place - under)


def oracle_draws(count: int, replicates: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, count, count).tolist() for _ in range(replicates)]


def oracle_binomial(hits: int, trials: int, level: float) -> tuple[float, float]:
    """Clopper-Pearson by bisection of the binomial sums."""

    def upto(k: int, p: float) -> float:
        return math.fsum(math.comb(trials, j) * p**j * (1 - p) ** (trials - j) for j in range(k + 1))

    def solve(rises: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if rises(middle) else (middle, high)
        return (low + high) / 2

    tail = (1 - level) / 2
    lower = 0.0 if hits == 0 else solve(lambda p: 1 - upto(hits - 1, p) > tail)
    upper = 1.0 if hits == trials else solve(lambda p: upto(hits, p) < tail)
    return lower, upper


# --------------------------------------------------------------------------- the package against the oracle

from agelens import metrics  # noqa: E402
from agelens.label_distribution import AgeBins, probability_at_least  # noqa: E402

TIGHT = {"rel": 1e-12, "abs": 1e-12}
YOUNGEST, OLDEST = 0, 100
BINS = AgeBins(YOUNGEST, OLDEST)


def test_the_oracle_knows_nothing_of_agelens() -> None:
    above, line, _ = Path(__file__).read_text(encoding="utf-8").partition("# " + "-" * 74)
    assert line
    imported = {
        name
        for node in ast.walk(ast.parse(above))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
    }
    assert not {name for name in imported if name and "agelens" in name}


class Case:
    """Estimates, labels and distributions of one input."""

    def __init__(self, said: Any, true: Any, spread: Any, mass: Any) -> None:
        self.said, self.true, self.spread = (np.asarray(x, dtype=np.float64) for x in (said, true, spread))
        self.mass = np.asarray(mass, dtype=np.float64)
        self.low, self.high = self.said - self.spread, self.said + 2 * self.spread


def random_case(seed: int, count: int) -> Case:
    random = np.random.default_rng(seed)
    true = random.uniform(0, 110, count)
    whole = random.random(count) < 0.5
    true[whole] = np.floor(true[whole])
    said = true + random.normal(0, 6, count)
    mass = random.dirichlet(np.full(len(BINS), 0.05), count)
    return Case(said, true, random.choice([0.0, 1.0, 4.2], count), mass)


def peaked(ages: Sequence[int]) -> np.ndarray:
    return np.eye(len(BINS))[np.asarray(ages)]


CASES = {
    **{f"random-{seed}": random_case(seed, 40 + 61 * seed) for seed in range(4)},
    "one": Case([20.0], [25.0], [0.0], peaked([20])),
    "perfect": Case([3.0, 50.0, 90.0], [3.0, 50.0, 90.0], [0.0, 0.0, 1.0], peaked([3, 50, 90])),
    "hopeless": Case([0.0, 100.0], [80.0, 1.0], [0.0, 0.0], peaked([0, 100])),
    "one group only": Case([24.0, 29.0], [21.0, 30.0], [1.0, 2.0], peaked([24, 29])),
    "older than the bins": Case([100.0, 99.0], [116.0, 70.5], [1.0, 1.0], peaked([100, 99])),
    "undecided": Case([35.0] * 2, [17.0, 18.0], [1.0] * 2, (peaked([10, 10]) + peaked([60, 60])) / 2),
    "flat": Case([50.0] * 3, [0.0, 50.0, 100.0], [2.0] * 3, np.full((3, 101), 1 / 101)),
    "on the edge": Case([23.0, 27.0, 25.0], [20.0, 20.0, 20.0], [3.0, 0.0, 5.0], peaked([23, 27, 25])),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


class TestPoint:
    def test_mae(self, case: Case) -> None:
        assert metrics.mae(case.said, case.true) == pytest.approx(oracle_mae(case.said, case.true), **TIGHT)

    def test_rmse(self, case: Case) -> None:
        assert metrics.rmse(case.said, case.true) == pytest.approx(oracle_rmse(case.said, case.true), **TIGHT)

    def test_bias(self, case: Case) -> None:
        assert metrics.bias(case.said, case.true) == pytest.approx(oracle_bias(case.said, case.true), **TIGHT)

    @pytest.mark.parametrize("n", [0.5, 3, 5, 7, 200])
    def test_cumulative_accuracy(self, case: Case, n: float) -> None:
        found = metrics.cumulative_accuracy(case.said, case.true, n)
        assert found == pytest.approx(oracle_ca(case.said, case.true, n), **TIGHT)

    def test_epsilon_error(self, case: Case) -> None:
        found = metrics.epsilon_error(case.said, case.true, case.spread)
        assert found == pytest.approx(oracle_epsilon(case.said, case.true, case.spread), **TIGHT)

    def test_aar(self, case: Case) -> None:
        found = metrics.aar(case.said, case.true)
        value, sigma, groups = oracle_aar(case.said, case.true)
        assert (found.aar, found.sigma) == pytest.approx((value, sigma), **TIGHT)
        assert found.mae == pytest.approx(oracle_mae(case.said, case.true), **TIGHT)
        for mine, theirs in zip(found.group_mae, groups, strict=True):
            assert math.isnan(mine) if theirs is None else mine == pytest.approx(theirs, **TIGHT)
        assert len(found.empty) == groups.count(None)


class TestDistribution:
    def test_coverage_and_width(self, case: Case) -> None:
        assert metrics.coverage(case.true, case.low, case.high) == pytest.approx(
            oracle_coverage(case.true, case.low, case.high), **TIGHT
        )
        assert metrics.interval_width(case.low, case.high) == pytest.approx(
            oracle_width(case.low, case.high), **TIGHT
        )

    def test_crps(self, case: Case) -> None:
        found = metrics.crps(case.mass, BINS, case.true)
        assert found == pytest.approx(oracle_crps(case.mass, YOUNGEST, case.true), **TIGHT)

    def test_nll(self, case: Case) -> None:
        found = metrics.negative_log_likelihood(case.mass, BINS, case.true)
        assert found == pytest.approx(oracle_nll(case.mass, YOUNGEST, case.true), **TIGHT)

    def test_pit(self, case: Case) -> None:
        found = metrics.pit(case.mass, BINS, case.true).tolist()
        assert found == pytest.approx(oracle_pit(case.mass, YOUNGEST, case.true), **TIGHT)

    @pytest.mark.parametrize("threshold", [0, 17.5, 18, 100, 101])
    def test_probability_at_least(self, case: Case, threshold: float) -> None:
        found = probability_at_least(case.mass, BINS, threshold).tolist()
        assert found == pytest.approx(oracle_at_least(case.mass, YOUNGEST, threshold), **TIGHT)


class TestBootstrap:
    def test_means_are_those_of_the_drawn_images(self, case: Case) -> None:
        columns = np.column_stack([case.said, case.true])
        found = metrics.bootstrap_means(columns, replicates=25, seed=3)
        for row, drawn in zip(found, oracle_draws(len(case.said), 25, 3), strict=True):
            expected = [mean([columns[k, column] for k in drawn]) for column in range(2)]
            assert row.tolist() == pytest.approx(expected, **TIGHT)

    def test_interval(self, case: Case) -> None:
        found = metrics.bootstrap_interval(case.said, replicates=40, level=0.8, seed=5)
        drawn = [mean([case.said[k] for k in draw]) for draw in oracle_draws(len(case.said), 40, 5)]
        expected = (mean(case.said), oracle_quantile(drawn, 0.1), oracle_quantile(drawn, 0.9))
        assert (found.value, found.low, found.high) == pytest.approx(expected, **TIGHT)

    def test_paired(self, case: Case) -> None:
        found = metrics.paired_bootstrap(case.said, case.true, replicates=40, level=0.9, seed=7)
        gaps = [a - b for a, b in zip(case.said, case.true, strict=True)]
        drawn = [mean([gaps[k] for k in draw]) for draw in oracle_draws(len(gaps), 40, 7)]
        assert found.difference == pytest.approx(mean(gaps), **TIGHT)
        assert (found.low, found.high) == pytest.approx(
            (oracle_quantile(drawn, 0.05), oracle_quantile(drawn, 0.95)), **TIGHT
        )
        beyond = min(sum(d <= 1e-13 for d in drawn), sum(d >= -1e-13 for d in drawn))
        assert found.p == pytest.approx(min(1.0, 2 * (beyond + 1) / 41), **TIGHT)

    @pytest.mark.parametrize("persons", [False, True])
    def test_groups(self, case: Case, persons: bool) -> None:
        count = len(case.said)
        random = np.random.default_rng(11)
        first, second = random.integers(-1, 3, count), random.integers(0, 2, count)
        who = random.integers(0, max(1, count // 3), count) if persons else np.arange(count)
        who = np.unique(who, return_inverse=True)[1]
        columns = np.column_stack([case.said, case.true, case.spread])
        found = metrics.bootstrap_group_means(
            columns,
            [metrics.Partition(first, 4), metrics.Partition(second, 2, (2, 0))],
            replicates=20,
            seed=9,
            people=who if persons else None,
        )
        for place, draw in enumerate(oracle_draws(int(who.max()) + 1, 20, 9)):
            images = [k for person in draw for k in range(count) if who[k] == person]
            for codes, groups, wanted, means in (
                (first, 4, (0, 1, 2), found[0]),
                (second, 2, (2, 0), found[1]),
            ):
                for group in range(groups):
                    members = [k for k in images if codes[k] == group]
                    for column, value in zip(wanted, means[place, group], strict=True):
                        if members:
                            expected = mean([columns[k, column] for k in members])
                            assert value == pytest.approx(expected, rel=1e-12, abs=1e-11)
                        else:
                            assert math.isnan(value)

    def test_by_group(self, case: Case) -> None:
        names = ["old" if age >= 40 else "young" for age in case.true]
        found = metrics.by_group(metrics.mae, names, case.said, case.true, order=["young", "old", "none"])
        for name, result in found.items():
            members = [k for k, other in enumerate(names) if other == name]
            assert result.count == len(members)
            if members:
                expected = oracle_mae(case.said[members], case.true[members])
                assert result.value == pytest.approx(expected, **TIGHT)
            else:
                assert math.isnan(result.value)


class TestEvaluation:
    """The metrics that only an evaluation computes, and that it joins the right columns."""

    def test_overall(self, case: Case) -> None:
        pd = pytest.importorskip("pandas", reason="evaluation needs the extra report")
        from agelens.data.manifest import check_manifest
        from agelens.data.predictions import Predictions, check_predictions
        from agelens.evaluation.evaluate import evaluate

        paths = [f"{k}.png" for k in range(len(case.said))]
        labels = check_manifest(
            pd.DataFrame({"path": paths, "age": case.true, "age_std": case.spread}), "m.csv"
        )
        table = pd.DataFrame({"path": paths, "age": case.said, "low": case.low, "high": case.high})
        said = Predictions(check_predictions(table, "p.csv"), case.mass, BINS, "p.csv")
        found = evaluate(said, labels, (), threshold=18, replicates=5)
        adult = oracle_at_least(case.mass, YOUNGEST, 18)
        reached = [age >= 18 for age in case.true]
        value, *_ = oracle_aar(case.said, case.true)
        expected = {
            "MAE": oracle_mae(case.said, case.true),
            "RMSE": oracle_rmse(case.said, case.true),
            "bias": oracle_bias(case.said, case.true),
            **{f"CA({n})": oracle_ca(case.said, case.true, n) for n in (3, 5, 7)},
            "AAR": value,
            "ε-error": oracle_epsilon(case.said, case.true, case.spread),
            "coverage(stated)": oracle_coverage(case.true, case.low, case.high),
            "width(stated)": oracle_width(case.low, case.high),
            "CRPS": oracle_crps(case.mass, YOUNGEST, case.true),
            "NLL": oracle_nll(case.mass, YOUNGEST, case.true),
            "accuracy(18+)": oracle_accuracy(adult, reached),
            "Brier(18+)": oracle_brier(adult, reached),
        }
        for level in (0.5, 0.8, 0.9, 0.95):
            low, high = oracle_central(case.mass, YOUNGEST, level)
            expected[f"width({level:.0%})"] = oracle_width(low, high)
            # an age that stands within rounding on an end may count on either side
            ends = [min(abs(t - a), abs(t - b)) for t, a, b in zip(case.true, low, high, strict=True)]
            if min(ends) > 1e-9:
                expected[f"coverage({level:.0%})"] = oracle_coverage(case.true, low, high)
        for name, number in expected.items():
            assert found.overall[name].value == pytest.approx(number, **TIGHT), name
        errors = [abs(a - b) for a, b in zip(case.said, case.true, strict=True)]
        drawn = [mean([errors[k] for k in draw]) for draw in oracle_draws(len(errors), 5, 0)]
        ends = found.overall["MAE"].low, found.overall["MAE"].high
        assert ends == pytest.approx(
            (oracle_quantile(drawn, 0.025), oracle_quantile(drawn, 0.975)), rel=1e-12, abs=1e-11
        )
        places = [min(int(10 * p), 9) for p in oracle_pit(case.mass, YOUNGEST, case.true)]
        assert list(found.pit_histogram) == pytest.approx(
            [places.count(k) / len(places) for k in range(10)], **TIGHT
        )
        tenths = [min(int(10 * p), 9) for p in adult]
        for k, row in enumerate(found.reliability):
            members = [n for n, tenth in enumerate(tenths) if tenth == k]
            assert row.count == len(members)
            if members:
                assert row.predicted == pytest.approx(mean([adult[n] for n in members]), **TIGHT)
                assert row.observed == pytest.approx(mean([float(reached[n]) for n in members]), **TIGHT)


@pytest.fixture(scope="module", params=[0, 1, 2, 3])
def judged(request: pytest.FixtureRequest) -> Any:
    pd = pytest.importorskip("pandas", reason="evaluation needs the extra report")
    from agelens.data.manifest import check_manifest
    from agelens.data.predictions import Predictions, check_predictions
    from agelens.evaluation.assurance import assure
    from agelens.evaluation.evaluate import evaluate

    random = np.random.default_rng(request.param)
    count = (40, 700, 1500, 130)[request.param]
    true = random.integers(0, 40, count).astype(float)
    if request.param == 0:
        true[:30], true[30:] = 17, 20  # as many as a rate needs, and a third of it
    if request.param == 3:
        true[:100], true[100:] = 17, 25  # of whom 5 are 5 % exactly
    true[::5] += 0.5
    said = np.round(true + random.normal(1, 5, count), 1).clip(0, 100)  # many on the edges
    sexes = random.choice(["female", "male"], count)
    mass = random.dirichlet(np.full(len(BINS), 0.05), count)
    mass[:40:4] = 0.9 * peaked([5]) + 0.1 * peaked([60])  # on the edges of certainty 0.9
    mass[1:40:4] = 0.1 * peaked([5]) + 0.9 * peaked([60])
    paths = [f"{k}.png" for k in range(count)]
    labels = check_manifest(pd.DataFrame({"path": paths, "age": true, "gender": sexes}), "m.csv")
    table = check_predictions(pd.DataFrame({"path": paths, "age": said}), "p.csv")
    found = evaluate(Predictions(table, mass, BINS, "p.csv"), labels, (), replicates=5)
    page = assure(found, ("gender",), threshold=18, challenge=25, wished=(0.05, 0.2), certainty=0.9)
    return page, said.tolist(), true.tolist(), sexes.tolist(), oracle_at_least(mass, YOUNGEST, 18)


class TestAssurance:
    """The forms of the age assurance page, on people young enough for them."""

    @staticmethod
    def same(found: Any, expected: float | None) -> None:
        if expected is None:
            assert math.isnan(found.value)
        else:
            assert found.value == pytest.approx(expected, **TIGHT)

    def test_challenge(self, judged: Any) -> None:
        page, said, true, sexes, _ = judged
        for row in page.challenge_rates:
            members = [17 <= t < 18 and row.group in ("all", sex) for t, sex in zip(true, sexes, strict=True)]
            self.same(row.rate, oracle_share([a >= 25 for a in said], members))
            if sum(members) >= 30:
                hits = sum(a >= 25 for a, member in zip(said, members, strict=True) if member)
                assert (row.rate.low, row.rate.high) == pytest.approx(
                    oracle_binomial(hits, sum(members), 0.95), rel=1e-9, abs=1e-9
                )

    def test_decisions(self, judged: Any) -> None:
        page, said, true, sexes, adult = judged
        sides = {
            "under age": [t < 18 for t in true],
            "just under": [17 <= t < 18 for t in true],
            "adult": [t >= 18 for t in true],
        }
        outcomes = {
            "estimate": ([a >= 25 for a in said], [a < 18 for a in said]),
            "probability": ([p >= 0.9 for p in adult], [p <= 0.1 for p in adult]),
        }
        for row in page.decisions:
            passed, refused = outcomes[row.rule]
            open_ = [not (a or b) for a, b in zip(passed, refused, strict=True)]
            members = [
                side and row.group in ("all", sex) for side, sex in zip(sides[row.side], sexes, strict=True)
            ]
            for rate, hits in ((row.passed, passed), (row.refused, refused), (row.undecided, open_)):
                self.same(rate, oracle_share(hits, members))

    def test_curves(self, judged: Any) -> None:
        page, said, true, sexes, adult = judged
        cuts = {
            "estimate": [18 + half / 2 for half in range(31)],
            "probability": [percent / 100 for percent in range(50, 100)] + [0.995, 0.999],
        }
        for curve in page.curves:
            assert list(curve.cuts) == cuts[curve.rule]
            scores = said if curve.rule == "estimate" else adult
            of_group = [curve.group in ("all", sex) for sex in sexes]
            for k in range(0, len(curve.cuts), 7):
                passed = [score >= curve.cuts[k] for score in scores]
                for value, hits, side in (
                    (curve.under_age_passed[k], passed, [t < 18 for t in true]),
                    (curve.just_under_passed[k], passed, [17 <= t < 18 for t in true]),
                    (curve.adults_refused[k], [not hit for hit in passed], [t >= 18 for t in true]),
                ):
                    members = [a and b for a, b in zip(of_group, side, strict=True)]
                    expected = oracle_share(hits, members)
                    assert (
                        math.isnan(value) if expected is None else value == pytest.approx(expected, **TIGHT)
                    )

    def test_the_challenge_age_of_a_wished_rate(self, judged: Any) -> None:
        page, said, true, sexes, _ = judged
        for point in page.points:
            if point.rule != "estimate":
                continue
            young = [
                a
                for a, t, sex in zip(said, true, sexes, strict=True)
                if 17 <= t < 18 and point.group in ("all", sex)
            ]
            if len(young) < 30:
                assert math.isnan(point.cut)
                continue
            hits = {cut / 10: sum(a >= cut / 10 for a in young) for cut in range(180, 1001)}
            reached = [cut for cut, count in hits.items() if count / len(young) <= point.wished]
            assert point.cut == pytest.approx(reached[0], **TIGHT)
            self.same(point.false_positives, hits[reached[0]] / len(young))
            adults = [t >= 18 and point.group in ("all", sex) for t, sex in zip(true, sexes, strict=True)]
            self.same(point.adults_refused, oracle_share([a < reached[0] for a in said], adults))
            bounds = {
                count: oracle_binomial(count, len(young), 0.95)[1] for count in {hits[cut] for cut in reached}
            }
            assured = [cut for cut in reached if bounds[hits[cut]] <= point.wished]
            if assured:
                assert point.assured == pytest.approx(assured[0], **TIGHT)
            else:
                assert math.isnan(point.assured)

    def test_child_safety(self, judged: Any) -> None:
        page, said, true, sexes, _ = judged

        def between(values: Numbers, first: int, last: int) -> list[bool]:
            return [first <= math.floor(value) <= last for value in values]

        for row in page.child_safety:
            of_group = [row.group in ("all", sex) for sex in sexes]
            for rate, hits, years in (
                (row.in_range, between(said, 13, 16), (13, 16)),
                (row.rated_under_8, between(said, -99, 7), (13, 16)),
                (row.rated_8_12, between(said, 8, 12), (13, 16)),
                (row.rated_17_22, between(said, 17, 22), (13, 16)),
                (row.rated_over_22, between(said, 23, 999), (13, 16)),
                (row.younger_in_range, between(said, 13, 16), (8, 12)),
                (row.older_in_range, between(said, 13, 16), (17, 22)),
            ):
                members = [a and b for a, b in zip(of_group, between(true, *years), strict=True)]
                self.same(rate, oracle_share(hits, members))
            children = [k for k, a in enumerate(between(true, 13, 16)) if a and of_group[k]]
            if children:
                expected = oracle_mae([said[k] for k in children], [true[k] for k in children])
                assert row.mae.value == pytest.approx(expected, **TIGHT)

    def test_cells(self, judged: Any) -> None:
        page, said, true, sexes, _ = judged
        assert [row.ages for row in page.cell_means] == ["18-30", "0-18"]
        for row in page.cell_means:
            first, last = map(int, row.ages.split("-"))
            assert row.mae.value == pytest.approx(oracle_cells(said, true, sexes, first, last), **TIGHT)
        for cell in page.cells:
            members = [
                k
                for k, (t, sex) in enumerate(zip(true, sexes, strict=True))
                if int(t // 1) == cell.age and cell.sex in ("all", sex)
            ]
            assert cell.images == len(members)
            if members:
                a, b = [said[k] for k in members], [true[k] for k in members]
                assert cell.mae.value == pytest.approx(oracle_mae(a, b), **TIGHT)
                assert cell.bias.value == pytest.approx(oracle_bias(a, b), **TIGHT)

    def test_ends_of_cells(self, judged: Any) -> None:
        """Drawn are those younger than 31; a draw that leaves a cell empty does not count in it."""
        page, said, true, sexes, _ = judged
        chosen = [k for k, age in enumerate(true) if age < 31]
        cells: list[dict[tuple[str, int], tuple[float, float]]] = []
        for draw in oracle_draws(len(chosen), 5, 0):
            gaps: dict[tuple[str, int], list[float]] = {}
            for k in [chosen[place] for place in draw]:
                for sex in ("all", sexes[k]):
                    gaps.setdefault((sex, int(true[k] // 1)), []).append(said[k] - true[k])
            cells.append({key: (mean([abs(g) for g in drawn]), mean(drawn)) for key, drawn in gaps.items()})
        for cell in page.cells:
            drawn = [means[cell.sex, cell.age] for means in cells if (cell.sex, cell.age) in means]
            if cell.mae is not None:
                for found, values in zip((cell.mae, cell.bias), zip(*drawn, strict=True), strict=True):
                    self.same_ends(found, values)
        for row in page.cell_means:
            first, last = map(int, row.ages.split("-"))
            self.same_ends(
                row.mae,
                [
                    mean([m for (sex, age), (m, _) in means.items() if sex != "all" and first <= age <= last])
                    for means in cells
                ],
            )

    def test_ends_of_child_safety(self, judged: Any) -> None:
        page, said, true, sexes, _ = judged
        children = [k for k, age in enumerate(true) if 13 <= age < 17]
        for row in page.child_safety:
            drawn = [
                [
                    abs(said[k] - true[k])
                    for k in (children[place] for place in draw)
                    if row.group in ("all", sexes[k])
                ]
                for draw in (oracle_draws(len(children), 5, 0) if children else [])
            ]
            assert (row.mae is None) == (not any(drawn))
            if any(drawn):
                self.same_ends(row.mae, [mean(errors) for errors in drawn if errors])

    @staticmethod
    def same_ends(found: Any, drawn: Numbers) -> None:
        ends = oracle_quantile(drawn, 0.025), oracle_quantile(drawn, 0.975)
        assert (found.low, found.high) == pytest.approx(ends, rel=1e-12, abs=1e-11)


class TestRates:
    @pytest.mark.parametrize(
        ("hits", "trials"), [(0, 1), (1, 1), (0, 30), (1, 30), (15, 30), (29, 30), (30, 30), (7, 211)]
    )
    @pytest.mark.parametrize("level", [0.8, 0.95])
    def test_binomial_interval(self, hits: int, trials: int, level: float) -> None:
        rates = pytest.importorskip("agelens.evaluation.rates", reason="needs the extra report")
        found = rates.binomial_interval(hits, trials, level)
        assert found == pytest.approx(oracle_binomial(hits, trials, level), **TIGHT)
