"""The adapters on miniatures with the sets' true names and dirt, and on the sets themselves."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from agelens.apps import cli
from agelens.data.adapt import read_dataset
from agelens.data.audit import KINDS, audit
from agelens.data.datasets import DATASETS, dataset_guide, dataset_settings
from agelens.data.datasets.fairface import ETHNICITIES, parse_band
from agelens.data.datasets.fgnet import FIVE_OF_68, read_points
from agelens.data.datasets.imdb_wiki import ages_from_dates
from agelens.data.datasets.utkface import SPLIT_DIGEST, parse_name
from agelens.data.manifest import image_paths, label_bounds, read_manifest, write_manifest
from agelens.data.splits import content_split, split_digest
from agelens.errors import InputError, ManifestError


def save_scene(path: Path, seed: int, **settings: int) -> None:
    random = np.random.default_rng(seed)
    total = np.zeros((200, 200, 3))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((200, 200), Image.Resampling.BICUBIC), dtype=np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((total / 4).astype(np.uint8)).save(path, "JPEG", **settings)


def test_the_registry_is_in_order() -> None:
    assert list(DATASETS) == sorted(DATASETS)
    assert {"fairface", "folders", "table", "utkface"} <= set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_tells_how_to_get_it(name: str) -> None:
    guide = dataset_guide(name)
    assert ": " in guide.splitlines()[0]
    assert "Owner" in guide
    assert "erms" in guide
    assert "Layout" in guide
    assert all(f"``{setting}``" in guide for setting in dataset_settings(name))


@pytest.mark.parametrize(
    ("name", "age", "gender", "ethnicity", "problem"),
    [
        ("100_0_0_20170112213500903.jpg.chip.jpg", 100, "male", "White", ""),
        ("1_1_4_20161219140623097.jpg.chip.jpg", 1, "female", "Other", ""),
        ("14_0_0_2017011022340900.jpg.chip.jpg", 14, "male", "White", ""),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 24, "male", "Black", "the end is not"),
        ("55_0_0_20170116232725357jpg.chip.jpg", 55, "male", "White", "the end is not"),
        ("39_1_20170116174525125.jpg.chip.jpg", 39, "", "", "1 of the two fields"),
        ("53__0_20170116184028385.jpg.chip.jpg", 53, "", "White", "no code for gender"),
        ("20_3_9_20170116184028385.jpg.chip.jpg", 20, "", "", "no code for gender and ethnicity"),
        ("7_0_1_2_20170116184028385.jpg.chip.jpg", 7, "", "", "3 of the two fields"),
        ("holiday.jpg", None, None, None, "no age"),
        ("-3_0_0_20170116184028385.jpg.chip.jpg", None, None, None, "no age"),
    ],
)
def test_utkface_names(
    name: str, age: int | None, gender: str | None, ethnicity: str | None, problem: str
) -> None:
    labels, found = parse_name(name)
    assert (labels.get("age"), labels.get("gender"), labels.get("ethnicity")) == (age, gender, ethnicity)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    """Alone, two byte copies of one age, a re-saved near copy, two byte copies of two ages, and dirt."""
    folder = tmp_path / "UTKFace"
    save_scene(folder / "30_0_0_20170101000000000.jpg.chip.jpg", 1)
    save_scene(folder / "40_1_1_20170101000000001.jpg.chip.jpg", 2)
    shutil.copy(
        folder / "40_1_1_20170101000000001.jpg.chip.jpg", folder / "40_1_1_20170101000000002.jpg.chip.jpg"
    )
    save_scene(folder / "41_1_1_20170101000000003.jpg.chip.jpg", 2, quality=40)
    save_scene(folder / "24_0_2_20170101000000004.jpg.chip.jpg", 3)
    shutil.copy(
        folder / "24_0_2_20170101000000004.jpg.chip.jpg", folder / "37_0_2_20170101000000005.jpg.chip.jpg"
    )
    save_scene(folder / "61_1_20170109142408075.jpg.chip.jpg", 4)
    save_scene(folder / "200_1_0_20170109142408075.jpg.chip.jpg", 5)
    save_scene(folder / "holiday.jpg", 6)
    (folder / "5_1_3_20170101000000006.jpg.chip.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / ".DS_Store").write_bytes(b"")
    return folder


def test_utkface_miniature(chips: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    table = read_dataset("utkface", chips, workers=2, progress=lambda *call: calls.append(call))
    assert calls[-1] == (8, 8)
    rows = table.set_index("path")
    assert rows["note"].to_dict() == {
        "24_0_2_20170101000000004.jpg.chip.jpg": (
            "conflicting ages 24/37 with 37_0_2_20170101000000005.jpg.chip.jpg"
        ),
        "30_0_0_20170101000000000.jpg.chip.jpg": "",
        "37_0_2_20170101000000005.jpg.chip.jpg": (
            "conflicting ages 24/37 with 24_0_2_20170101000000004.jpg.chip.jpg"
        ),
        "40_1_1_20170101000000001.jpg.chip.jpg": "",
        "40_1_1_20170101000000002.jpg.chip.jpg": "copy of 40_1_1_20170101000000001.jpg.chip.jpg",
        "41_1_1_20170101000000003.jpg.chip.jpg": "near copy of 40_1_1_20170101000000001.jpg.chip.jpg",
        "5_1_3_20170101000000006.jpg.chip.jpg": rows["note"]["5_1_3_20170101000000006.jpg.chip.jpg"],
        "61_1_20170109142408075.jpg.chip.jpg": "",
    }
    assert rows["note"]["5_1_3_20170101000000006.jpg.chip.jpg"].startswith("unreadable: ")
    assert (rows["split"] == "").tolist() == (rows["note"] != "").tolist()
    used = rows[rows["split"] != ""]
    pair = rows["digest"][["40_1_1_20170101000000001.jpg.chip.jpg", "41_1_1_20170101000000003.jpg.chip.jpg"]]
    keys = [min(pair) if digest in set(pair) else digest for digest in used["digest"]]
    assert used["split"].tolist() == content_split(keys)
    assert sorted((p.kind, p.paths[0]) for p in table.attrs["problems"]) == [
        ("impossible-age", "200_1_0_20170109142408075.jpg.chip.jpg"),
        ("malformed-name", "61_1_20170109142408075.jpg.chip.jpg"),
        ("malformed-name", "holiday.jpg"),
        ("unreadable", "5_1_3_20170101000000006.jpg.chip.jpg"),
    ]
    write_manifest(table, tmp_path / "m.csv")
    back = read_manifest(tmp_path / "m.csv")
    assert split_digest(back) == split_digest(table)
    assert all(path.is_file() for path in image_paths(back))


def test_a_chip_keeps_its_side_whatever_its_name_and_company(chips: Path) -> None:
    before = read_dataset("utkface", chips).set_index("digest")["split"]
    (chips / "30_0_0_20170101000000000.jpg.chip.jpg").rename(chips / "99_0_0_20170101000000000.jpg.chip.jpg")
    for seed in range(20, 25):
        save_scene(chips / f"{seed}_0_0_20180101000000000.jpg.chip.jpg", seed)
    after = read_dataset("utkface", chips).set_index("digest")["split"]
    alone = before[~before.index.duplicated(keep=False)]
    assert after[alone.index].to_dict() == alone.to_dict()


def test_names_alone_need_no_image(chips: Path) -> None:
    for chip in chips.iterdir():
        chip.write_bytes(b"")
    table = read_dataset("utkface", chips, content=False)
    assert list(table.columns) == ["path", "age", "gender", "ethnicity", "dataset", "labels"]
    assert len(table) == 8


@pytest.mark.parametrize("name", DATASETS)
def test_a_folder_of_something_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_dataset(name, tmp_path / "none")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").touch()
    with pytest.raises(InputError, match=f"{tmp_path}: no "):
        read_dataset(name, tmp_path)


def write_points(path: Path, points: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = "\n".join(f"{x} {y}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{lines}\n}}\n")


def test_fgnet_miniature(tmp_path: Path) -> None:
    points = np.arange(136).reshape(68, 2) + 0.25
    for name in ("001A02", "001A43a", "082A16"):
        save_scene(tmp_path / "images" / f"{name}.JPG", len(name))
        write_points(tmp_path / "points" / f"{name.lower()}.pts", points)
    save_scene(tmp_path / "images" / "002A05.JPG", 9)
    save_scene(tmp_path / "images" / "003A05.JPG", 9)
    write_points(tmp_path / "points" / "003a05.pts", points[:67])
    save_scene(tmp_path / "images" / "family.JPG", 9)
    (tmp_path / "images" / "004A10.JPG").write_bytes(b"")
    write_points(tmp_path / "points" / "004a10.pts", points)
    (tmp_path / "images" / "Thumbs.db").touch()
    table = read_dataset("fgnet", tmp_path)
    assert table[["path", "subject", "age"]].values.tolist() == [
        ["images/001A02.JPG", "001", 2.0],
        ["images/001A43a.JPG", "001", 43.0],
        ["images/002A05.JPG", "002", 5.0],
        ["images/003A05.JPG", "003", 5.0],
        ["images/004A10.JPG", "004", 10.0],
        ["images/082A16.JPG", "082", 16.0],
    ]
    five = np.array(table["landmarks"][0].split(), dtype=float).reshape(5, 2)
    np.testing.assert_array_equal(five, points[list(FIVE_OF_68)])
    assert table["landmarks"].tolist().count("") == 2
    assert table["digest"][2] == table["digest"][3]
    assert [(p.kind, p.paths) for p in table.attrs["problems"]] == [
        ("missing-points", ("images/002A05.JPG",)),
        ("bad-points", ("images/003A05.JPG",)),
        ("malformed-name", ("images/family.JPG",)),
        ("unreadable", ("images/004A10.JPG",)),
    ]
    assert "67 points, not 68" in table.attrs["problems"][1].detail


@pytest.mark.parametrize("content", [b"", b"{ 1 2 }", b"version: 1\n{\n1 two\n}\n", b"\xff\xfe\0"])
def test_damaged_points(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pts").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pts"):
        read_points(tmp_path / "a.pts")
    with pytest.raises(InputError, match="No such file"):
        read_points(tmp_path / "none.pts")


def test_real_fgnet(shared: Path) -> None:
    table = read_dataset("fgnet", shared / "data" / "FG-NET", content=False)
    assert (len(table), table["subject"].nunique()) == (1002, 82)
    assert (table["age"].min(), table["age"].max()) == (0, 69)
    assert table.attrs["problems"] == []
    points = np.array([text.split() for text in table["landmarks"]], dtype=float).reshape(-1, 5, 2)
    eyes, nose, mouth = points[:, :2], points[:, 2], points[:, 3:]
    assert (eyes[:, :, 1].max(axis=1) < mouth[:, :, 1].min(axis=1)).all()
    assert (eyes[:, 0, 0] < eyes[:, 1, 0]).all()
    assert (mouth[:, 0, 0] < mouth[:, 1, 0]).all()
    assert (eyes[:, :, 1].min(axis=1) < nose[:, 1]).all()
    assert (nose[:, 1] < mouth[:, :, 1].max(axis=1)).all()
    # Frontal enough on the whole: the nose lies between the eyes, half-way on average.
    place = (nose[:, 0] - eyes[:, 0, 0]) / (eyes[:, 1, 0] - eyes[:, 0, 0])
    assert np.median(place) == pytest.approx(0.5, abs=0.05)


def test_real_utkface_names(shared: Path) -> None:
    table = read_dataset("utkface", shared / "data" / "UTKFace", content=False)
    assert len(table) == 21351
    assert (table["age"].min(), table["age"].max()) == (1, 116)
    assert (table["age"] > 100).sum() == 19
    assert [(p.kind, p.paths[0][:21]) for p in table.attrs["problems"]] == [
        ("malformed-name", "24_0_1_20170116220224"),
        ("malformed-name", "39_1_2017011617452512"),
        ("malformed-name", "55_0_0_20170116232725"),
        ("malformed-name", "61_1_2017010914240807"),
        ("malformed-name", "61_1_2017010915055733"),
    ]
    assert (table["gender"] == "").sum() == (table["ethnicity"] == "").sum() == 3


@pytest.mark.slow
def test_utkface_v1_is_frozen(shared: Path) -> None:
    table = read_dataset("utkface", shared / "data" / "UTKFace")
    assert table["split"].value_counts().to_dict() == {"train": 15978, "test": 2016, "val": 1986, "": 1371}
    notes = table["note"].str.split().str[0].value_counts().to_dict()
    assert notes == {"conflicting": 1012, "near": 221, "copy": 138}
    assert split_digest(table) == SPLIT_DIGEST
    used = table[table["split"] != ""]
    assert used["digest"].is_unique


# --- the data sets that nobody may pass on: miniatures with their true names and dirt


def save_face(path: Path, shade: int = 90, size: tuple[int, int] = (24, 30)) -> None:
    """A small picture, not square, of bytes of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade % 256, 3 * shade % 256, 7 * shade % 256)).save(path)


