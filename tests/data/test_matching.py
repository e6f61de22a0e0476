"""Predictions meet the rows of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agelens.data.manifest import check_manifest
from agelens.data.matching import match_manifest
from agelens.data.predictions import Predictions, check_predictions
from agelens.errors import InputError, PredictionsError


class TestMatch:
    def labels(self, **columns: list[Any]) -> pd.DataFrame:
        return check_manifest(pd.DataFrame({"path": ["a", "b", "c"], "age": [1, 2, 3], **columns}), "m.csv")

    def predictions(self, source: str = "p.csv", **columns: list[Any]) -> Predictions:
        return Predictions(check_predictions(pd.DataFrame(columns), source), None, None, source)

    def test_by_path_not_by_order(self) -> None:
        match = match_manifest(self.predictions(path=["c", "./a", "b"], age=[33, 11, 22]), self.labels())
        assert match.labelled.tolist() == [0, 1, 2]
        assert match.predicted.tolist() == [1, 2, 0]

    def test_one_sided_paths_are_an_error_with_their_names(self) -> None:
        with pytest.raises(PredictionsError, match=r"2 of 3 .*: b, c; 1 predicted .*: x"):
            match_manifest(self.predictions(path=["a", "x"], age=[1, 2]), self.labels())

    def test_or_are_counted_and_named(self) -> None:
        match = match_manifest(
            self.predictions(path=["a", "x"], age=[1, 2]), self.labels(), allow_missing=True
        )
        assert (match.labelled.tolist(), match.missing, match.unknown) == ([0], ("b", "c"), ("x",))

    def test_failures_are_a_result(self) -> None:
        said = self.predictions(path=["a", "b", "c"], age=[1, None, 3], error=["", "no face found", ""])
        match = match_manifest(said, self.labels())
        assert match.labelled.tolist() == [0, 2]
        assert match.failed == (("b", "no face found"),)

    def test_the_first_face_counts(self) -> None:
        said = self.predictions(path=["a", "a", "b", "c"], age=[9, 1, 2, 3], face=[1, 0, 0, 0])
        match = match_manifest(said, self.labels())
        assert match.predicted.tolist() == [1, 2, 3]
        assert match.further_faces == 1

    def test_other_splits_are_passed_over(self) -> None:
        labels = self.labels(split=["test", "train", "test"])
        said = self.predictions(path=["a", "b", "c"], age=[1, 2, 3])
        match = match_manifest(said, labels, split="test")
        assert (match.labelled.tolist(), match.unknown) == ([0, 2], ())
        with pytest.raises(InputError, match="'val'"):
            match_manifest(said, labels, split="val")
        with pytest.raises(InputError, match="'test'"):
            match_manifest(said, self.labels(), split="test")

    def test_absolute_and_relative_paths_meet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        labels = self.labels()
        labels.attrs["root"] = tmp_path / "faces"
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path)
        said = self.predictions(
            source=str(tmp_path / "runs" / "p.csv"),
            path=[str(tmp_path / "faces" / "a"), "faces/b", "../faces/c"],
            age=[1, 2, 3],
        )
        assert match_manifest(said, labels).predicted.tolist() == [0, 1, 2]

    def test_nothing_in_common_is_an_error(self) -> None:
        with pytest.raises(PredictionsError, match="no image"):
            match_manifest(self.predictions(path=["x"], age=[1]), self.labels(), allow_missing=True)

    def test_photos_meet_the_crops_cut_from_them(self, tmp_path: Path) -> None:
        """A manifest of ``prepare`` names crops by their content; foreign predictions name the photos."""
        labels = self.labels(source=["/photos/x.jpg", "/photos/y.jpg", "/photos/deep/z.jpg"])
        said = self.predictions(path=["/photos/y.jpg", "/photos/./x.jpg", "c"], age=[2, 1, 3])
        match = match_manifest(said, labels)
        assert match.predicted.tolist() == [1, 0, 2]
        assert (match.by_source, match.by_name) == (2, 0)

    def test_a_photo_of_two_crops_is_neither_s(self) -> None:
        labels = self.labels(source=["/p/x.jpg", "/p/x.jpg", "/p/z.jpg"])
        said = self.predictions(path=["/p/x.jpg", "/p/z.jpg"], age=[1, 3])
        match = match_manifest(said, labels, allow_missing=True)
        assert (match.labelled.tolist(), match.missing, match.unknown) == ([2], ("a", "b"), ("/p/x.jpg",))

    def test_file_names_that_occur_once_meet(self) -> None:
        labels = self.labels(source=["/p/x.jpg", "/p/y.jpg", "/q/z.jpg"])
        said = self.predictions(
            path=["/elsewhere/x.jpg", "y.jpg", "u/z.jpg", "v/z.jpg"], age=[1, 2, 3, 4], face=[0, 0, 0, 0]
        )
        match = match_manifest(said, labels, allow_missing=True)
        assert match.labelled.tolist() == [0, 1]
        assert (match.by_source, match.by_name) == (0, 2)
        assert match.unknown == ("u/z.jpg", "v/z.jpg")  # two predictions of one name are no match
        twice = self.labels(source=["/p/x.jpg", "/q/x.jpg", "/q/z.jpg"])
        with pytest.raises(PredictionsError, match=r"2 of 3 .*: a, b; 1 predicted"):
            match_manifest(self.predictions(path=["x.jpg", "z.jpg"], age=[1, 3]), twice)

    def test_the_surer_way_wins(self) -> None:
        labels = self.labels(source=["/p/b", "/p/c", "/p/d"])
        said = self.predictions(path=["a", "b", "c"], age=[1, 2, 3])
        match = match_manifest(said, labels)
        assert match.predicted.tolist() == [0, 1, 2]
        assert (match.by_source, match.by_name) == (0, 0)

    def test_further_faces_of_a_photo_are_counted_once_matched(self) -> None:
        labels = self.labels(source=["/p/x.jpg", "/p/y.jpg", "/p/z.jpg"])
        said = self.predictions(
            path=["/p/x.jpg", "/p/x.jpg", "/p/y.jpg", "/p/z.jpg"], age=[9, 1, 2, 3], face=[2, 1, 1, 1]
        )
        match = match_manifest(said, labels)
        assert match.predicted.tolist() == [1, 2, 3]
        assert (match.further_faces, match.by_source) == (1, 3)
