"""Joining prepared sets: sources, splits and meanings stay, and no held-out image is trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agelens.apps import cli
from agelens.data.geometry import crop_geometry
from agelens.data.join import join
from agelens.data.manifest import image_paths, read_manifest
from agelens.errors import InputError, ManifestError
from agelens.faces.alignment import ARCFACE_GEOMETRY, DEFAULT_GEOMETRY, CropGeometry

MakeSet = Callable[..., Path]
PREPARED = DEFAULT_GEOMETRY.with_size(64)


def scene(seed: int) -> Image.Image:
    """A picture with detail of its own, 64 × 64."""
    random = np.random.default_rng(seed)
    total = np.zeros((64, 64, 3))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray((total / 4).astype(np.uint8))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """``make_set(name, seeds, splits, **columns)`` writes a prepared set; one seed is one photograph."""

    def make(
        name: str,
        seeds: Sequence[int],
        splits: Sequence[str] | None,
        geometry: CropGeometry | None = PREPARED,
        near: Sequence[int] = (),
        **columns: Sequence[object],
    ) -> Path:
        folder = tmp_path / name
        rows = []
        for place, seed in enumerate(seeds):
            path = folder / "crops" / f"{place:02d}" / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = scene(seed)
            if seed in near:  # the same photograph saved again, brighter and mirrored
                pixels = np.asarray(picture, dtype=np.float64) * 0.9 + 20
                picture = Image.fromarray(pixels.astype(np.uint8)[:, ::-1])
            picture.save(path)
            content = f"{seed}{name}" if seed in near else str(seed)
            rows.append(
                {
                    "path": path.relative_to(folder).as_posix(),
                    "age": 20.0 + seed % 40,
                    "digest": digest(content),
                    "source": f"/photos/{name}/{seed}.jpg",
                }
            )
        table = pd.DataFrame(rows)
        if splits is not None:
            table["split"] = list(splits)
        for column, values in columns.items():
            table[column] = list(values)
        table.to_csv(folder / "manifest.csv", index=False)
        if geometry is not None:
            (folder / "geometry.json").write_text(json.dumps(geometry.to_dict()))
        return folder / "manifest.csv"

    return make


def read(*paths: Path) -> list[pd.DataFrame]:
    return [read_manifest(path) for path in paths]


def test_source_split_and_meaning_of_every_row_stay(make_set: MakeSet) -> None:
    one = make_set(
        "one",
        [1, 2, 3],
        ["train", "val", "test"],
        dataset=["morph"] * 3,
        labels=["real"] * 3,
    )
    two = make_set("two", [4, 5], ["train", "val"], labels=["estimated"] * 2)
    joined = join(read(one, two))
    table = joined.table
    assert table["source"].tolist()[:4:3] == ["/photos/one/1.jpg", "/photos/two/4.jpg"]
    assert table["split"].tolist() == ["train", "val", "test", "train", "val"]
    assert table["dataset"].tolist() == ["morph"] * 3 + ["two"] * 2
    assert table["labels"].tolist() == ["real"] * 3 + ["estimated"] * 2
    assert all(path.is_file() for path in image_paths(table))
    assert joined.dropped == {}
    lines = list(joined.lines())
    assert lines[0] == "morph: 3 images (1 train, 1 val, 1 test, 0 not used), real ages"
    assert "the labels mean different things: estimated, real ages" in lines[-1]


def test_an_image_of_two_sets_counts_once_and_never_trains_where_it_is_held_out(make_set: MakeSet) -> None:
    one = make_set("one", [1, 2, 3, 4], ["train", "train", "train", "val"])
    two = make_set("two", [1, 2, 9, 4], ["train", "test", "train", "train"])
    joined = join(read(one, two))
    assert joined.table["split"].tolist() == ["train", "", "train", "val", "", "test", "train", ""]
    assert joined.table["note"].tolist()[1] == "copy of an image of two"
    assert joined.dropped == {"copies of an image of another set": 3}


def test_sets_that_disagree_about_an_age_lose_the_image(make_set: MakeSet) -> None:
    one = make_set("one", [1, 2], ["train", "val"])
    two = make_set("two", [1, 3], ["train", "val"], age=[70.0, 23.0])
    joined = join(read(one, two))
    assert joined.table["split"].tolist() == ["", "val", "", "val"]
    assert joined.dropped == {"in several sets with conflicting ages": 2}


def test_the_excluded_test_part_is_dropped_by_bytes_and_nearly(make_set: MakeSet) -> None:
    student = make_set("student", [1, 2, 3, 4], ["test", "test", "train", "val"], near=[2])
    one = make_set("one", [1, 2, 3, 5], ["train", "val", "train", "val"])
    two = make_set("two", [6, 7], ["train", "val"])
    joined = join(read(one, two), excluded=read(student))
    assert joined.table["split"].tolist() == ["", "", "train", "val", "train", "val"]
    assert joined.dropped == {
        "in the test part of student/manifest.csv, byte for byte": 1,
        "nearly in the test part of student/manifest.csv": 1,
    }
    # Without the exclusion both would be trained and validated on.
    assert join(read(one, two)).table["split"].tolist()[:2] == ["train", "val"]


def test_near_copies_of_another_sets_held_out_images_do_not_train(make_set: MakeSet) -> None:
    one = make_set("one", [1, 2], ["train", "train"])
    two = make_set("two", [1, 3], ["val", "train"], near=[1])
    joined = join(read(one, two))
    assert joined.table["split"].tolist() == ["", "train", "val", "train"]
    assert joined.table["note"].iat[0] == "near copy of a val image of two"


def test_a_set_without_a_split_gets_the_default_one(make_set: MakeSet) -> None:
    one = make_set("one", range(40), None)
    two = make_set("two", [50, 51], ["train", "val"])
    joined = join(read(one, two))
    assert set(joined.table["split"].tolist()[:40]) == {"train", "val", "test"}
    assert joined.notes[0] == "one had no split; the default one, by content, was made"


def test_the_default_split_of_a_set_without_people_goes_by_content_beside_one_with_people(
    make_set: MakeSet,
) -> None:
    one = make_set("one", range(40), None)
    two = make_set("two", range(50, 90), None, subject=[f"p{number % 20}" for number in range(40)])
    joined = join(read(one, two))
    assert joined.notes == (
        "one had no split; the default one, by content, was made",
        "two had no split; the default one, by person, was made",
    )
    alone = join(read(one)).table["split"].tolist()
    assert joined.table["split"].tolist()[:40] == alone
    assert set(alone) == {"train", "val", "test"}
    assert (joined.table[40:].groupby("subject")["split"].nunique() == 1).all()


@pytest.mark.parametrize("other", [ARCFACE_GEOMETRY.with_size(64), DEFAULT_GEOMETRY.with_size(48)])
def test_geometries_are_not_mixed(make_set: MakeSet, other: CropGeometry) -> None:
    one = make_set("one", [1], ["train"])
    two = make_set("two", [2], ["train"], geometry=other)
    with pytest.raises(InputError, match="--geometry agelens-v1 --size 64"):
        join(read(one, two))


def test_bad_input_is_told(make_set: MakeSet) -> None:
    one = make_set("one", [1, 2], ["train", "val"])
    with pytest.raises(InputError, match="a set joined with itself"):
        join(read(one, one))
    part = make_set("part", [2], ["val"])
    with pytest.raises(InputError, match=r"part/manifest\.csv: all of its images are in .*one/manifest\.csv"):
        join(read(one, part))
    bare = make_set("bare", [3], ["train"], geometry=None)
    with pytest.raises(InputError, match="unknown geometry"):
        join(read(one, bare))
    unkeyed = make_set("unkeyed", [4], ["test"], digest=[""])
    with pytest.raises(ManifestError, match=r"row 1, column 'digest'"):
        join(read(one), excluded=read(unkeyed))
    untested = make_set("untested", [5], ["train"])
    with pytest.raises(ManifestError, match="needs rows with split 'test'"):
        join(read(one), excluded=read(untested))
    other = make_set("other", [6], ["test"], geometry=ARCFACE_GEOMETRY)
    with pytest.raises(InputError, match="cannot be compared"):
        join(read(one), excluded=read(other))
    with pytest.raises(InputError, match="nothing to join"):
        join([])


def test_a_crop_that_two_manifests_name_is_one_row(make_set: MakeSet) -> None:
    one = make_set("one", [1, 2, 3, 4], ["train", "train", "test", ""])
    rows = pd.read_csv(one, dtype=str, keep_default_na=False)
    two = one.with_name("other.csv")
    other = rows.iloc[1:].assign(split=["val", "train", "train"])
    extra = make_set("extra", [5], ["train"])
    pd.concat([other, pd.read_csv(extra, dtype=str).assign(path="../extra/crops/00/5.png")]).to_csv(
        two, index=False
    )
    joined = join(read(one, two))
    names = [Path(path).stem for path in joined.table["path"]]
    assert dict(zip(names, joined.table["split"], strict=True)) == {
        "1": "train", "2": "val", "3": "test", "4": "train", "5": "train",
    }  # fmt: skip
    assert len(names) == 5
    assert joined.dropped == {"copies of an image of another set": 2}
    assert all(path.is_file() for path in image_paths(joined.table))


def test_the_command_does_not_write_over_a_set(make_set: MakeSet, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_set("one", [1, 2], ["train", "val"]), make_set("two", [3, 4], ["train", "test"])
    before = one.read_bytes(), two.read_bytes()
    for arguments in ([one, two, "--out", one], [one, "--exclude", two, "--out", two]):
        with pytest.raises(SystemExit) as stopped:
            cli.app(["join", *map(str, arguments)])
        assert stopped.value.code == 2
        assert "is what this command reads: write to another file" in capsys.readouterr().err
    assert (one.read_bytes(), two.read_bytes()) == before


def test_the_command_writes_a_manifest_whose_geometry_is_known(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_set("one", [1, 2], ["train", "val"]), make_set("two", [3, 4], ["train", "val"])
    student = make_set("student", [3, 9], ["test", "train"])
    out = tmp_path / "elsewhere" / "union.csv"
    with pytest.raises(SystemExit) as stopped:
        cli.app(["join", str(one), str(two), "--exclude", str(student), "--out", str(out)])
    assert stopped.value.code == 0
    assert "dropped: 1 in the test part of student/manifest.csv, byte for byte" in capsys.readouterr().out
    union = read_manifest(out)
    assert union["split"].tolist() == ["train", "val", "", "val"]
    assert all(path.is_file() for path in image_paths(union))
    assert crop_geometry(union) == DEFAULT_GEOMETRY.with_size(64)


def test_geometry_is_looked_for_above_the_crops_then_beside_the_manifest(
    make_set: MakeSet, tmp_path: Path
) -> None:
    table = read_manifest(make_set("one", [1, 2], ["train", "val"], geometry=None))
    assert crop_geometry(table) is None
    other = tmp_path / "lists"
    other.mkdir()
    table.attrs["root"], paths = other, [f"../one/{path}" for path in table["path"]]
    table["path"] = paths
    (other / "geometry.json").write_text(json.dumps(ARCFACE_GEOMETRY.to_dict()))
    assert crop_geometry(table) == ARCFACE_GEOMETRY
    (tmp_path / "one" / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.to_dict()))
    assert crop_geometry(table) == DEFAULT_GEOMETRY
    (tmp_path / "one" / "crops" / "01" / "geometry.json").write_text(json.dumps(ARCFACE_GEOMETRY.to_dict()))
    with pytest.raises(InputError, match="different geometries: agelens-v1 at 112 px"):
        crop_geometry(table)
    (tmp_path / "one" / "geometry.json").write_text("{}")
    with pytest.raises(InputError, match=r"geometry\.json: is not a crop geometry"):
        crop_geometry(table)