def findings(table: pd.DataFrame) -> list[tuple[str, tuple[str, ...]]]:
    found = table.attrs["problems"]
    assert {finding.kind for finding in found} <= set(KINDS)
    return [(finding.kind, finding.paths) for finding in found]


def cells(texts: list[Any]) -> np.ndarray:
    """A MATLAB cell array, 1 x N."""
    array = np.empty((1, len(texts)), dtype=object)
    array[0] = texts
    return array


def matlab_day(year: int, month: int, day: int) -> int:
    return date(year, month, day).toordinal() + 366


IMDB_ROWS: list[tuple[str, float, float, float, float, float, int]] = [
    # path, date of birth, year taken, gender, face score, second face score, person
    ("01/nm0000001_rm124825600_1899-5-10_1968.jpg", matlab_day(1899, 5, 10), 1968, 1, 1.46, np.nan, 6488),
    ("02/nm0000002_rm1_1950-7-1_1990.jpg", matlab_day(1950, 7, 1), 1990, 0, 3.0, np.nan, 17),
    ("02/nm0000002_rm2_1950-7-2_1990.jpg", matlab_day(1950, 7, 2), 1990, np.nan, 3.0, np.nan, 17),
    ("03/nm0000003_rm1_1930-1-1_1990.jpg", matlab_day(1930, 1, 1), 1990, 1, -np.inf, np.nan, 18),
    ("03/nm0000003_rm2_1930-1-1_1991.jpg", matlab_day(1930, 1, 1), 1991, 1, 2.0, 1.7, 18),
    ("04/nm0000004_rm1_0-0-0_1990.jpg", 0, 1990, 1, 2.0, np.nan, 19),
    ("04/nm0000004_rm2_1990-1-1_1950.jpg", matlab_day(1990, 1, 1), 1950, 1, 2.0, np.nan, 19),
    ("05/nm0000005_rm1_1880-1-1_1995.jpg", matlab_day(1880, 1, 1), 1995, 1, 2.0, np.nan, 20),
    ("06/nm0000006_rm1_1960-1-1_1990.jpg", matlab_day(1960, 1, 1), 1990, 1, 2.0, np.nan, 21),
    ("02/nm0000002_rm1_1950-7-1_1990.jpg", matlab_day(1950, 7, 1), 1990, 0, 3.0, np.nan, 17),
]
MISSING = "06/nm0000006_rm1_1960-1-1_1990.jpg"


