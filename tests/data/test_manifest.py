from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agelens.data.manifest import (
    COLUMNS,
    band_text,
    check_manifest,
    image_paths,
    inspect_manifest,
    is_band,
    label_bounds,
    read_manifest,
    write_manifest,
)
from agelens.errors import ManifestError, MissingExtraError, OutputError

DIGEST = "0123456789abcdef" * 4


def full_table() -> pd.DataFrame:
    """Every column of the contract, filled in one row and empty in the other."""
    filled = {
        "path": 'a,"b"\n/ü.jpg',
        "age": 0.1 + 0.2,
        "age_std": 1 / 3,
        "age_low": 0.0,
        "age_high": 9.0,
        "subject": "001",
        "gender": "female",
        "ethnicity": "Asian",
        "pose": -12.5,
        "split": "train",
        "box": "1 2 3.5 4.5",
        "landmarks": "1 2 3 4 5 6 7 8 9 10.25",
        "digest": DIGEST,
        "alignment": "eyes",
        "note": "NA",
        "dataset": "utkface",
        "labels": "estimated",
    }
    empty = {name: np.nan if name in ("age_std", "age_low", "age_high", "pose") else "" for name in filled}
    return pd.DataFrame([filled, {**empty, "path": "b.jpg", "age": 7}])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_round_trip_loses_nothing(tmp_path: Path, suffix: str) -> None:
    table = full_table()
    assert set(table.columns) == set(COLUMNS)
    table["camera"] = ["007", ""]
    path = tmp_path / f"m{suffix}"
    write_manifest(table, path)
    back = read_manifest(path)
    pd.testing.assert_frame_equal(back, check_manifest(table, path), check_exact=True, check_dtype=False)
    assert back["subject"].tolist() == ["001", ""]
    assert back["note"].tolist() == ["NA", ""]
    assert back["camera"].tolist() == ["007", ""]
    assert back.attrs == {"root": tmp_path, "path": path}


def test_a_name_that_is_no_utf8_survives(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_manifest(pd.DataFrame({"path": [name], "age": [3]}, dtype=object), tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv")["path"].tolist() == [name]


def test_path_and_age_suffice_and_byte_order_mark_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbfpath,age\r\na.jpg, 31.5\r\n\r\nsub/b.jpg,2\r\n")
    table = read_manifest(path)
    assert table["age"].tolist() == [31.5, 2.0]
    assert image_paths(table) == [tmp_path / "a.jpg", tmp_path / "sub/b.jpg"]


def test_absolute_paths_stay_and_relative_ones_follow_the_manifest(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a.jpg", "/elsewhere/b.jpg"], "age": [1, 2]})
    table.attrs["root"] = tmp_path / "images"
    write_manifest(table, tmp_path / "manifests" / "m.csv")
    back = read_manifest(tmp_path / "manifests" / "m.csv")
    assert back["path"].tolist() == ["../images/a.jpg", "/elsewhere/b.jpg"]
    assert [p.resolve() for p in image_paths(back)] == [
        tmp_path / "images" / "a.jpg",
        Path("/elsewhere/b.jpg"),
    ]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("age", "young", "not a number"),
        ("age", "1_0", "not a number"),
        ("age", "-1", "negative"),
        ("age", "131", "above 130"),
        ("age", "", "missing"),
        ("age", np.nan, "missing"),
        ("age", "nan", "finite"),
        ("age", "inf", "finite"),
        ("age_std", "-0.5", "negative"),
        ("age_low", "-1", "negative"),
        ("age_low", "2.5", "whole number"),
        ("age_high", "131", "above 130"),
        ("age_high", "9", "needs age_low"),
        ("pose", "left", "not a number"),
        ("path", "", "empty"),
        ("path", "a.jpg", "already in row 1"),
        ("gender", "0", "male, female"),
        ("split", "validation", "train, val, test"),
        ("alignment", "none", "landmarks, eyes"),
        ("box", "1 2 3", "4 numbers"),
        ("box", "1 2 3 x", "4 numbers"),
        ("box", "3 2 1 4", "x1 < x2"),
        ("landmarks", "1 2 3 4 5 6 7 8 9", "10 numbers"),
        ("landmarks", "1 2 3 4 5 6 7 8 9 nan", "10 numbers"),
        ("digest", "ABC", "sha256"),
    ],
)
def test_a_bad_value_is_named_with_its_place(tmp_path: Path, column: str, value: object, reason: str) -> None:
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "age": ["4", "5"]}, dtype=object)
    table[column] = [table[column][0] if column in table else "", value]
    with pytest.raises(ManifestError, match=reason) as caught:
        check_manifest(table, tmp_path / "m.csv")
    assert (caught.value.path, caught.value.row, caught.value.column) == (str(tmp_path / "m.csv"), 2, column)
    assert caught.value.value == value or (value != value and caught.value.value != caught.value.value)
    with pytest.raises(ManifestError):
        write_manifest(table, tmp_path / "m.csv")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_repeated_columns_and_no_rows() -> None:
    with pytest.raises(ManifestError, match="found: path, years") as caught:
        check_manifest(pd.DataFrame({"path": ["a"], "years": [1]}), "m.csv")
    assert caught.value.column == "age"
    with pytest.raises(ManifestError, match="more than once"):
        check_manifest(pd.DataFrame([["a", 1, 2]], columns=["path", "age", "age"]), "m.csv")
    with pytest.raises(ManifestError, match="no rows"):
        check_manifest(pd.DataFrame({"path": [], "age": []}), "m.csv")


