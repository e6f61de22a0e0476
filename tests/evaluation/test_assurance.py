"""Age assurance: rates by hand, the third outcome, the challenge age that reaches a rate, too few people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="evaluation needs the extra report")

from agelens import metrics  # noqa: E402
from agelens.data.manifest import check_manifest  # noqa: E402
from agelens.data.predictions import Predictions, check_predictions  # noqa: E402
from agelens.errors import InputError  # noqa: E402
from agelens.evaluation.assurance import Assurance, assure  # noqa: E402
from agelens.evaluation.evaluate import Evaluation, evaluate  # noqa: E402
from agelens.evaluation.groups import crossings, eye_distances, group, people, split_groupings  # noqa: E402
from agelens.evaluation.rates import LEAST_PEOPLE, Rate, binomial_interval, rate  # noqa: E402
from agelens.label_distribution import AgeBins, gaussian  # noqa: E402
from agelens.reports.tables import evaluation_rows  # noqa: E402

BINS = AgeBins(0, 100)


def judged(
    ages: Sequence[float],
    estimates: Sequence[float | None],
    spread: float | None = None,
    by: Sequence[str] = (),
    **columns: Any,
) -> Evaluation:
    """An evaluation of estimates (None = failed) with Gaussian distributions, or none."""
    paths = [f"{k}.png" for k in range(len(ages))]
    labels = check_manifest(pd.DataFrame({"path": paths, "age": ages, **columns}), "m.csv")
    errors = ["no face found" if value is None else "" for value in estimates]
    table = pd.DataFrame({"path": paths, "age": estimates, "error": errors})
    mass = None
    if spread is not None:
        mass = gaussian([0.0 if value is None else value for value in estimates], BINS, spread)
    said = Predictions(check_predictions(table, "p.csv"), mass, None if mass is None else BINS, "p.csv")
    return evaluate(said, labels, by, replicates=60)


class TestRate:
    def test_by_hand(self) -> None:
        found = rate([True] * 3 + [False] * 37, np.arange(40))
        assert (found.images, found.people, found.value) == (40, 40, 0.075)
        none, everyone = rate([False] * 40, np.arange(40)), rate([True] * 40, np.arange(40))
        assert (none.low, none.high) == pytest.approx((0, 1 - 0.025 ** (1 / 40)))
        assert (everyone.low, everyone.high) == pytest.approx((0.025 ** (1 / 40), 1))

    @pytest.mark.parametrize("count", [0, 1, LEAST_PEOPLE - 1])
    def test_too_few_people_have_no_rate(self, count: int) -> None:
        found = rate([True] * count, np.arange(count))
        assert found.too_few
        assert all(math.isnan(value) for value in (found.value, found.low, found.high))

    def test_thirty_people_are_enough(self) -> None:
        assert not rate([True] * LEAST_PEOPLE, np.arange(LEAST_PEOPLE)).too_few

    def test_people_count_and_not_images(self) -> None:
        hits = np.arange(400) < 40
        alone, shared = rate(hits, np.arange(400)), rate(hits, np.arange(400) % 40)
        assert (alone.people, shared.people) == (400, 40)
        assert alone.value == shared.value == 0.1
        assert (shared.low, shared.high) == binomial_interval(4, 40)
        few = rate(hits, np.arange(400) % 29)
        assert few.too_few
        assert math.isnan(few.value)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="one"):
            rate([True], np.arange(2))
        for arguments in ((1, 0), (-1, 5), (6, 5), (1, 5, 1.0)):
            with pytest.raises(ValueError, match="no rate"):
                binomial_interval(*arguments)


@pytest.fixture(scope="module")
def page() -> Assurance:
    """40 17-year-olds (10 estimated 26, 10 at 20, 18 at 16, 2 failed) and 50 adults (30 at 30, 20 at 24)."""
    ages = [17.0] * 40 + [25.0] * 50
    estimates = [26.0] * 10 + [20.0] * 10 + [16.0] * 18 + [None] * 2 + [30.0] * 30 + [24.0] * 20
    sexes = ["female"] * 35 + ["male"] * 5 + ["female"] * 25 + ["male"] * 25
    found = judged(ages, estimates, spread=1.0, gender=sexes)
    return assure(found, ("gender", "age_band", "pose"), wished=(0.05, 0.3, 0.5))


def only(rows: Sequence[Any], **wanted: Any) -> Any:
    (found,) = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]
    return found


class TestThreshold:
    def test_challenge(self, page: Assurance) -> None:
        assert (page.threshold, page.challenge) == (18, 25)
        everyone = only(page.challenge_rates, group="all").rate
        assert (everyone.people, everyone.value) == (40, 0.25)  # failures are in the denominator
        assert (everyone.low, everyone.high) == binomial_interval(10, 40)
        assert only(page.challenge_rates, group="female").rate.value == pytest.approx(10 / 35)
        assert only(page.challenge_rates, group="male").rate.too_few

    def test_outcomes_of_the_estimate(self, page: Assurance) -> None:
        young = only(page.decisions, rule="estimate", group="all", side="just under")
        outcomes = [young.passed, young.refused, young.undecided, young.failed]
        assert [found.value for found in outcomes] == [0.25, 0.45, 0.25, 0.05]
        adult = only(page.decisions, rule="estimate", group="all", side="adult")
        outcomes = [adult.passed, adult.refused, adult.undecided, adult.failed]
        assert [found.value for found in outcomes] == [0.6, 0, 0.4, 0]

    def test_the_edges(self) -> None:
        """The challenge age passes, the threshold is not refused; the last year begins with a birthday."""
        found = assure(
            judged([16.9] * 30 + [17.0] * 30 + [17.9] * 10, [18.0] * 30 + [25.0] * 30 + [17.9] * 10), ()
        )
        young = only(found.decisions, side="under age")
        outcomes = [young.passed, young.refused, young.undecided]
        assert [outcome.value for outcome in outcomes] == [3 / 7, 1 / 7, 3 / 7]
        assert only(found.decisions, side="just under").passed.value == 0.75

    def test_outcomes_of_the_probability(self, page: Assurance) -> None:
        """P(age >= 18): 1 at 26, 0.995 at 20, 0.067 at 16."""
        young = only(page.decisions, rule="probability", group="all", side="under age")
        outcomes = [young.passed, young.refused, young.undecided, young.failed]
        assert [found.value for found in outcomes] == [0.5, 0, 0.45, 0.05]

    def test_every_decision_sums_to_one(self, page: Assurance) -> None:
        told = [row for row in page.decisions if not row.passed.too_few]
        assert len(told) > 6
        for row in told:
            total = row.passed.value + row.refused.value + row.undecided.value + row.failed.value
            assert total == pytest.approx(1)

    def test_the_challenge_age_that_reaches_a_rate(self, page: Assurance) -> None:
        points = {
            wished: only(page.points, rule="estimate", group="all", wished=wished) for wished in (0.05, 0.3)
        }
        assert points[0.05].cut == 26.1
        assert points[0.05].false_positives.value == 0
        assert points[0.05].adults_refused.value == 0.4
        assert math.isnan(points[0.05].assured)  # 40 people cannot assure 5 %: the bound of none is 8.8 %
        assert points[0.3].cut == 20.1
        assert points[0.3].false_positives.value == 0.25
        assert points[0.3].assured == 26.1  # the bound of a quarter is 41 %
        already = only(page.points, rule="estimate", group="all", wished=0.5)
        assert (already.cut, already.false_positives.value) == (18, 0.5)
        few = only(page.points, rule="estimate", group="male", wished=0.3)
        assert math.isnan(few.cut)
        assert few.false_positives is None

    def test_the_certainty_that_reaches_a_rate(self, page: Assurance) -> None:
        point = only(page.points, rule="probability", group="all", wished=0.3)
        assert point.cut == 0.999
        assert point.false_positives.value == 0.25

    def test_curves_fall_and_rise(self, page: Assurance) -> None:
        curve = only(page.curves, rule="estimate", group="all")
        assert curve.cuts[0] == 18
        assert curve.under_age_passed[0] == 0.5
        assert curve.adults_refused[curve.cuts.index(25)] == 0.4
        assert list(curve.under_age_passed) == sorted(curve.under_age_passed, reverse=True)
        assert list(curve.adults_refused) == sorted(curve.adults_refused)
        assert (
            all(math.isnan(value) for value in only(page.curves, rule="estimate", group="male").cuts) is False
        )
        assert all(
            math.isnan(value) for value in only(page.curves, rule="estimate", group="male").under_age_passed
        )

    def test_failures_are_a_result(self, page: Assurance) -> None:
        assert only(page.failures, group="all").rate.value == pytest.approx(2 / 90)

    def test_missing_images_are_counted(self) -> None:
        labels = check_manifest(pd.DataFrame({"path": ["a", "b", "c"], "age": [20.0] * 3}), "m.csv")
        table = check_predictions(pd.DataFrame({"path": ["b"], "age": [20.0]}), "p.csv")
        said = Predictions(table, None, None, "p.csv")
        assert assure(evaluate(said, labels, (), allow_missing=True, replicates=5), ()).missing == 2

    def test_groupings(self, page: Assurance) -> None:
        assert {row.grouping for row in page.failures} == {"all", "gender"}  # ages are sides already
        assert page.absent == ("pose",)

    def test_json_tells_no_rate_of_too_few(self, page: Assurance) -> None:
        text = json.dumps(page.to_dict(), allow_nan=False)
        rates: list[dict[str, Any]] = []

        def walk(value: Any) -> None:
            if isinstance(value, dict):
                if {"people", "value", "high"} <= set(value):
                    rates.append(value)
                for item in value.values():
                    walk(item)
            elif isinstance(value, list):
                for item in value:
                    walk(item)

        walk(json.loads(text))
        assert any(found["people"] < LEAST_PEOPLE for found in rates)
        for found in rates:
            assert (found["value"] is None) == (found["people"] < LEAST_PEOPLE)

    def test_without_distributions_there_is_one_rule(self) -> None:
        found = assure(judged([17.0, 30.0], [16.0, 31.0]), ())
        assert {row.rule for row in found.decisions} == {"estimate"}

    def test_another_threshold(self) -> None:
        found = assure(judged([12.9] * 30 + [13.0] * 30, [15.0] * 60), (), threshold=13, challenge=15)
        assert only(found.challenge_rates, group="all").rate.value == 1
        assert only(found.decisions, side="just under").passed.people == 30

    def test_a_fractional_threshold(self) -> None:
        """The last year before 17.55 began at 17; its challenge ages begin at 17.55 and go on in tenths."""
        found = assure(judged([16.9] * 30 + [17.0] * 40, [17.57] * 70), (), threshold=17.55, wished=(0.5,))
        assert only(found.decisions, side="just under").passed.people == 40
        assert only(found.points, group="all").cut == 17.6
        below = assure(judged([17.0] * 40, [17.52] * 40), (), threshold=17.55, wished=(0.5,))
        assert only(below.points, group="all").cut == 17.55

    def test_the_threshold_itself_may_be_the_challenge_age(self) -> None:
        found = assure(judged([17.0] * 30, [18.0] * 30), (), challenge=18)
        assert only(found.challenge_rates, group="all").rate.value == 1

    def test_a_failure_refuses_an_adult(self) -> None:
        found = assure(judged([17.0] * 30 + [25.0] * 40, [16.0] * 30 + [30.0] * 30 + [None] * 10), ())
        assert only(found.points, wished=0.05).adults_refused.value == 0.25

    def test_many_images_of_few_people(self) -> None:
        """Sixty images of twenty 17-year-olds are no rate; ninety of forty-five assure no more than 45 do."""
        subjects = [f"s{k % 20}" for k in range(60)]
        few = assure(judged([17.0] * 60, [16.0] * 60, subject=subjects), ())
        assert (few.failures[0].rate.images, few.failures[0].rate.people) == (60, 20)
        assert few.failures[0].rate.too_few
        assert math.isnan(only(few.curves, group="all").just_under_passed[0])
        assert math.isnan(only(few.points, wished=0.05).cut)
        cell = only(few.cells, age=17, sex="all")
        assert (cell.images, cell.people) == (60, 20)
        assert (only(few.cell_means, ages="0-18").small, only(few.cell_means, ages="0-18").images) == (1, 60)
        subjects = [f"s{k % 45}" for k in range(90)]
        more = assure(judged([17.0] * 90, [16.0] * 90, subject=subjects), (), wished=(0.05,))
        assert binomial_interval(0, 90)[1] < 0.05 < binomial_interval(0, 45)[1]
        assert math.isnan(only(more.points, group="all").assured)

    def test_the_bootstrap_draws_people(self) -> None:
        errors = np.random.default_rng(0).normal(0, 5, 40)
        once = assure(judged([14.0] * 40, (14 + errors).clip(0)), ())
        subjects = [f"s{k // 5}" for k in range(200)]
        often = assure(judged([14.0] * 200, np.repeat((14 + errors).clip(0), 5), subject=subjects), ())
        for alone, many in (
            (only(once.cells, age=14, sex="all"), only(often.cells, age=14, sex="all")),
            (once.child_safety[0], often.child_safety[0]),
        ):
            assert (many.mae.low, many.mae.high) == pytest.approx((alone.mae.low, alone.mae.high))

    @pytest.mark.parametrize(
        "arguments",
        [
            {"threshold": 0},
            {"threshold": math.nan},
            {"challenge": 17},
            {"challenge": math.inf},
            {"wished": (0.0,)},
            {"wished": (1.5,)},
            {"certainty": 0.5},
            {"certainty": 1.0},
        ],
    )
    def test_refusals(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=r"value|not"):
            assure(judged([17.0], [16.0]), (), **arguments)


class TestCells:
    def test_no_cell_dominates(self) -> None:
        """90 women of 20 with error 1, a man of 20 with 3, a man of 30 with 5.6: the mean of three cells."""
        ages, estimates = [20.5] * 90 + [20.0, 30.0], [21.5] * 90 + [23.0, 35.6]
        found = assure(judged(ages, estimates, gender=["female"] * 90 + ["male"] * 2), ())
        cells = only(found.cell_means, ages="18-30")
        assert cells.mae is not None
        assert cells.mae.value == pytest.approx(3.2)
        assert (cells.cells, cells.empty, cells.small, cells.images) == (26, 23, 2, 92)
        assert cells.mae.low <= 3.2 <= cells.mae.high

    def test_a_cell_of_thirty_is_not_small(self) -> None:
        found = assure(judged([20.0] * 30 + [21.0] * 29, [20.0] * 59), ())
        assert only(found.cell_means, ages="18-30").small == 1

    def test_without_sexes_cells_are_years(self) -> None:
        found = assure(judged([18.0, 18.0, 19.0], [19.0, 21.0, 19.0]), ())
        cells = only(found.cell_means, ages="18-30")
        assert (cells.by_sex, cells.cells, cells.empty) == (False, 13, 11)
        assert cells.mae is not None
        assert cells.mae.value == 1

    def test_nobody_is_no_mean(self) -> None:
        found = assure(judged([50.0], [50.0]), ())
        assert all(row.mae is None for row in found.cell_means)
        assert all(row.images == 0 for row in found.cells)

    def test_single_years(self) -> None:
        found = assure(judged([0.0, 0.9, 7.0], [2.0, 0.9, 4.0], gender=["male", "", "male"]), ())
        assert only(found.cells, age=0, sex="all").mae.value == 1
        assert only(found.cells, age=0, sex="male").images == 1
        assert only(found.cells, age=7, sex="all").bias.value == -3
        assert not [row for row in found.cells if row.sex == "female" and row.images]


class TestChildSafety:
    def test_by_hand(self) -> None:
        estimates = [14.0] * 10 + [12.9] * 6 + [7.0] * 4 + [17.0] * 8 + [23.0] * 2
        ages = [13.0, 16.9] * 15 + [8.0, 12.9] * 20 + [17.0, 22.0] * 20
        found = only(
            assure(
                judged(ages, estimates + [16.9] * 4 + [12.9] * 36 + [13.0] * 2 + [30.0] * 38), ()
            ).child_safety,
            group="all",
        )
        shares = [
            found.in_range,
            found.rated_8_12,
            found.rated_under_8,
            found.rated_17_22,
            found.rated_over_22,
        ]
        assert [share.value for share in shares] == pytest.approx([10 / 30, 6 / 30, 4 / 30, 8 / 30, 2 / 30])
        assert found.younger_in_range.value == 0.1
        assert found.older_in_range.value == 0.05
        assert found.mae.value == pytest.approx(
            metrics.mae(estimates, ages[:30]),
        )

    def test_a_failure_is_in_no_range(self) -> None:
        found = only(assure(judged([14.0] * 40, [14.0] * 30 + [None] * 10), ()).child_safety, group="all")
        assert found.in_range.value == 0.75

    def test_no_child(self) -> None:
        found = only(assure(judged([50.0], [50.0]), ()).child_safety, group="all")
        assert found.mae is None
        assert found.in_range == Rate(0, 0, *([pytest.approx(math.nan, nan_ok=True)] * 3))


class TestGroups:
    def labels(self, **columns: Any) -> pd.DataFrame:
        count = len(next(iter(columns.values())))
        ages = columns.pop("age", [30.0] * count)
        paths = [f"{k}" for k in range(count)]
        return check_manifest(pd.DataFrame({"path": paths, "age": ages, **columns}), "m.csv")

    def test_pose_is_the_absolute_yaw(self) -> None:
        found = group("pose", self.labels(pose=[-5, 14.9, 15, -31, 80, None]))
        assert found is not None
        names = [found.groups[code] for code in found.codes]
        assert names == ["0 to 15°", "0 to 15°", "15 to 30°", "30 to 45°", "45° and more", "unknown"]
        assert group("pose", self.labels(gender=["male"])) is None

    def test_bounds_may_stand_in_the_name(self) -> None:
        """LRN Table 10 has two groups of pose."""
        labels = self.labels(pose=[0.0, -19.9, 20.0, np.nan])
        found = group("pose-20", labels)
        assert found is not None
        assert found.groups == ("0 to 20°", "20° and more", "unknown")
        assert found.codes.tolist() == [0, 0, 1, 2]
        three = group("pose-10-20", labels)
        assert three is not None
        assert three.codes.tolist() == [0, 1, 2, 3]
        crossed = group("gender:pose-20", labels.assign(gender=["male", "female", "male", "male"]))
        assert crossed is not None
        assert crossed.groups[:2] == ("female × 0 to 20°", "female × 20° and more")
        for name in ("pose-0", "pose-20-10", "pose-20-20"):
            with pytest.raises(InputError, match="must rise from above 0"):
                group(name, labels)
        with pytest.raises(InputError, match="no such grouping: 'pose-x'"):
            group("pose-x", labels)
        own = group("pose-20", labels.assign(**{"pose-20": ["a", "b", "a", "b"]}))  # a column comes first
        assert own is not None
        assert own.groups == ("a", "b")

    def test_eye_distance(self) -> None:
        labels = self.labels(landmarks=["0 0 30 40 1 1 1 1 1 1", "", "0 0 0 10 1 1 1 1 1 1"])
        assert eye_distances(labels)[[0, 2]].tolist() == [50, 10]
        found = group("eye_distance", labels)
        assert found is not None
        assert [found.groups[code] for code in found.codes] == ["40 to 60 px", "unknown", "0 to 20 px"]
        ranges = ("0 to 20 px", "20 to 40 px", "40 to 60 px", "60 to 80 px", "80 to 120 px")
        assert found.groups == (*ranges, "120 px and more", "unknown")

    def test_crossing(self) -> None:
        labels = self.labels(gender=["male", "female", ""], ethnicity=["White", "Black", "Black"])
        found = group("gender:ethnicity", labels)
        assert found is not None
        assert len(found.groups) == 6
        assert [found.groups[code] for code in found.codes] == [
            "male × White",
            "female × Black",
            "unknown × Black",
        ]
        assert group("gender:subject", labels) is None

    def test_ages_are_completed_years(self) -> None:
        labels = self.labels(age=[0.0, 2.9, 3.0, 17.9, 18.0, 29.9, 30.0, 59.9, 74.9, 75.0])
        bands, fives, aar = (group(name, labels) for name in ("age_band", "five_years", "aar_group"))
        assert bands is not None
        assert bands.codes.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 6, 7]
        assert fives is not None
        assert [fives.groups[code] for code in fives.codes[[1, 3, 5, 9]]] == [
            "0-4",
            "15-19",
            "25-29",
            "75-79",
        ]
        assert len(fives.groups) == 16
        assert aar is not None
        assert aar.codes.tolist() == [-1, 0, 0, 1, 1, 2, 2, 5, 7, 7]

    def test_who_is_in_no_group_is_in_no_crossing(self) -> None:
        labels = self.labels(age=[0, 5, 15], gender=["male", "female", "male"])
        for name in ("aar_group:gender", "gender:aar_group"):
            found = group(name, labels)
            assert found is not None
            names = [found.groups[code] if code >= 0 else "" for code in found.codes]
            assert [sorted(part.split(" × ")) for part in names] == [
                [""],
                ["1-10", "female"],
                ["11-20", "male"],
            ]

    def test_numbers_are_groups_too(self) -> None:
        found = group("site", self.labels(site=[2.0, math.nan, 10.0, 2.0]))
        assert found is not None
        assert [found.groups[code] for code in found.codes] == ["2.0", "unknown", "10.0", "2.0"]

    def test_all_pairs_but_ages_with_ages(self) -> None:
        assert crossings(("age_band", "gender", "aar_group", "a:b")) == (
            "age_band:gender",
            "gender:aar_group",
        )

    def test_a_column_may_have_a_colon_or_be_called_unknown(self) -> None:
        labels = self.labels(**{"a:b": ["x", "unknown", ""]})
        found = group("a:b", labels)
        assert found is not None
        assert found.groups == ("x", "unknown")
        assert found.codes.tolist() == [0, 1, 1]

    @pytest.mark.parametrize("name", ["genre", "gender:genre", "gender:", ":"])
    def test_no_such_grouping(self, name: str) -> None:
        with pytest.raises(InputError, match="no such grouping"):
            group(name, self.labels(gender=["male"]))

    def test_too_many_groups(self) -> None:
        with pytest.raises(InputError, match="at most 1000"):
            group("name", self.labels(name=[f"n{k}" for k in range(1001)]))

    def test_lists(self) -> None:
        assert split_groupings(["age_band, gender", "gender"]) == ("age_band", "gender")
        with pytest.raises(InputError, match="no name"):
            split_groupings(["a,,b"])

    def test_people(self) -> None:
        assert people(self.labels(subject=["a", "", "a", "", "1"])).tolist() == [0, 1, 0, 2, 3]
        assert people(self.labels(gender=["male"] * 3)).tolist() == [0, 1, 2]

    def test_a_small_group_is_one_of_few_people(self) -> None:
        subjects = [f"s{k % 10}" for k in range(60)]
        found = judged([30.0] * 60, [31.0] * 60, by=("gender",), gender=["male"] * 60, subject=subjects)
        assert (found.people, found.results[0].small) == (10, True)
        assert evaluation_rows(found, ["CA(5)", "MAE"])[0]["CA(5)"] == "too few"
        assert evaluation_rows(found, ["CA(5)", "MAE"])[0]["MAE"].startswith("1.00")

    def test_the_bootstrap_draws_people(self) -> None:
        """Ten copies of each of 40 people tell no more than the 40."""
        errors = np.random.default_rng(0).normal(0, 5, 40)
        once = judged([30.0] * 40, 30 + errors)
        copies = judged([30.0] * 400, np.repeat(30 + errors, 10), subject=[f"s{k // 10}" for k in range(400)])
        alone, many = once.overall["MAE"], copies.overall["MAE"]
        assert (many.value, many.low, many.high) == pytest.approx((alone.value, alone.low, alone.high))