def write_imdb(folder: Path, half: str = "imdb", **changed: Any) -> Path:
    paths, births, years, genders, scores, seconds, people = zip(*IMDB_ROWS, strict=True)
    for number, path in enumerate(paths):
        if path != MISSING:
            save_face(folder / path, number)
    fields: dict[str, Any] = {
        "dob": np.array([births], dtype=np.int32),
        "photo_taken": np.array([years], dtype=np.uint16),
        "full_path": cells(list(paths)),
        "gender": np.array([genders], dtype=float),
        "name": cells([f"Name {person}" for person in people]),
        "face_location": cells([np.array([[1.0, 2.0, 13.5, 20.0]])] * len(paths)),
        "face_score": np.array([scores], dtype=float),
        "second_face_score": np.array([seconds], dtype=float),
        "celeb_id": np.array([people], dtype=float),
        **changed,
    }
    record = {name: value for name, value in fields.items() if value is not None}
    savemat(folder / f"{half}.mat", {half: record}, oned_as="row")
    return folder


def test_imdb_wiki_miniature(tmp_path: Path) -> None:
    write_imdb(tmp_path / "imdb_crop")
    write_imdb(tmp_path / "wiki_crop", "wiki", celeb_id=None)
    table = read_dataset("imdb_wiki", tmp_path)
    assert len(table) == 6
    imdb = table[table["path"].str.startswith("imdb_crop/")]
    assert imdb[["path", "age", "gender", "subject"]].values.tolist() == [
        ["imdb_crop/01/nm0000001_rm124825600_1899-5-10_1968.jpg", 69.0, "male", "imdb-6488"],
        ["imdb_crop/02/nm0000002_rm1_1950-7-1_1990.jpg", 40.0, "female", "imdb-17"],
        ["imdb_crop/02/nm0000002_rm2_1950-7-2_1990.jpg", 39.0, "", "imdb-17"],
    ]
    assert table["subject"].tolist()[3:] == ["wiki-Name 6488", "wiki-Name 17", "wiki-Name 17"]
    assert "box" not in table
    assert table["digest"].str.len().eq(64).all()
    found = [
        (kind, tuple(path.rpartition("/")[2] for path in paths))
        for kind, paths in findings(table)
        if paths[0].startswith("imdb")
    ]
    assert sorted(found) == [
        ("bad-value", ("nm0000002_rm1_1950-7-1_1990.jpg",)),
        ("bad-value", ("nm0000003_rm1_1930-1-1_1990.jpg",)),
        ("bad-value", ("nm0000003_rm2_1930-1-1_1991.jpg",)),
        ("bad-value", ("nm0000005_rm1_1880-1-1_1995.jpg",)),
        ("impossible-age", ("nm0000004_rm1_0-0-0_1990.jpg",)),
        ("impossible-age", ("nm0000004_rm2_1990-1-1_1950.jpg",)),
        ("missing-file", ("nm0000006_rm1_1960-1-1_1990.jpg",)),
    ]
    assert read_manifest_back(table, tmp_path / "m.csv")["age"].tolist() == table["age"].tolist()


