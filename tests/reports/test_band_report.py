"""The report of an evaluation on age bands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agelens.data.manifest import check_manifest
from agelens.data.predictions import Predictions
from agelens.errors import InputError
from agelens.evaluation.assurance import assure
from agelens.evaluation.evaluate import Evaluation, evaluate
from agelens.label_distribution import AgeBins, gaussian
from agelens.reports.report import report_groupings, write_report
from agelens.reports.stamp import make_stamp

BINS = AgeBins(0, 100)


def judged(distributions: bool = True) -> tuple[Evaluation, pd.DataFrame]:
    random = np.random.default_rng(0)
    low = random.choice([0, 20, 40, 60], 200)
    labels = check_manifest(
        pd.DataFrame(
            {
                "path": [f"{k}.png" for k in range(200)],
                "age_low": low,
                "age_high": low + 19,
                "gender": random.choice(["female", "male"], 200),
            }
        ),
        "m.csv",
    )
    mass = gaussian(low + random.uniform(-5, 25, 200), BINS, 4.0)
    frame = pd.DataFrame({"path": labels["path"], "age": mass @ BINS.ages, "error": "", "face": 0})
    predictions = Predictions(frame, mass if distributions else None, BINS if distributions else None, "s")
    by = report_groupings(["age_band", "gender"])
    return evaluate(predictions, labels, by, replicates=50), labels


@pytest.mark.parametrize("distributions", [True, False])
def test_a_report_on_bands_has_their_figures_and_no_page_of_ages(tmp_path: Path, distributions: bool) -> None:
    evaluation, labels = judged(distributions)
    page = write_report(tmp_path, evaluation, [], make_stamp(evaluation, labels)).read_text()
    table = json.loads((tmp_path / "report.json").read_text())
    overall = table["results"][0]["metrics"]
    assert f"{overall['band accuracy']['value']:.2f}" in page
    assert f"{overall['band distance']['value']:.2f}" in page
    for group in ("0-19", "20-39", "60-79", "female"):
        assert f">{group}</" in page
    assert ("certain" in json.dumps(table)) is distributions
    assert ("at most" in page) is distributions
    assert "MAE" not in page
    assert table["assurance"] == []


def test_age_assurance_needs_ages() -> None:
    evaluation, _ = judged()
    with pytest.raises(InputError, match="age assurance needs ages, and 200 of 200 images have age bands"):
        assure(evaluation)
