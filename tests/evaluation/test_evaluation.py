"""Predictions in, metrics out: the figures, the groups, a model end to end."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agelens import metrics
from agelens.calibration import Calibration
from agelens.data.manifest import check_manifest, read_manifest, write_manifest
from agelens.data.prediction_columns import PREDICTION_COLUMNS
from agelens.data.predictions import (
    Predictions,
    check_predictions,
    read_predictions,
    write_predictions,
)
from agelens.errors import InputError, OutputError
from agelens.evaluation.evaluate import Evaluation, evaluate, evaluate_system
from agelens.evaluation.groups import AGE_BANDS
from agelens.evaluation.measures import IN_CROSSINGS
from agelens.evaluation.predict import predict_manifest
from agelens.inference.estimator import AgeEstimator
from agelens.label_distribution import AgeBins, gaussian, interval, probability_at_least
from agelens.reports.tables import evaluation_rows

BINS = AgeBins(0, 100)
COUNT = 240


def drawn_manifest(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return check_manifest(
        pd.DataFrame(
            {
                "path": [f"{index}.png" for index in range(COUNT)],
                "age": random.integers(0, 95, COUNT),
                "gender": random.choice(["male", "female", ""], COUNT, p=[0.5, 0.4, 0.1]),
                "ethnicity": np.where(np.arange(COUNT) < 12, "Other", "White"),
                "split": random.choice(["train", "test"], COUNT),
            }
        ),
        "m.csv",
    )


def drawn_predictions(manifest: pd.DataFrame, seed: int = 1, distributions: bool = True) -> Predictions:
    random = np.random.default_rng(seed)
    centres = np.clip(manifest["age"].to_numpy() + random.normal(1, 6, len(manifest)), 0, 100)
    frame = pd.DataFrame({"path": manifest["path"], "age": centres})
    distribution = gaussian(centres, BINS, 6.0) if distributions else None
    return Predictions(
        check_predictions(frame, "p.csv"), distribution, BINS if distributions else None, "p.csv"
    )


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    return drawn_manifest()


@pytest.fixture(scope="module")
def evaluation(manifest: pd.DataFrame) -> Evaluation:
    by = ("age_band", "aar_group", "gender", "ethnicity", "subject")
    return evaluate(drawn_predictions(manifest), manifest, by, replicates=200)


class TestEvaluate:
    def test_overall_equals_the_metrics(self, manifest: pd.DataFrame, evaluation: Evaluation) -> None:
        said = drawn_predictions(manifest)
        assert said.distribution is not None
        estimates, ages = said.frame["age"].to_numpy(), manifest["age"].to_numpy()
        low, high = interval(said.distribution, BINS, 0.9)
        p = probability_at_least(said.distribution, BINS, 18)
        expected = {
            "MAE": metrics.mae(estimates, ages),
            "RMSE": metrics.rmse(estimates, ages),
            "bias": metrics.bias(estimates, ages),
            "CA(3)": metrics.cumulative_accuracy(estimates, ages, 3),
            "CA(5)": metrics.cumulative_accuracy(estimates, ages, 5),
            "CA(7)": metrics.cumulative_accuracy(estimates, ages, 7),
            "AAR": metrics.aar(estimates, ages).aar,
            "coverage(90%)": metrics.coverage(ages, low, high),
            "width(90%)": metrics.interval_width(low, high),
            "CRPS": metrics.crps(said.distribution, BINS, ages),
            "NLL": metrics.negative_log_likelihood(said.distribution, BINS, ages),
            "accuracy(18+)": 100 * np.mean((p >= 0.5) == (ages >= 18)),
            "Brier(18+)": np.mean((p - (ages >= 18)) ** 2),
        }
        for name, value in expected.items():
            found = evaluation.overall[name]
            assert found.value == pytest.approx(value), name
            assert found.low <= found.value <= found.high, name
        levels = {f"{kind}({level})" for kind in ("coverage", "width") for level in ("50%", "80%", "95%")}
        assert set(evaluation.overall) == set(expected) | levels

    def test_intervals_are_the_bootstrap_of_the_metric(
        self, manifest: pd.DataFrame, evaluation: Evaluation
    ) -> None:
        errors = metrics.absolute_errors(drawn_predictions(manifest).frame["age"], manifest["age"])
        alone = metrics.bootstrap_interval(errors, replicates=200)
        found = evaluation.overall["MAE"]
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high))

    def test_groups_equal_the_metric_of_their_members(
        self, manifest: pd.DataFrame, evaluation: Evaluation
    ) -> None:
        estimates, ages = drawn_predictions(manifest).frame["age"].to_numpy(), manifest["age"].to_numpy()
        found = {(result.grouping, result.group): result for result in evaluation.results}
        women = (manifest["gender"] == "female").to_numpy()
        assert found["gender", "female"].count == women.sum()
        assert found["gender", "female"].metrics["MAE"].value == pytest.approx(
            metrics.mae(estimates[women], ages[women])
        )
        teens = (ages >= 13) & (ages <= 17)
        assert found["age_band", "13-17"].metrics["CA(5)"].value == pytest.approx(
            metrics.cumulative_accuracy(estimates[teens], ages[teens], 5)
        )
        for index, value in enumerate(evaluation.aar.group_mae if evaluation.aar else ()):
            first, last = metrics.AAR_GROUPS[index]
            assert found["aar_group", f"{first}-{last}"].metrics["MAE"].value == pytest.approx(value)

    def test_each_grouping_holds_every_image_once(self, evaluation: Evaluation) -> None:
        for grouping in ("all", "age_band", "gender", "ethnicity"):
            counts = [result.count for result in evaluation.results if result.grouping == grouping]
            assert sum(counts) == COUNT, grouping
        unknown = [result.group for result in evaluation.results if result.grouping == "gender"]
        assert unknown == ["female", "male", "unknown"]

    def test_age_bands_leave_no_gap(self) -> None:
        for (_, last), (first, _) in pairwise(AGE_BANDS):
            assert last is not None
            assert first == last + 1

    def test_small_groups_are_marked(self, evaluation: Evaluation) -> None:
        small = {
            result.group: result.small for result in evaluation.results if result.grouping == "ethnicity"
        }
        assert small == {"Other": True, "White": False}
        (row,) = (row for row in evaluation_rows(evaluation, ["MAE", "CA(5)"]) if row["group"] == "Other")
        assert (row["images"], row["CA(5)"]) == ("12*", "too few")
        assert row["MAE"].endswith("]")

    def test_groupings_without_values_are_named(self, evaluation: Evaluation) -> None:
        assert evaluation.absent == ("subject",)

    def test_an_unknown_grouping_is_refused(self, manifest: pd.DataFrame) -> None:
        with pytest.raises(InputError, match="'genre'"):
            evaluate(drawn_predictions(manifest), manifest, ("genre",), replicates=10)

    def test_crossings_have_the_first_metrics_of_their_members(self, manifest: pd.DataFrame) -> None:
        found = evaluate(drawn_predictions(manifest), manifest, ("gender:age_band",), replicates=20)
        assert {result.grouping for result in found.results} == {"all", "gender:age_band"}
        (young,) = (result for result in found.results if result.group == "female × 18-29")
        members = (manifest["gender"] == "female") & manifest["age"].between(18, 29)
        estimates = drawn_predictions(manifest).frame["age"]
        assert young.count == members.sum()
        assert young.metrics["MAE"].value == pytest.approx(
            metrics.mae(estimates[members], manifest["age"][members])
        )
        of_bands = {"band accuracy", "band distance"}
        assert set(young.metrics) == set(IN_CROSSINGS) - of_bands

    def test_intervals_do_not_depend_on_what_else_is_asked(self, manifest: pd.DataFrame) -> None:
        said = drawn_predictions(manifest)
        alone = evaluate(said, manifest, ("gender",), replicates=50)
        among = evaluate(said, manifest, ("ethnicity", "gender", "gender:ethnicity"), replicates=50)
        wanted = {result.group: result for result in among.results if result.grouping == "gender"}
        for result in alone.results[1:]:
            for name, value in result.metrics.items():
                other = wanted[result.group].metrics[name]
                assert (other.low, other.high) == pytest.approx((value.low, value.high)), name

    def test_many_groups_are_drawn_in_parts(
        self, manifest: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said, by = drawn_predictions(manifest), ("gender", "ethnicity", "age_band")
        whole = evaluate(said, manifest, by, replicates=30)
        monkeypatch.setattr("agelens.evaluation.measures._DRAWN", 1)
        parts = evaluate(said, manifest, by, replicates=30)
        assert [result.group for result in parts.results] == [result.group for result in whole.results]
        for one, two in zip(whole.results, parts.results, strict=True):
            for name, value in one.metrics.items():
                assert two.metrics[name].low == pytest.approx(value.low, nan_ok=True), name

    def test_an_empty_group_has_no_figures(self, manifest: pd.DataFrame) -> None:
        young = check_manifest(manifest[manifest["age"] < 60], "m.csv")
        found = evaluate(drawn_predictions(young), young, replicates=20)
        (old,) = (result for result in found.results if result.group == "75+")
        assert (old.count, old.metrics) == (0, {})
        assert evaluation_rows(found, ["MAE"])[-1]["MAE"] != ""
        assert [row["MAE"] for row in evaluation_rows(found) if row["group"] == "75+"] == [""]
        assert found.aar is not None
        assert found.aar.empty == ("61-70", "71-81")

    def test_aar_is_left_out_where_it_has_no_group(self) -> None:
        babies = check_manifest(pd.DataFrame({"path": ["a", "b"], "age": [0, 0]}), "m.csv")
        found = evaluate(drawn_predictions(babies), babies, replicates=20)
        assert found.aar is None
        assert found.to_dict()["results"][0]["metrics"]["AAR"] == {"value": None, "low": None, "high": None}

    def test_without_distributions_only_the_ages_are_judged(self, manifest: pd.DataFrame) -> None:
        found = evaluate(drawn_predictions(manifest, distributions=False), manifest, replicates=20)
        assert set(found.overall) == {"MAE", "RMSE", "bias", "CA(3)", "CA(5)", "CA(7)", "AAR"}
        assert (found.intervals, found.reliability, found.pit_histogram) == ("none", (), ())

    def test_stated_intervals_and_voters(self) -> None:
        labels = check_manifest(
            pd.DataFrame({"path": ["a", "b"], "age": [20, 40], "age_std": [4.0, 2.0]}), "m.csv"
        )
        frame = pd.DataFrame({"path": ["a", "b"], "age": [24, 40], "low": [21, 35], "high": [27, 45]})
        said = Predictions(check_predictions(frame, "p"), None, None, "p")
        found = evaluate(said, labels, replicates=20).overall
        assert found["coverage(stated)"].value == 0.5
        assert found["width(stated)"].value == 8.0
        assert found["ε-error"].value == pytest.approx((1 - math.exp(-0.5)) / 2)

    def test_a_calibration_changes_the_intervals_only(self, manifest: pd.DataFrame) -> None:
        wide = Calibration(1.0, (0.1, 0.99), (0.995, 0.995), 10, "val")
        plain = evaluate(drawn_predictions(manifest), manifest, (), replicates=10)
        found = evaluate(drawn_predictions(manifest), manifest, (), calibration=wide, replicates=10)
        assert (plain.intervals, found.intervals) == ("central mass", "conformal")
        assert found.overall["width(50%)"].value > 2 * plain.overall["width(50%)"].value
        assert found.overall["CRPS"] == plain.overall["CRPS"]

    def test_reliability_and_pit_count_every_image(self, evaluation: Evaluation) -> None:
        assert sum(row.count for row in evaluation.reliability) == COUNT
        assert sum(evaluation.pit_histogram) == pytest.approx(1.0)
        filled = [row for row in evaluation.reliability if row.count]
        assert all(row.low <= row.predicted <= row.high for row in filled)
        assert filled[-1].observed > 0.95 > 0.2 > filled[0].observed

    def test_ages_beyond_the_bins_count_as_they_are(self) -> None:
        labels = check_manifest(pd.DataFrame({"path": ["a"], "age": [116]}), "m.csv")
        frame = check_predictions(pd.DataFrame({"path": ["a"], "age": [100.0]}), "p")
        said = Predictions(frame, gaussian([100.0], BINS, 1.0), BINS, "p")
        found = evaluate(said, labels, (), replicates=5).overall
        assert found["MAE"].value == 16
        assert found["coverage(95%)"].value == 0

    def test_the_order_of_predictions_does_not_matter(
        self, manifest: pd.DataFrame, evaluation: Evaluation
    ) -> None:
        said = drawn_predictions(manifest)
        assert said.distribution is not None
        order = np.random.default_rng(0).permutation(COUNT)
        shuffled = Predictions(
            said.frame.iloc[order].reset_index(drop=True), said.distribution[order], BINS, "p.csv"
        )
        found = evaluate(shuffled, manifest, replicates=200)
        for name, value in evaluation.overall.items():
            same = found.overall[name]
            assert (same.value, same.low, same.high) == pytest.approx((value.value, value.low, value.high))

    def test_json_holds_no_nan_and_is_written_whole(
        self, tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "evaluation.json"
        evaluation.write_json(path)
        read = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert read["results"][0]["metrics"]["MAE"]["value"] == evaluation.overall["MAE"].value
        assert read["images"] == COUNT
        before = path.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="No space left"):
            evaluation.write_json(path)
        assert path.read_bytes() == before

    def test_rows_are_text_for_a_table(self, evaluation: Evaluation) -> None:
        first = evaluation_rows(evaluation, ["MAE", "coverage(90%)"])[0]
        assert list(first) == ["grouping", "group", "images", "MAE", "coverage(90%)"]
        mae = evaluation.overall["MAE"]
        assert first["MAE"] == f"{mae.value:.2f} [{mae.low:.2f}, {mae.high:.2f}]"
        assert first["coverage(90%)"].startswith("0.")
        with pytest.raises(InputError, match="'CA\\(9\\)'"):
            evaluation_rows(evaluation, ["CA(9)"])


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of grey crops, each estimated two years too old, and what cannot be estimated."""
    folder = tmp_path_factory.mktemp("bright")
    ages = [10, 20, 30, 40, 50, 60]
    for age in ages:
        shade = round((age + 2) * 2.55)
        Image.new("RGB", (16, 16), (shade,) * 3).save(folder / f"{age}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    write_manifest(
        pd.DataFrame(
            {
                "path": [f"{age}.png" for age in ages] + ["broken.png", "not-there.png"],
                "age": [*ages, 70, 80],
                "split": ["train", *["test"] * 7],
            }
        ),
        folder / "manifest.csv",
    )
    return folder / "manifest.csv"


