"""The adapters on miniatures with the sets' true names and dirt, and on the sets themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agelens.data.datasets import DATASETS, Adapter
from agelens.data.datasets.fgnet import FIVE_OF_68, fgnet, read_points
from agelens.data.datasets.utkface import SPLIT_DIGEST, parse_name, utkface
from agelens.data.manifest import image_paths, read_manifest, write_manifest
from agelens.data.splits import content_split, split_digest
from agelens.errors import InputError


def save_scene(path: Path, seed: int, **settings: int) -> None:
    random = np.random.default_rng(seed)
    total = np.zeros((200, 200, 3))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((200, 200), Image.Resampling.BICUBIC), dtype=np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((total / 4).astype(np.uint8)).save(path, "JPEG", **settings)


def test_the_registry_is_these_adapters() -> None:
    assert dict(DATASETS) == {"fgnet": fgnet, "utkface": utkface}


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
    table = utkface(chips, workers=2, progress=lambda *call: calls.append(call))
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
    before = utkface(chips).set_index("digest")["split"]
    (chips / "30_0_0_20170101000000000.jpg.chip.jpg").rename(chips / "99_0_0_20170101000000000.jpg.chip.jpg")
    for seed in range(20, 25):
        save_scene(chips / f"{seed}_0_0_20180101000000000.jpg.chip.jpg", seed)
    after = utkface(chips).set_index("digest")["split"]
    alone = before[~before.index.duplicated(keep=False)]
    assert after[alone.index].to_dict() == alone.to_dict()


def test_names_alone_need_no_image(chips: Path) -> None:
    for chip in chips.iterdir():
        chip.write_bytes(b"")
    table = utkface(chips, content=False)
    assert list(table.columns) == ["path", "age", "gender", "ethnicity"]
    assert len(table) == 8


@pytest.mark.parametrize("adapter", DATASETS.values(), ids=DATASETS)
def test_a_folder_of_something_else(tmp_path: Path, adapter: Adapter) -> None:
    with pytest.raises(InputError, match="no"):
        adapter(tmp_path / "none")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").touch()
    with pytest.raises(InputError, match=str(tmp_path)):
        adapter(tmp_path)


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
    table = fgnet(tmp_path)
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
    table = fgnet(shared / "data" / "FG-NET", content=False)
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
    table = utkface(shared / "data" / "UTKFace", content=False)
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
    table = utkface(shared / "data" / "UTKFace")
    assert table["split"].value_counts().to_dict() == {"train": 15978, "test": 2016, "val": 1986, "": 1371}
    notes = table["note"].str.split().str[0].value_counts().to_dict()
    assert notes == {"conflicting": 1012, "near": 221, "copy": 138}
    assert split_digest(table) == SPLIT_DIGEST
    used = table[table["split"] != ""]
    assert used["digest"].is_unique
