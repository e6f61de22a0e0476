"""Galleries: which faces of each group are shown, what stands under them, what is written."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import InputError
from agelens.evaluation.evaluate import Evaluation, evaluate_system
from agelens.evaluation.gallery import choose_faces
from agelens.reports.gallery import write_gallery


@pytest.fixture
def folder(reader_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(reader_folder, tmp_path / "reader")
    return tmp_path / "reader"


@pytest.fixture
def evaluation(folder: Path) -> Evaluation:
    lines = (folder / "other.csv").read_text().splitlines()
    errors = np.linspace(-8, 8, len(lines) - 1)  # the middle ones are the best
    ages = [float(line.partition(",")[2]) - 2 for line in lines[1:]]
    named = [line.partition(",")[0] for line in lines[1:]]
    said = [f"{name},{age + error:.2f}" for name, age, error in zip(named, ages, errors, strict=True)]
    (folder / "other.csv").write_text("\n".join(["path,age", *said]) + "\n")
    return evaluate_system(folder / "other.csv", folder / "crops" / "manifest.csv", by=())


def test_every_group_that_has_faces_is_a_row(evaluation: Evaluation) -> None:
    rows = choose_faces(evaluation, "age_band", each=2)
    ages = evaluation.ages
    assert sum(row.count for row in rows) == evaluation.images
    assert all(0 < len(row.selected) <= 2 for row in rows)
    old = next(row for row in rows if row.group == "60-74")
    assert ((ages[old.selected] >= 60) & (ages[old.selected] < 75)).all()
    again = choose_faces(evaluation, "age_band", each=2)
    other = choose_faces(evaluation, "age_band", each=2, seed=1)
    assert [row.selected.tolist() for row in rows] == [row.selected.tolist() for row in again]
    assert [row.selected.tolist() for row in rows] != [row.selected.tolist() for row in other]
    with pytest.raises(InputError, match="no value of 'gender'"):
        choose_faces(evaluation, "gender", each=2)


def test_the_best_and_the_worst(evaluation: Evaluation) -> None:
    errors = np.abs(evaluation.estimates - evaluation.ages)
    (best,), (worst,) = (choose_faces(evaluation, "all", 3, name) for name in ("best", "worst"))
    assert errors[best.selected].max() <= np.sort(errors)[2]
    assert errors[worst.selected].min() >= np.sort(errors)[-3]


def test_the_picture_the_table_and_the_faces(folder: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        [
            *("gallery", str(folder / "other.csv"), "--data", str(folder / "crops" / "manifest.csv")),
            *("--by", "age_band", "--each", "2", "--out", str(tmp_path / "out")),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "60-74: 2 of " in done.output
    with open(tmp_path / "out" / "gallery.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    paths = evaluation.labels["path"].tolist()
    for row in table:
        place = paths.index(row["path"])
        assert float(row["label"]) == pytest.approx(evaluation.ages[place])
        assert float(row["estimate"]) == pytest.approx(evaluation.estimates[place], abs=0.06)
        copy = tmp_path / "out" / row["group"] / row["path"]
        assert copy.read_bytes() == (folder / "crops" / row["path"]).read_bytes()
    assert f"{table[0]['label']} / {table[0]['estimate']}" in (tmp_path / "out" / "gallery.svg").read_text()
    with pytest.raises(InputError, match="no column 'source'"):
        write_gallery(evaluation, choose_faces(evaluation, "all", 1), tmp_path / "b", originals=True)


def test_originals_stand_above(folder: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.labels["source"] = [str(folder / "photo.jpg")] * evaluation.images
    rows = choose_faces(evaluation, "all", each=3)
    picture = write_gallery(evaluation, rows, tmp_path, originals=True)
    assert picture.is_file()
    svg = (tmp_path / "gallery.svg").read_text()
    assert svg.count("<image") == 6