@pytest.fixture
def make_manifest() -> Callable[..., pd.DataFrame]:
    def make(root: Path, paths: list[str], ages: list[float]) -> pd.DataFrame:
        labels = check_manifest(pd.DataFrame({"path": paths, "age": ages}), "m.csv")
        labels.attrs["root"] = root
        return labels

    return make


class TestModel:
    """The small model's age is the brightness of the crop in hundredths of white."""

    def test_end_to_end(self, small_model: Path, bright: Path) -> None:
        seen: list[tuple[int, int]] = []
        found = evaluate_system(
            small_model, bright, replicates=20, progress=lambda done, total: seen.append((done, total))
        )
        assert found.images == 5
        assert found.overall["MAE"].value == pytest.approx(2.0, abs=0.2)
        assert found.overall["bias"].value == pytest.approx(2.0, abs=0.2)
        assert found.overall["CA(3)"].value == 100.0
        assert found.overall["coverage(90%)"].value == 1.0  # 5 years wide on both sides
        assert [path for path, _ in found.match.failed] == ["broken.png", "not-there.png"]
        assert found.match.failed[1][1] == "no such file"  # as `predict` says it: the path has its own column
        assert (found.system, found.split, found.intervals) == ("small", "test", "conformal")
        assert seen == [(done, 7) for done in range(1, 8)]

    def test_what_it_said_can_be_written_and_judged_again(
        self, small_model: Path, bright: Path, tmp_path: Path
    ) -> None:
        found = evaluate_system(small_model, bright, replicates=20)
        write_predictions(found.predictions, tmp_path / "predictions.csv")
        read = read_predictions(tmp_path / "predictions.csv")
        card = AgeEstimator(small_model).card
        again = evaluate(
            read, read_manifest(bright), calibration=card.calibration, split="test", replicates=20
        )
        for name, value in found.overall.items():
            assert again.overall[name].value == pytest.approx(value.value, rel=1e-5), name
        assert again.match.failed == found.match.failed

    def test_a_photo_without_a_face_failed(
        self, small_model: Path, bright: Path, make_manifest: Callable[..., pd.DataFrame]
    ) -> None:
        labels = make_manifest(bright.parent, ["20.png"], [20])
        said = predict_manifest(AgeEstimator(small_model), labels, images="photos")
        assert list(said.frame.columns) == list(PREDICTION_COLUMNS)
        assert said.frame["error"].tolist() == ["no face of 40 pixels or more found"]
        assert said.frame["age"].isna().all()

    def test_a_chip_without_a_face_is_estimated_by_its_layout(
        self, small_model: Path, bright: Path, make_manifest: Callable[..., pd.DataFrame]
    ) -> None:
        labels = make_manifest(bright.parent, ["20.png"], [20])
        said = predict_manifest(AgeEstimator(small_model), labels, images="chips")
        assert said.frame["age"].tolist() == pytest.approx([22], abs=0.3)

    def test_a_photo_s_face_has_a_box(
        self, small_model: Path, portrait: Path, make_manifest: Callable[..., pd.DataFrame]
    ) -> None:
        labels = make_manifest(portrait.parent, [portrait.name], [40])
        row = predict_manifest(AgeEstimator(small_model), labels, images="photos").frame.iloc[0]
        assert row["face"] == 1
        assert 0 <= row["x1"] < row["x2"]
        assert row["low"] <= row["high"]
        assert 0 <= row["p_at_least"] <= 1
        assert 0.5 < row["confidence"] <= 1

    def test_refusals(self, small_model: Path, bright: Path) -> None:
        with pytest.raises(InputError, match="'val'; --split all takes every row"):
            evaluate_system(small_model, bright, split="val")
        with pytest.raises(InputError, match="'raw'"):
            evaluate_system(small_model, bright, images="raw")

    def test_no_image_is_estimated_for_a_grouping_that_is_none(
        self, small_model: Path, bright: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agelens.evaluation.systems.predict_manifest", pytest.fail)
        with pytest.raises(InputError, match="no such grouping: 'height'"):
            evaluate_system(small_model, bright, by=("gender:height",))


def test_evaluation_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import agelens.evaluation.evaluate"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
