"""The table of predictions and its distributions: both ways, and what is refused."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agelens.data.prediction_columns import DISTRIBUTIONS_NAME
from agelens.data.predictions import Predictions, check_predictions, read_predictions, write_predictions
from agelens.errors import PredictionsError
from agelens.label_distribution import AgeBins, gaussian

BINS = AgeBins(0, 100)
COUNT = 240


class TestPredictionFiles:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "predictions.csv"
        path.write_text(text, encoding="utf-8")
        return path

    def test_path_and_age_suffice(self, tmp_path: Path) -> None:
        read = read_predictions(self.write(tmp_path, "path,age\na.jpg,30.5\nü b.jpg,-2\n"))
        assert read.frame["path"].tolist() == ["a.jpg", "ü b.jpg"]
        assert read.frame["age"].tolist() == [30.5, -2.0]
        assert (read.distribution, read.bins) == (None, None)

    def test_an_error_stands_for_an_age(self, tmp_path: Path) -> None:
        read = read_predictions(self.write(tmp_path, "path,age,error\na.jpg,,no face found\nb.jpg,3,\n"))
        assert math.isnan(read.frame["age"][0])
        assert read.frame["error"].tolist() == ["no face found", ""]

    def test_foreign_columns_are_kept(self, tmp_path: Path) -> None:
        read = read_predictions(self.write(tmp_path, "path,age,mood\na.jpg,3,NA\n"))
        assert read.frame["mood"].tolist() == ["NA"]

    def test_both_files_go_both_ways(self, tmp_path: Path) -> None:
        ages = np.random.default_rng(1).uniform(0, 100, COUNT)
        table = pd.DataFrame({"path": [f"{index}.png" for index in range(COUNT)], "age": ages})
        written = Predictions(check_predictions(table, "p.csv"), gaussian(ages, BINS, 6.0), BINS, "p.csv")
        assert written.distribution is not None
        written.frame.loc[3, ["age", "error"]] = [np.nan, "truncated"]
        write_predictions(written, tmp_path / "out" / "predictions.csv")
        read = read_predictions(tmp_path / "out" / "predictions.csv")
        pd.testing.assert_frame_equal(read.frame, written.frame, check_dtype=False)
        assert read.bins == BINS
        assert read.distribution is not None
        assert np.isnan(read.distribution[3]).all()
        others = np.arange(COUNT) != 3
        np.testing.assert_allclose(read.distribution[others], written.distribution[others], atol=1e-7)

    def test_several_faces_of_a_path_keep_their_distributions(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"path": ["a", "a", "b"], "age": [50.0, 20.0, 70.0], "face": [0, 1, 0]})
        mass = gaussian(frame["age"], BINS, 2.0)
        write_predictions(Predictions(check_predictions(frame, "p"), mass, BINS, "p"), tmp_path / "p.csv")
        read = read_predictions(tmp_path / "p.csv")
        np.testing.assert_allclose(read.distribution, mass, atol=1e-7)

    def test_the_order_of_the_two_files_may_differ(self, tmp_path: Path) -> None:
        table = self.write(tmp_path, "path,age\nb,20\na,50\n")
        mass = gaussian([50.0, 20.0], BINS, 2.0)
        np.savez(
            tmp_path / "other.npz",
            path=np.array(["a", "b"]),
            distribution=mass,
            age_bins=np.arange(101),
        )
        read = read_predictions(table, tmp_path / "other.npz")
        np.testing.assert_array_equal(read.distribution, mass[::-1])

    @pytest.mark.parametrize(
        ("text", "row", "column", "message"),
        [
            ("", None, None, "CSV"),
            ("path,age\n", None, None, "no rows"),
            ("file,age\na,3\n", None, "path", "missing"),
            ("path,years\na,3\n", None, "age", "missing"),
            ("path,age\na,3\n,4\n", 2, "path", "empty"),
            ("path,age\na,3\nb,old\n", 2, "age", "number"),
            ("path,age\na,inf\n", 1, "age", "number"),
            ("path,age\na,\n", 1, "age", "no age and no error"),
            ("path,age\na,3\nb,4\na,5\n", 3, "path", "twice"),
            ("path,age,face\na,3,0\na,4,0\n", 2, "path", "twice"),
            ("path,age,face\na,3,-1\n", 1, "face", "face"),
            ("path,age,face\na,3,0.5\n", 1, "face", "face"),
            ("path,age,low,high\na,3,5,4\n", 1, "low", "exceeds"),
            ("path,age,p_at_least\na,3,1.2\n", 1, "p_at_least", "probability"),
            ("path,age,x1\na,3,left\n", 1, "x1", "number"),
        ],
    )
    def test_a_broken_table_is_refused(
        self, tmp_path: Path, text: str, row: int | None, column: str | None, message: str
    ) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(PredictionsError, match=message) as caught:
            read_predictions(path)
        assert (caught.value.path, caught.value.row, caught.value.column) == (str(path), row, column)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(PredictionsError, match=r"none\.csv"):
            read_predictions(tmp_path / "none.csv")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"age_bins": np.arange(100)}, "must be"),
            ({"age_bins": np.array([0, 2, 3])}, "rise by one"),
            ({"age_bins": np.arange(-5, 96)}, "minimum"),
            ({"distribution": np.full((2, 101), 1.0)}, "sum 1"),
            ({"distribution": np.full((2, 101), np.nan)}, "sum 1"),
            ({"path": np.array(["a", "c"])}, "no distribution for row 2"),
            ({"path": np.array(["a", "b"], dtype=object)}, "cannot be read"),
            ({"distribution": None}, "distribution"),
        ],
    )
    def test_broken_distributions_are_refused(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        table = self.write(tmp_path, "path,age\na,30\nb,40\n")
        arrays: dict[str, Any] = {
            "path": np.array(["a", "b"]),
            "distribution": gaussian([30.0, 40.0], BINS, 3.0),
            "age_bins": np.arange(101),
        }
        kept = {key: value for key, value in (arrays | changes).items() if value is not None}
        np.savez(tmp_path / DISTRIBUTIONS_NAME, **kept)
        with pytest.raises(PredictionsError, match=message):
            read_predictions(table)

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half of one"])
    def test_a_damaged_archive_is_refused(self, tmp_path: Path, content: bytes) -> None:
        table = self.write(tmp_path, "path,age\na,30\n")
        (tmp_path / DISTRIBUTIONS_NAME).write_bytes(content)
        with pytest.raises(PredictionsError, match=DISTRIBUTIONS_NAME):
            read_predictions(table)

    def test_every_flipped_byte_is_refused_or_harmless(self, tmp_path: Path) -> None:
        table = self.write(tmp_path, "path,age\na,30\n")
        mass = gaussian([30.0], BINS, 3.0)
        np.savez_compressed(
            tmp_path / DISTRIBUTIONS_NAME, path=np.array(["a"]), distribution=mass, age_bins=np.arange(101)
        )
        whole = (tmp_path / DISTRIBUTIONS_NAME).read_bytes()
        refused = 0
        for position in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
            flipped = bytearray(whole)
            flipped[position] ^= 0xFF
            (tmp_path / DISTRIBUTIONS_NAME).write_bytes(flipped)
            try:
                read = read_predictions(table)
            except PredictionsError:
                refused += 1
            else:
                np.testing.assert_array_equal(read.distribution, mass)
        assert refused > 30

    def test_a_bare_array_is_refused(self, tmp_path: Path) -> None:
        table = self.write(tmp_path, "path,age\na,30\n")
        with open(tmp_path / DISTRIBUTIONS_NAME, "wb") as handle:
            np.save(handle, gaussian([30.0], BINS, 3.0))
        with pytest.raises(PredictionsError, match=DISTRIBUTIONS_NAME):
            read_predictions(table)

    def test_a_pickle_is_not_loaded(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "sprung"),)

        table = self.write(tmp_path, "path,age\na,30\n")
        np.savez(tmp_path / DISTRIBUTIONS_NAME, path=np.array([Trap()], dtype=object))
        with pytest.raises(PredictionsError):
            read_predictions(table)
        assert not (tmp_path / "sprung").exists()