def read_manifest_back(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    write_manifest(table, path)
    back = read_manifest(path)
    assert all(image.is_file() for image in image_paths(back))
    return back


def test_imdb_wiki_settings_and_whole_photographs(tmp_path: Path) -> None:
    write_imdb(tmp_path / "imdb")
    settings = {"minimum_face_score": -np.inf, "allow_second_face": True, "maximum_age": 120}
    loose = read_dataset("imdb_wiki", tmp_path, settings, content=False)
    assert loose["age"].tolist() == [69, 40, 39, 60, 61, 115]
    assert set(loose["box"]) == {"1 2 13.5 20"}
    young = read_dataset("imdb_wiki", tmp_path / "imdb", {"maximum_age": 39}, content=False)
    assert young["age"].tolist() == [39]
    assert read_dataset("imdb-wiki", tmp_path, {"minimum_age": 50})["age"].tolist() == [69]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"minimum_face": 1}, "no setting 'minimum_face'; it has minimum_face_score"),
        ({"minimum_age": "old"}, "'minimum_age' of imdb_wiki is of type int"),
        ({"allow_second_face": 1}, "type bool"),
        ({"minimum_face_score": float("nan")}, "type float"),
        ({"maximum_age": float("nan")}, "type int"),
    ],
)
def test_settings_are_checked(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_dataset("imdb_wiki", tmp_path, settings)
    with pytest.raises(InputError, match="no data set 'imdb'"):
        read_dataset("imdb", tmp_path)


def test_dates_make_ages_as_a_loop_does() -> None:
    random = np.random.default_rng(3)
    births = [date.fromordinal(int(day)) for day in random.integers(660_000, 735_000, 300)]
    births += [date(1988, 2, 29), date(1988, 7, 1), date(1988, 7, 2), date(1800, 1, 1)]
    years = random.integers(1950, 2016, len(births))
    expected = [y - b.year - ((b.month, b.day) > (7, 1)) for b, y in zip(births, years, strict=True)]
    days = np.array([b.toordinal() + 366.0 for b in births])
    np.testing.assert_array_equal(ages_from_dates(days, years.astype(float)), expected)
    wrong = np.array([0.0, 1.0, -5.0, np.nan, np.inf, 1e12, matlab_day(1799, 12, 31)])
    assert np.isnan(ages_from_dates(wrong, np.full(7, 2000.0))).all()
    assert np.isnan(ages_from_dates(np.array([725000.0]), np.array([np.nan]))).all()


def test_mat_files_that_are_not_the_owners(tmp_path: Path) -> None:
    path = tmp_path / "imdb.mat"
    # What MATLAB writes with -v7.3: a header of 128 bytes with version 0x0200, then HDF5.
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n".ljust(600))
    with pytest.raises(InputError, match=r"imdb\.mat: a \.mat file of version 7\.3"):
        read_dataset("imdb_wiki", tmp_path)
    for content in (b"", b"no table", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"imdb\.mat: not the owner's"):
            read_dataset("imdb_wiki", tmp_path)
    savemat(path, {"wiki": {"dob": 1}})
    with pytest.raises(InputError, match="not the owner's MATLAB 5 table 'imdb'"):
        read_dataset("imdb_wiki", tmp_path)
    write_imdb(tmp_path, face_score=None)
    with pytest.raises(InputError, match="no field 'face_score'"):
        read_dataset("imdb_wiki", tmp_path)
    write_imdb(tmp_path, gender=np.array([[1.0, 0.0]]))
    with pytest.raises(InputError, match="2 values of 'gender' for 10"):
        read_dataset("imdb_wiki", tmp_path)
    for field, value in (
        ("dob", cells(["1950"] * 10)),
        ("gender", "m" * 10),
        ("photo_taken", np.full((1, 10), 1990 + 1j)),
        ("celeb_id", cells(["q"] * 10)),
    ):
        write_imdb(tmp_path, **{field: value, "name": None})
        with pytest.raises(InputError, match=rf"imdb\.mat: (the field|\d+ values of) '{field}'"):
            read_dataset("imdb_wiki", tmp_path)
    write_imdb(tmp_path, celeb_id=np.array([[1.0, 2.0]]))
    with pytest.raises(InputError, match="2 values of 'celeb_id' for 10"):
        read_dataset("imdb_wiki", tmp_path)


def test_imdb_wiki_faces_without_a_box_or_a_person(tmp_path: Path) -> None:
    boxes = [np.array([[1.0, 2.0, 13.5, 20.0]])] * 10
    boxes[1] = np.array([[5.0, 5.0, 5.0, 5.0]])
    write_imdb(tmp_path, face_location=cells(boxes), celeb_id=np.array([[6488.0, *[np.nan] * 9]]))
    table = read_dataset("imdb_wiki", tmp_path)
    assert table["subject"].tolist() == ["imdb-6488", *[""] * (len(table) - 1)]
    assert table["box"].tolist() == ["1 2 13.5 20", "", *["1 2 13.5 20"] * (len(table) - 2)]
    (told,) = [finding for finding in table.attrs["problems"] if "face_location" in finding.detail]
    assert (told.kind, told.paths) == ("bad-value", (IMDB_ROWS[1][0],))


MORPH_HEADER = "id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,glasses,photo"
MORPH_ROWS = """\
009055,0,1951-08-09,2003-05-27,W,M,NONE,51,0,NULL,Album2/009055_0M51.JPG
009055,1,1951-08-09,2006-01-02,W,M,NONE,54,3,NULL,Album2/009055_1M54.JPG
12345,0,02/03/1980,02/02/2004,B,F,,23,0,,Album2\\012345_00F23.JPG
012345,1,1979-02-03,2005-03-03,H,F,,26,3,,Album2/012345_01F26.JPG
012345,1,1979-02-03,2005-03-03,H,F,,26,3,,Album2/012345_01F26.JPG
020000,0,1970-01-01,2005-01-02,A,M,,35,0,,Album2/020000_0M36.JPG
020001,0,0000-00-00,2005-01-02,U,M,,35,0,,Album2/020001_0M35.JPG
020002,0,2006-01-01,2005-01-02,O,X,,40,0,,Album2/020002_0M40.JPG
020003,0,1970-01-01,2005-01-02,W,M,,-35,0,,Album2/020003_0M35.JPG
020004,0,1970-01-01,2005-01-02,W,M,,35,0,,Album2/020004_0M35.JPG
020005,0,1970-01-01,2005-01-02,W,M,,45,0,,Album2/020005_0M45.JPG
"""


def write_morph(folder: Path, header: str = MORPH_HEADER) -> None:
    (folder / "Album2").mkdir(parents=True)
    names = [line.rpartition("Album2")[2][1:] for line in MORPH_ROWS.splitlines()]
    for number, name in enumerate(dict.fromkeys(names)):
        if name != "020004_0M35.JPG":
            save_face(folder / "Album2" / name, number, (20, 24))
    (folder / "morph_2008_nonCommercial.csv").write_text(f"{header}\n{MORPH_ROWS}")


def test_morph_miniature(tmp_path: Path) -> None:
    write_morph(tmp_path)
    table = read_dataset("morph", tmp_path)
    assert table[["path", "age", "subject", "gender", "ethnicity", "note"]].values.tolist() == [
        ["Album2/009055_0M51.JPG", 51, "009055", "male", "White", ""],
        ["Album2/009055_1M54.JPG", 54, "009055", "male", "White", ""],
        ["Album2/012345_00F23.JPG", 23, "012345", "female", "Black", ""],
        ["Album2/012345_01F26.JPG", 26, "012345", "female", "Hispanic", ""],
        ["Album2/020000_0M36.JPG", 35, "020000", "male", "Asian", "conflicting ages 35 (table) / 36 (name)"],
        ["Album2/020001_0M35.JPG", 35, "020001", "male", "", ""],
        ["Album2/020002_0M40.JPG", 40, "020002", "", "Other", ""],
        ["Album2/020005_0M45.JPG", 45, "020005", "male", "White", ""],
    ]
    told = sorted((f.kind, Path(f.paths[0]).name, f.detail) for f in table.attrs["problems"])
    expected = [
        ("bad-value", "012345_00F23.JPG", "several values of dob: 02/03/1980, 1979-02-03"),
        ("bad-value", "012345_00F23.JPG", "several values of race: B, H"),
        ("bad-value", "012345_01F26.JPG", "rows 4, 5 repeat each other"),
        ("bad-value", "020001_0M35.JPG", "dob '0000-00-00' is no date"),
        ("bad-value", "020001_0M35.JPG", "no ethnicity for the code 'U'"),
        ("bad-value", "020002_0M40.JPG", "no gender for the code 'X'"),
        ("bad-value", "020002_0M40.JPG", "taken (2005-01-02) before the birth"),
        ("conflicting-ages", "020000_0M36.JPG", "ages 35 (table) / 36 (name)"),
        ("impossible-age", "020003_0M35.JPG", "'-35'"),
        ("missing-file", "020004_0M35.JPG", "not there"),
        ("bad-value", "020005_0M45.JPG", "the dates make 35 years, the age is 45; the stated age is used"),
    ]
    assert len(told) == len(expected)
    for kind, path, part in expected:
        assert any(k == kind and path == p and part in d for k, p, d in told), (path, part)
    read_manifest_back(table, tmp_path / "m.csv")


def test_morph_photographs_elsewhere_are_found_by_their_names(tmp_path: Path) -> None:
    save_face(tmp_path / "Album2" / "009055_1M54.JPG")
    row = "009055,1,1951-08-09,2006-01-02,W,M,,54,3,,{}"
    for photo in ("009055_1M54.JPG", "MORPH/009055_1M54.jpg"):
        (tmp_path / "morph_2008_nonCommercial.csv").write_text(f"{MORPH_HEADER}\n{row.format(photo)}\n")
        table = read_dataset("morph", tmp_path)
        assert table[["path", "age", "ethnicity"]].values.tolist() == [
            ["Album2/009055_1M54.JPG", 54, "White"]
        ]
    (tmp_path / "morph_2008_nonCommercial.csv").write_text(f"{MORPH_HEADER}\n")
    with pytest.raises(InputError, match="the table has no rows"):
        read_dataset("morph", tmp_path)


def test_morph_by_its_names_alone_and_without_a_column(tmp_path: Path) -> None:
    write_morph(tmp_path)
    (tmp_path / "morph_2008_nonCommercial.csv").write_text("id_num,photo,age,gender\n1,a,3,M\n")
    with pytest.raises(InputError, match="no column 'race'"):
        read_dataset("morph", tmp_path)
    (tmp_path / "morph_2008_nonCommercial.csv").unlink()
    save_face(tmp_path / "Album2" / "front.jpg")
    table = read_dataset("morph", tmp_path, content=False)
    assert len(table) == 9
    assert table.iloc[2][["age", "subject", "gender"]].tolist() == [23.0, "012345", "female"]
    assert "ethnicity" not in table
    assert findings(table) == [("malformed-name", ("Album2/front.jpg",))]


def write_appa_real(folder: Path) -> None:
    for part, rows in {
        "train": ["000000.jpg,36,5.14,4.1,4", "000001.jpg,38,43.0,0.0,42", "000002.jpg,38,20.0,2.0,19"],
        "valid": ["004113.jpg,30,33.5,6.2,30", "004113.jpg,30,33.5,6.2,30"],
        "test": ["005613.jpg,40,71.2,5.5,80"],
    }.items():
        for number, row in enumerate(rows):
            name = row.partition(",")[0]
            save_face(folder / part / name, 10 + number)
            if name != "000002.jpg":
                save_face(folder / part / f"{name}_face.jpg", 20 + number, (33, 40))
        header = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age"
        (folder / f"gt_avg_{part}.csv").write_text("\n".join([header, *rows]) + "\n")


def test_appa_real_miniature(tmp_path: Path) -> None:
    write_appa_real(tmp_path / "appa-real-release")
    table = read_dataset("appa_real", tmp_path)
    assert table[["path", "age", "split", "official_split"]].values.tolist() == [
        ["train/000000.jpg_face.jpg", 4, "train", "train"],
        ["train/000001.jpg_face.jpg", 42, "train", "train"],
        ["valid/004113.jpg_face.jpg", 30, "val", "val"],
        ["test/005613.jpg_face.jpg", 80, "test", "test"],
    ]
    assert "age_std" not in table
    assert table["apparent_age"].tolist() == ["5.14", "43.0", "33.5", "71.2"]
    assert sorted(findings(table)) == [
        ("bad-value", ("valid/004113.jpg_face.jpg",)),
        ("missing-file", ("train/000002.jpg_face.jpg",)),
    ]
    apparent = read_dataset("appa-real", tmp_path, {"label": "apparent"})
    assert apparent[["age", "age_std"]].values.tolist() == [[5.14, 4.1], [43, 0], [33.5, 6.2], [71.2, 5.5]]
    with pytest.raises(InputError, match="'real' or 'apparent'"):
        read_dataset("appa_real", tmp_path, {"label": "both"})
    text = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n{},36,5.0,{},4\n"
    name = apparent["path"][0].rpartition("/")[2].removesuffix("_face.jpg")
    (tmp_path / "appa-real-release" / "gt_avg_train.csv").write_text(text.format(name, "wide"))
    broken = read_dataset("appa_real", tmp_path, {"label": "apparent"})
    assert np.isnan(broken["age_std"][0])
    assert ("bad-value", (broken["path"][0],)) in findings(broken)
    (tmp_path / "appa-real-release" / "gt_avg_test.csv").write_text("file_name,age\na.jpg,3\n")
    with pytest.raises(InputError, match=r"gt_avg_test\.csv: no column 'num_ratings'"):
        read_dataset("appa_real", tmp_path)


@pytest.mark.parametrize("form", ["2015", "2016"])
def test_chalearn_miniature(tmp_path: Path, form: str) -> None:
    parts = {
        "train": ("Train", "images/train_1"),
        "val": ("Validation", "images/valid"),
        "test": ("Test", "t"),
    }
    rows = {
        "train": ["image_1.jpg;32;4.5", "image_2.jpg;5.4;0", "image_3.jpg;50;3"],
        "val": ["image_4.jpg;71;9.9"],
        "test": ["image_5.jpg;200;1", "image_6.jpg;20;1"],
    }
    for part, (plain, later) in parts.items():
        for row in rows[part]:
            if not row.startswith("image_3"):
                save_face(tmp_path / (plain if form == "2015" else later) / row.partition(";")[0], len(row))
        if form == "2015":
            (tmp_path / f"{plain}.csv").write_text("\n".join(rows[part]) + "\n")
        else:
            (tmp_path / "gt").mkdir(exist_ok=True)
            text = "\n".join(["image,mean,stdv", *rows[part]]).replace(";", ",")
            (tmp_path / "gt" / f"{'valid' if part == 'val' else part}_gt.csv").write_text(text)
    table = read_dataset("chalearn", tmp_path)
    assert table["path"].map(lambda path: Path(path).name).tolist() == [
        *("image_1.jpg", "image_2.jpg", "image_4.jpg", "image_6.jpg")
    ]
    assert table[["age", "age_std", "official_split"]].values.tolist() == [
        *([32, 4.5, "train"], [5.4, 0, "train"], [71, 9.9, "val"], [20, 1, "test"])
    ]
    assert sorted(kind for kind, _ in findings(table)) == ["impossible-age", "missing-file"]
    names = "Train.csv" if form == "2015" else "gt/train_gt.csv"
    (tmp_path / names).write_text("image_1.jpg;32;\n")
    with pytest.raises(InputError, match="row 1: not name, mean, deviation"):
        read_dataset("chalearn", tmp_path)


@pytest.mark.parametrize("name", ["megaage", "megaage_asian"])
def test_megaage_miniatures(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / name
    (folder / "list").mkdir(parents=True)
    for part, ages in {"train": [3, 70, 71], "test": [0, 25]}.items():
        for number in range(len(ages)):
            if (part, number) != ("train", 2):
                save_face(folder / part / f"{number + 1}.jpg", 10 * len(part) + number, (178, 218))
        (folder / "list" / f"{part}_name.txt").write_text("".join(f"{k + 1}.jpg\n" for k in range(len(ages))))
        (folder / "list" / f"{part}_age.txt").write_text("".join(f"{age}\n" for age in ages))
    table = read_dataset(name, tmp_path)
    assert table[["path", "age", "split"]].values.tolist() == [
        *(["train/1.jpg", 3, "train"], ["train/2.jpg", 70, "train"]),
        *(["test/1.jpg", 0, "test"], ["test/2.jpg", 25, "test"]),
    ]
    assert ("ethnicity" in table) == (name == "megaage_asian")
    assert findings(table) == [("missing-file", ("train/3.jpg",))]
    (folder / "list" / "test_age.txt").write_text("3\n")
    with pytest.raises(InputError, match=r"test_name\.txt: 2 names for 1 ages"):
        read_dataset(name, folder)
    (folder / "list" / "test_age.txt").unlink()
    with pytest.raises(InputError, match=r"test_age\.txt: cannot be read"):
        read_dataset(name, folder)


def test_afad_miniature(tmp_path: Path) -> None:
    folder = tmp_path / "AFAD-Full"
    save_face(folder / "15" / "111" / "637660-0.jpg", 1, (70, 90))
    save_face(folder / "15" / "112" / "671487-0.jpg", 2)
    save_face(folder / "40" / "112" / "660728-0.jpg", 3)
    save_face(folder / "15" / "113" / "1-0.jpg", 4)
    save_face(folder / "200" / "111" / "2-0.jpg", 5)
    save_face(folder / "front.jpg", 6)
    (folder / "15" / "111" / "Thumbs.db").touch()
    (folder / "AFAD-Full.txt").write_text("./15/111/637660-0.jpg\n./72/111/9-0.jpg\n")
    table = read_dataset("afad", tmp_path)
    assert table[["path", "age", "gender", "ethnicity"]].values.tolist() == [
        ["15/111/637660-0.jpg", 15, "male", "Asian"],
        ["15/112/671487-0.jpg", 15, "female", "Asian"],
        ["40/112/660728-0.jpg", 40, "female", "Asian"],
    ]
    assert sorted(findings(table)) == [
        ("impossible-age", ("200/111/2-0.jpg",)),
        ("malformed-name", ("15/113/1-0.jpg",)),
        ("malformed-name", ("front.jpg",)),
        ("missing-file", ("72/111/9-0.jpg",)),
    ]


def test_guess_the_age_miniature(tmp_path: Path) -> None:
    rows = "0.jpg,35\n1.jpg,18.37\n2.jpg,old\n3.jpg,40\n1.jpg,22\n4.jpg,50\n"
    (tmp_path / "training_caip_contest.csv").write_text(rows)
    for number in (0, 1, 2, 4):
        save_face(tmp_path / "training_caip_contest" / f"{number}.jpg", number, (101, 77))
    (tmp_path / "training_caip_contest" / "4.jpg").write_bytes(b"\xff\xd8\xff")
    table = read_dataset("guess_the_age", tmp_path)
    assert table[["path", "age"]].values.tolist() == [
        ["training_caip_contest/0.jpg", 35],
        ["training_caip_contest/1.jpg", 18.37],
        ["training_caip_contest/4.jpg", 50],
    ]
    assert table["note"].tolist()[:2] == ["", "conflicting ages 18.37/22 in rows 2, 5"]
    assert table["note"].tolist()[2].startswith("unreadable")
    assert sorted(findings(table)) == [
        ("conflicting-ages", ("training_caip_contest/1.jpg",)),
        ("impossible-age", ("training_caip_contest/2.jpg",)),
        ("missing-file", ("training_caip_contest/3.jpg",)),
        ("unreadable", ("training_caip_contest/4.jpg",)),
    ]
    (tmp_path / "training_caip_contest.csv").write_text("0.jpg,35,male\n")
    with pytest.raises(InputError, match="row 1: 3 fields under 2 columns"):
        read_dataset("guess_the_age", tmp_path)


def test_a_first_row_without_a_number_is_a_header_only_if_it_names_no_image(tmp_path: Path) -> None:
    for number in (0, 1):
        save_face(tmp_path / "gta" / "training_caip_contest" / f"{number}.jpg", number)
        save_face(tmp_path / "lap" / "Train" / f"{number}.jpg", number)
    for header, kinds in (("name,age", []), ("0.jpg,old", ["impossible-age"])):
        (tmp_path / "gta" / "training_caip_contest.csv").write_text(f"{header}\n1.jpg,20\n")
        (tmp_path / "lap" / "Train.csv").write_text(f"{header},4\n1.jpg,20,3\n")
        for name, folder in (("guess_the_age", "gta"), ("chalearn", "lap")):
            table = read_dataset(name, tmp_path / folder)
            assert table["age"].tolist() == [20]
            assert [kind for kind, _ in findings(table)] == kinds


def test_folders_named_by_age(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("25/a.jpg", "7.5/b.png", "031/deep/c.webp", "young/d.jpg", "300/e.jpg", "f.jpg")
    ):
        save_face(tmp_path / name, number)
    save_face(tmp_path / "25" / ".hidden.jpg")
    (tmp_path / "25" / "notes.txt").touch()
    table = read_dataset("folders", tmp_path)
    assert table[["path", "age"]].values.tolist() == [
        ["031/deep/c.webp", 31],
        ["25/a.jpg", 25],
        ["7.5/b.png", 7.5],
    ]
    assert sorted(findings(table)) == [
        ("impossible-age", ("300/e.jpg",)),
        ("malformed-name", ("f.jpg",)),
        ("malformed-name", ("young/d.jpg",)),
    ]


FAIRFACE = "file,age,gender,race,service_test\n"


@pytest.mark.parametrize(
    ("text", "band", "meant"),
    [
        ("20-29", (20, 29), ""),
        ("0-2", (0, 2), ""),
        ("more than 70", (70, ""), ""),
        ("03-Sep", (3, 9), "3-9"),
        ("Oct-19", (10, 19), "10-19"),
        ("70-79", None, ""),
        ("25", None, ""),
    ],
)
def test_fairface_bands(text: str, band: tuple[int, int | str] | None, meant: str) -> None:
    assert parse_band(text) == (band, meant)


@pytest.mark.parametrize("inner", ["", "fair_face"])
def test_fairface_miniature(tmp_path: Path, inner: str) -> None:
    for seed in range(1, 41):
        save_scene(tmp_path / inner / f"train/{seed}.jpg", seed)
    shutil.copy(tmp_path / inner / "train/3.jpg", tmp_path / inner / "train/39.jpg")
    shutil.copy(tmp_path / inner / "train/4.jpg", tmp_path / inner / "train/40.jpg")
    save_scene(tmp_path / inner / "val/1.jpg", 101)
    save_scene(tmp_path / inner / "val/2.jpg", 5, quality=40)
    bands = ["03-Sep", "Oct-19", "20-29", "more than 70", "60-69", "3-9", "0-2"]
    rows = [f"train/{k + 1}.jpg,{bands[k % 7]},Male,{ETHNICITIES[k % 7]},TRUE\n" for k in range(38)] + [
        "train/39.jpg,20-29,Female,White,FALSE\n",
        "train/40.jpg,20-29,Female,White,FALSE\n",
    ]
    rows += ["train/41.jpg,20-29,Female,White,FALSE\n", "train/9.jpg,80-89,Female,White,FALSE\n"]
    rows[9] = "train/10.jpg,20-29,man,Klingon,TRUE\n"
    (tmp_path / "fairface_label_train.csv").write_text(FAIRFACE + "".join(rows))
    (tmp_path / "fairface_label_val.csv").write_text(
        FAIRFACE + "val/1.jpg,40-49,Female,East Asian,TRUE\nval/2.jpg,60-69,Male,Indian,FALSE\n"
    )
    table = read_dataset("fairface", tmp_path)
    names = [path.removeprefix("fair_face/") for path in table["path"]]
    by_name = table.set_index(pd.Index(names))
    bounds = dict(zip(names, label_bounds(table).tolist(), strict=True))
    assert len(table) == 42
    assert table["age"].isna().all()
    assert bounds["train/1.jpg"] == [3, 9]
    assert bounds["train/2.jpg"] == [10, 19]
    assert bounds["train/4.jpg"] == [70, 130]
    assert by_name["gender"]["train/1.jpg"] == "male"
    assert by_name["ethnicity"]["val/1.jpg"] == "East Asian"
    assert by_name["official_split"]["val/1.jpg"] == "val"
    assert by_name["split"]["val/1.jpg"] == by_name["split"]["val/2.jpg"] == "test"
    assert by_name["split"]["train/5.jpg"] == ""
    assert by_name["note"]["train/5.jpg"].endswith("copy of " + table["path"][41])
    assert by_name["note"]["train/39.jpg"].startswith("copy of")
    assert by_name["split"][["train/4.jpg", "train/40.jpg"]].tolist() == ["", ""]
    assert by_name["note"]["train/40.jpg"].startswith("conflicting ages 20-29/70+")
    train = table[(table["official_split"] == "train") & (table["note"] == "")]
    assert train["split"].tolist() == content_split(train["digest"].tolist(), (0.9, 0.1, 0.0), "fairface-v1")
    assert set(train["split"]) == {"train", "val"}
    dates = {f.detail: len(f.paths) for f in table.attrs["problems"] if "spreadsheet" in f.detail}
    assert dates == {
        "6 ages read '03-Sep', a spreadsheet's date for the band 3-9; read as 3-9": 6,
        "6 ages read 'Oct-19', a spreadsheet's date for the band 10-19; read as 10-19": 6,
    }
    assert sorted(kind for kind, _ in findings(table)) == [
        *("bad-value", "bad-value", "bad-value", "bad-value"),
        *("impossible-age", "missing-file"),
    ]
    write_manifest(table, tmp_path / "m.csv")
    again = read_manifest(tmp_path / "m.csv")
    assert label_bounds(again).tolist() == label_bounds(table).tolist()
    assert split_digest(again) == split_digest(table)


def test_bands_in_a_table_of_ones_own(tmp_path: Path) -> None:
    save_face(tmp_path / "a.jpg", 1)
    save_face(tmp_path / "b.jpg", 2)
    (tmp_path / "t.csv").write_text("file,age_low,age_high\na.jpg,30,39\nb.jpg,70,\nb.jpg,9,3\n")
    table = read_dataset("table", tmp_path / "t.csv")
    assert label_bounds(table).tolist() == [[30, 39], [70, 130]]
    assert findings(table)[0][0] == "conflicting-ages"


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    save_face(tmp_path / "images" / "a.jpg", 1)
    save_face(tmp_path / "images" / "b.jpg", 2)
    rows = pd.DataFrame(
        {
            "file_name": ["a.jpg", "./b.jpg", "", "c.jpg", "b.jpg"],
            "real_age": [3, 40, 5, 6, 40],
            "gender": ["male", "female", "male", "", "female"],
            "camera": ["x", "y", "z", "", "y"],
        }
    )
    rows.to_csv(tmp_path / "faces.csv", index=False)
    rows.to_parquet(tmp_path / "faces.parquet")
    for name in ("faces.csv", "faces.parquet"):
        table = read_dataset("table", tmp_path / name, {"images": str(tmp_path / "images")})
        assert table[["path", "age", "gender", "camera"]].values.tolist() == [
            ["a.jpg", 3, "male", "x"],
            ["b.jpg", 40, "female", "y"],
        ]
        assert sorted(kind for kind, _ in findings(table)) == ["bad-value", "bad-value", "missing-file"]
    with pytest.raises(
        InputError, match="no image with a usable age and a file; the first of 5 problems: row 3"
    ):
        read_dataset("table", tmp_path / "faces.csv")
    with pytest.raises(InputError, match="no column 'years'"):
        read_dataset("table", tmp_path / "faces.csv", {"age": "years"})
    (tmp_path / "two.csv").write_text("file,image,age\na,b,3\n")
    with pytest.raises(
        InputError, match="several columns may be the path: file, image; say which with path=NAME"
    ):
        read_dataset("table", tmp_path / "two.csv")
    (tmp_path / "bad.csv").write_text("path,age,gender\nimages/a.jpg,3,boy\n")
    with pytest.raises(ManifestError, match=r"gender.*must be one of male, female"):
        read_dataset("table", tmp_path / "bad.csv")
    (tmp_path / "later.csv").write_text("path,age,split\n,3,\nimages/none.jpg,3,\nimages/a.jpg,3,training\n")
    with pytest.raises(ManifestError, match=r"later\.csv, row 3, column 'split'"):
        read_dataset("table", tmp_path / "later.csv")
    (tmp_path / "twice.csv").write_text("path,age,age\nimages/a.jpg,3,9\n")
    with pytest.raises(InputError, match=r"twice\.csv: the column 'age' is there twice"):
        read_dataset("table", tmp_path / "twice.csv")
    points = [float(number) for number in range(10)]
    lists = pd.DataFrame({"path": ["images/a.jpg"], "age": [3], "landmarks": [points]})
    lists.to_parquet(tmp_path / "lists.parquet")
    found = read_dataset("table", tmp_path / "lists.parquet")["landmarks"][0]
    assert [float(number) for number in found.split()] == points
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a Parquet table"):
        read_dataset("table", tmp_path / "no.parquet")
    with pytest.raises(InputError, match="no such file or folder"):
        read_dataset("table", tmp_path / "none.csv")


def test_the_findings_of_every_adapter_are_known_to_audit(tmp_path: Path) -> None:
    write_morph(tmp_path)
    report = audit(tmp_path, dataset="morph")
    kinds = [finding.kind for finding in read_dataset("morph", tmp_path).attrs["problems"]]
    assert report.counts["bad-value"] == kinds.count("bad-value")
    assert report.counts["conflicting-ages"] == 1


def test_prepare_reads_settings_and_tells_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app([*arguments, "--out", str(tmp_path / "out"), "--detector", "none", "--size", "32"])
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    write_appa_real(tmp_path / "appa")
    code, out, _ = run("prepare", "appa-real", str(tmp_path / "appa"), "--set", "label=apparent")
    assert code == 0
    assert "4 images; 2 findings" in out
    assert "missing-file  1       train/000002.jpg_face.jpg: labelled, but not there" in out
    told = pd.read_csv(tmp_path / "out" / "findings.csv")
    assert sorted(told["kind"]) == ["bad-value", "missing-file"]
    crops = read_manifest(tmp_path / "out" / "manifest.csv")
    assert crops["age"].tolist() == [5.14, 43.0, 33.5, 71.2]
    assert crops["official_split"].tolist() == ["train", "train", "val", "test"]
    for settings, message in (
        (["--set", "label=both"], "'real' or 'apparent'"),
        (["--set", "colour=red"], "no setting 'colour'"),
        (["--set", "label"], "must read key=value"),
    ):
        code, _, err = run("prepare", "appa-real", str(tmp_path / "appa"), *settings)
        assert code == 2
        assert message in err
    code, _, err = run("prepare", str(tmp_path / "out" / "manifest.csv"), "--set", "label=real")
    assert code == 2
    assert "a manifest needs no setting" in err


def test_datasets_tells_how_to_lay_one_out(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            cli.app(["datasets", *arguments])
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert [line.partition(":")[0] for line in shown().splitlines()] == list(DATASETS)
    assert "--set minimum_face_score=1.0" in shown("imdb-wiki")
    assert "morph_2008_nonCommercial.csv" in shown("morph")
    assert "no data set 'celeba'; there are afad" in shown("celeba")


def test_a_folder_a_person(tmp_path: Path) -> None:
    for number in range(30):
        save_face(tmp_path / f"p{number // 3:02d}" / "deeper" / f"{number}.png", number)
    save_face(tmp_path / "alone" / "1.png", 40)
    save_face(tmp_path / "nobody.png", 41)
    table = read_dataset("people", tmp_path)
    assert table["subject"].nunique() == 10
    assert "age" not in table
    assert (table.groupby("subject")["split"].nunique() == 1).all()
    assert set(table["split"]) == {"train", "val"}
    assert sorted(findings(table)) == [
        ("malformed-name", ("nobody.png",)),
        ("too-few-images", ("alone/1.png",)),
    ]
    assert len(read_dataset("people", tmp_path, {"minimum": 1})) == 31
    with pytest.raises(InputError, match="no person with enough images"):
        read_dataset("people", tmp_path, {"minimum": 4})
    report = audit(tmp_path, dataset="people")
    assert report.ages == {}
    assert report.counts["too-few-images"] == 1


def test_names_that_begin_with_the_age(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("25_anna.jpg", "7.5-ben.png", "x/031 c.webp", "40.jpg", "anna_25.jpg", "25anna.jpg", "300_d.jpg")
    ):
        save_face(tmp_path / name, number)
    table = read_dataset("names", tmp_path)
    assert table.set_index("path")["age"].to_dict() == {
        "25_anna.jpg": 25,
        "7.5-ben.png": 7.5,
        "40.jpg": 40,
        "x/031 c.webp": 31,
    }
    assert sorted(findings(table)) == [
        ("impossible-age", ("300_d.jpg",)),
        ("malformed-name", ("25anna.jpg",)),
        ("malformed-name", ("anna_25.jpg",)),
    ]
    assert "dataset" not in table  # nobody's set


def test_a_table_of_people_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        save_face(tmp_path / f"{number}.png", number, (40, 40))
    (tmp_path / "people.csv").write_text("path,subject\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n")
    arguments = ("--out", str(tmp_path / "out"), "--chips", "--detector", "none", "--size", "32")
    with pytest.raises(SystemExit) as stopped:
        cli.app(["prepare", str(tmp_path / "people.csv"), *arguments])
    assert stopped.value.code == 0, capsys.readouterr().err
    crops = read_manifest(tmp_path / "out" / "manifest.csv", ages=False)
    assert crops["subject"].tolist() == ["a", "a", "b", "b"]
    assert (crops.groupby("subject")["split"].nunique() == 1).all()
