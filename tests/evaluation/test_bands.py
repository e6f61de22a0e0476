"""Evaluation where labels are age bands."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.calibration import LEVEL_GRID, Calibration
from agelens.data.manifest import check_manifest
from agelens.data.predictions import Predictions
from agelens.errors import InputError
from agelens.evaluation.compare import Comparison, compare
from agelens.evaluation.evaluate import evaluate
from agelens.evaluation.systems import Answers
from agelens.label_distribution import AgeBins, gaussian, interval
from agelens.metrics import paired_bootstrap
from agelens.reports.comparison import write_comparison
from agelens.reports.tables import difference_rows, system_rows

BINS = AgeBins(0, 100)
BANDS = [(0, 9), (10, 19), (20, 39), (40, 130)]


def faces(count: int = 400, sigma: float = 6.0) -> tuple[pd.DataFrame, Predictions]:
    """Bands of ages that were drawn from the predicted distributions."""
    random = np.random.default_rng(0)
    mass = gaussian(random.uniform(3, 90, count), BINS, sigma)
    ages = (random.random((count, 1)) > mass.cumsum(axis=1)).sum(axis=1)
    bands = np.array([next(band for band in BANDS if band[0] <= age <= band[1]) for age in ages], dtype=float)
    table = pd.DataFrame({"path": [f"{k}.png" for k in range(count)], "age_low": bands[:, 0]})
    table["age_high"] = np.where(bands[:, 1] == 130, np.nan, bands[:, 1])
    table["gender"] = np.where(np.arange(count) % 2, "male", "female")
    frame = pd.DataFrame({"path": table["path"], "age": mass @ BINS.ages, "error": "", "face": 0})
    return check_manifest(table, "m.csv"), Predictions(frame, mass, BINS, "system.csv")


def test_metrics_of_bands_by_loop() -> None:
    labels, predictions = faces()
    calibration = Calibration(1.0, LEVEL_GRID, tuple(0.9 * level for level in LEVEL_GRID), 10, "val")
    found = evaluate(predictions, labels, ("age_band", "gender"), calibration=calibration, replicates=50)
    values = {name: result.value for name, result in found.overall.items()}
    hits = nll = distance = bias = guessed = certain = possible = 0.0
    low90, high90 = interval(predictions.distribution, BINS, 0.81)
    for k, row in labels.iterrows():
        low, high = row["age_low"], 130 if math.isnan(row["age_high"]) else row["age_high"]
        said, mass = predictions.frame["age"][k], predictions.distribution[k]
        hits += low <= math.floor(said) <= high
        signed = said - low if said < low else max(said - high, 0.0)
        distance, bias = distance + abs(signed), bias + signed
        sums = [mass[a : b + 1].sum() for a, b in BANDS]
        guessed += BANDS[int(np.argmax(sums))] == (low, high)
        nll -= math.log(sums[BANDS.index((low, high))])
        certain += low90[k] <= low and high <= high90[k]
        possible += low90[k] <= high and low <= high90[k]
    assert values["band accuracy(estimate)"] == pytest.approx(hits / 4)
    assert values["band accuracy"] == pytest.approx(guessed / 4)
    assert values["band distance"] == pytest.approx(distance / 400)
    assert values["band bias"] == pytest.approx(bias / 400)
    assert values["NLL"] == pytest.approx(nll / 400)
    assert values["coverage(90%, certain)"] == pytest.approx(certain / 400)
    assert values["coverage(90%, possible)"] == pytest.approx(possible / 400)
    assert values["coverage(90%, certain)"] <= values["coverage(90%)"] <= values["coverage(90%, possible)"]
    assert "MAE" not in values
    assert found.aar is None
    assert sum(found.pit_histogram) == pytest.approx(1.0)
    groups = [(r.grouping, r.group, r.count) for r in found.results if r.grouping == "age_band"]
    assert [group for _, group, _ in groups] == ["0-9", "10-19", "20-39", "40+"]
    assert sum(count for *_, count in groups) == 400
    assert found.to_dict()["results"][0]["metrics"]["band accuracy"]["value"] == values["band accuracy"]


def test_censored_coverage_is_the_level_of_honest_distributions() -> None:
    labels, predictions = faces(3000)
    found = evaluate(predictions, labels, (), replicates=10)
    for level in (50, 80, 90):
        assert found.overall[f"coverage({level}%)"].value == pytest.approx(level / 100, abs=0.03)
    assert found.pit_histogram == pytest.approx([0.1] * 10, abs=0.03)


def test_a_table_without_distributions_is_judged_by_its_estimates() -> None:
    labels, predictions = faces(100)
    bare = Predictions(predictions.frame, None, None, "table.csv")
    found = evaluate(bare, labels, ("gender:ethnicity", "five_years"), replicates=10)
    assert found.overall["band accuracy"].value == found.overall["band accuracy(estimate)"].value
    assert set(found.overall) == {
        "band accuracy",
        "band accuracy(estimate)",
        "band distance",
        "band bias",
    }
    assert "five_years" in found.absent


def test_ages_and_bands_are_evaluated_apart() -> None:
    labels, predictions = faces(50)
    labels.loc[:9, "age"] = labels.loc[:9, "age_low"]
    with pytest.raises(InputError, match="40 images have age bands and 10 have ages"):
        evaluate(predictions, labels, (), replicates=10)


# --- comparisons


def worse(predictions: Predictions, years: float = 9.0) -> Predictions:
    """The same system, some years too old."""
    distribution = gaussian(predictions.frame["age"].to_numpy() + years, BINS, 8.0)
    frame = predictions.frame.assign(age=predictions.frame["age"] + years)
    return replace(predictions, frame=frame, distribution=distribution, source="worse.csv")


def compared(*said: Predictions) -> Comparison:
    systems = [Answers(one.source.removesuffix(".csv"), "predictions", one.source, one) for one in said]
    return compare(systems, faces()[0], ("age_band", "gender"), replicates=400)


def test_compared_by_bands_image_by_image() -> None:
    labels, right = faces()
    wrong = worse(right)
    found = compared(right, wrong)
    low = labels["age_low"].to_numpy()
    high = labels["age_high"].fillna(130).to_numpy()
    columns: dict[str, list[np.ndarray]] = {"band distance": [], "band accuracy": [], "NLL": []}
    for system in (right, wrong):
        age, mass = system.frame["age"].to_numpy(), system.distribution
        assert mass is not None
        sums = np.stack([mass[:, a : b + 1].sum(axis=1) for a, b in BANDS], axis=1)
        own = np.array([[a for a, _ in BANDS].index(a) for a in low])
        columns["band distance"].append(np.maximum(np.maximum(low - age, age - high), 0.0))
        columns["band accuracy"].append(100.0 * (sums.argmax(axis=1) == own))
        columns["NLL"].append(-np.log(sums[np.arange(len(own)), own]))
    assert found.error == "band distance"
    assert [row.metric for row in found.differences] == list(columns)
    for row in found.differences:
        expected = paired_bootstrap(*columns[row.metric], 400)
        assert row.paired.difference == pytest.approx(expected.difference)
        assert (row.paired.low, row.paired.high) == pytest.approx((expected.low, expected.high))
    assert [row["verdict"] for row in difference_rows(found)] == ["system is better"] * 3
    women = labels["gender"] == "female"
    verdict = next(verdict for verdict in found.groups if verdict.group == "female")
    assert verdict.winner == "system"
    assert verdict.errors["worse"] == pytest.approx(columns["band distance"][1][women].mean())


def test_compared_by_the_estimate_where_one_has_no_distribution() -> None:
    _, right = faces()
    found = compared(replace(right, distribution=None, bins=None), worse(right))
    assert [row.metric for row in found.differences] == ["band distance", "band accuracy(estimate)"]
    assert difference_rows(found)[1]["verdict"] == "system is better"
    bare, spread = system_rows(found)
    assert bare["band accuracy"] == ""  # that of the estimate is another figure
    assert bare["band accuracy(estimate)"] != ""
    assert spread["band accuracy"] != ""


def test_the_command_shows_what_the_differences_are_of(tmp_path: Path) -> None:
    labels, right = faces()
    labels.to_csv(tmp_path / "m.csv", index=False)
    tables = []
    for name, years in (("a", 0.0), ("b", 9.0)):
        table = right.frame[["path"]].assign(age=right.frame["age"] + years)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        tables.append(str(tmp_path / f"{name}.csv"))
    words = ["compare", *tables, "--data", str(tmp_path / "m.csv"), "--split", "all", "--by", "gender"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    (header,) = [line for line in told.output.splitlines() if line.startswith("system")]
    assert "band accuracy(estimate)" in header
    assert "band accuracy " not in header


def test_a_comparison_chooses_among_the_bands_that_an_evaluation_does() -> None:
    labels, right = faces()
    labels["split"] = np.where(labels["age_low"] == 10, "train", "test")
    flat = replace(
        right, distribution=gaussian(right.frame["age"].to_numpy() + 4, BINS, 12.0), source="b.csv"
    )
    systems = [Answers(one.source, "predictions", one.source, one) for one in (right, flat)]
    found = compare(systems, labels, (), split="test", replicates=10)
    for system, said in zip(found.systems, (right, flat), strict=True):
        alone = evaluate(said, labels, (), split="test", replicates=10)
        assert system.metrics["band accuracy"].value == alone.overall["band accuracy"].value
    gap = found.systems[0].metrics["band accuracy"].value - found.systems[1].metrics["band accuracy"].value
    assert found.differences[1].paired.difference == pytest.approx(gap)


def test_a_comparison_of_bands_is_written(tmp_path: Path) -> None:
    _, right = faces()
    write_comparison(compared(right, worse(right)), tmp_path)
    told = json.loads((tmp_path / "comparison.json").read_text())
    assert told["error"] == "band distance"
    assert {row["metric"] for row in told["differences"]} == {"band distance", "band accuracy", "NLL"}
    assert "best by band distance" in (tmp_path / "groups.csv").read_text().splitlines()[0]
    assert "band distance by group" in (tmp_path / "comparison.html").read_text()