@pytest.mark.parametrize(
    ("name", "content", "reason", "row"),
    [
        ("m.csv", b"", "empty", None),
        ("m.csv", b"path,age\n", "no rows", None),
        ("m.csv", b"path,age\na.jpg,1\nb.jpg,2,3\n", "3 fields under 2 columns", 2),
        ("m.csv", b'path,age\na.jpg,1\n"b"x,2\n', "not a CSV", 2),
        ("m.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0", None, None),
        ("m.parquet", b"path,age\na.jpg,1\n", "not a Parquet table", None),
        ("m.txt", b"path,age\na.jpg,1\n", "ends in .csv or .parquet", None),
    ],
)
def test_a_file_that_is_no_manifest(
    tmp_path: Path, name: str, content: bytes, reason: str | None, row: int | None
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=reason) as caught:
        read_manifest(tmp_path / name)
    assert caught.value.row == row


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for name in ("no.csv", "no.parquet"):
        with pytest.raises(ManifestError, match="No such file"):
            read_manifest(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ManifestError, match="Is a directory"):
        read_manifest(tmp_path / "folder.csv")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[report\]"):
        read_manifest(tmp_path / "m.parquet")
    with pytest.raises(MissingExtraError):
        write_manifest(pd.DataFrame({"path": ["a"], "age": [1]}), tmp_path / "n.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"m{suffix}"
    write_manifest(pd.DataFrame({"path": ["old.jpg"], "age": [1]}), path)

    def full(self: pd.DataFrame, target: Path, *args: object, **settings: object) -> None:
        Path(target).write_bytes(b"path,a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OutputError, match="No space left"):
        write_manifest(pd.DataFrame({"path": ["new.jpg"], "age": [1]}), path)
    assert read_manifest(path)["path"].tolist() == ["old.jpg"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_column_parquet_cannot_hold(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a", "b"], "age": [1, 2], "mixed": [1, "one"]})
    with pytest.raises(OutputError, match="mixed"):
        write_manifest(table, tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []


def test_inspection_lists_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,age,gender\na.jpg,-1,male\na.jpg,old,man\nc.jpg,40,\n")
    table, problems = inspect_manifest(path)
    assert sorted((p.row, p.column) for p in problems) == [(1, "age"), (2, "age"), (2, "gender"), (2, "path")]
    assert table["age"].isna().tolist() == [True, True, False]


def test_the_checked_table_is_a_copy() -> None:
    table = pd.DataFrame({"path": ["a"], "age": ["5"], "note": [None]}, index=[9])
    checked = check_manifest(table, "m.csv")
    assert table["age"].tolist() == ["5"]
    assert checked.index.tolist() == [0]
    assert checked["note"].tolist() == [""]


BANDS = ("path", "age", "age_std", "age_low", "age_high")


def banded(*row: object) -> pd.DataFrame:
    """A good band and one more row."""
    return pd.DataFrame([("a.jpg", "", "", "20", "29"), ("b.jpg", *row)], columns=BANDS, dtype=object)


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [
        (("", "", "29", "20"), "age_low", "29", "reversed: age_low 29 is above age_high 20"),
        (("30", "", "20", "29"), "age", "30", "outside the row's band 20-29"),
        (("19.9", "", "20", "29"), "age", "19.9", "outside the row's band 20-29"),
        (("69", "", "70", ""), "age", "69", r"outside the row's band 70\+"),
        (("", "3", "20", "29"), "age_std", "3", "a deviation belongs to an age"),
        (("", "", "", ""), "age", "", "the age is missing, and so is the band"),
        (("", "2", "", ""), "age", "", "the age is missing, and so is the band"),
    ],
)
def test_a_row_has_one_label(
    tmp_path: Path, row: tuple[str, ...], column: str, value: str, reason: str
) -> None:
    with pytest.raises(ManifestError, match=reason) as caught:
        check_manifest(banded(*row), tmp_path / "m.csv")
    found = caught.value
    assert (found.path, found.row, found.column, found.value) == (str(tmp_path / "m.csv"), 2, column, value)


def test_bands_need_no_column_age_and_an_open_one_no_end(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,age_low,age_high\na.jpg,0,2\nb.jpg,70,\n")
    table = read_manifest(path)
    assert table["age"].isna().all()
    assert is_band(table).tolist() == [True, True]
    assert label_bounds(table).tolist() == [[0, 2], [70, 130]]
    write_manifest(table, path)
    pd.testing.assert_frame_equal(read_manifest(path), table, check_exact=True)


def test_an_age_inside_its_band_is_exact_and_a_deviation_belongs_to_it() -> None:
    table = check_manifest(banded("29.9", "2", "20", "29"), "m.csv")
    assert is_band(table).tolist() == [True, False]
    assert label_bounds(table).tolist() == [[20, 29], [29.9, 29.9]]
    assert is_band(table[["path", "age"]]).tolist() == [False, False]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(20, 29, "20-29"), (70, np.nan, "70+"), (70, 130, "70+"), (25, 25, "25"), (25.5, 25.5, "25.5")],
)
def test_labels_in_words(low: float, high: float, text: str) -> None:
    assert band_text(low, high) == text
