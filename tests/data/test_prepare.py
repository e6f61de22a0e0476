"""From a manifest to crops: what is written, what is counted, and that nothing is lost or done twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agelens.data.manifest import read_manifest
from agelens.data.prepare import PrepareSummary, crop_path, prepare
from agelens.errors import InputError, ManifestError, OutputError
from agelens.faces.alignment import DEFAULT_GEOMETRY, align_chip, align_face
from agelens.faces.image import read_image
from agelens.faces.yunet_onet import YuNetONet

SMALL = DEFAULT_GEOMETRY.with_size(48)


@pytest.fixture
def photos(portrait, tmp_path):
    """A manifest of a portrait, a copy of it, two faces in one image, no face, and no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.open(portrait).resize((256, 256))
    picture.save(folder / "one.png")
    (folder / "copy.png").write_bytes((folder / "one.png").read_bytes())
    pair = Image.new("RGB", (600, 320), "white")
    pair.paste(picture, (0, 0))
    pair.paste(picture.resize((320, 320)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), (280, 0))
    pair.save(folder / "pair.png")
    Image.new("RGB", (200, 200), "grey").save(folder / "blank.png")
    (folder / "text.jpg").write_text("no image")
    table = pd.DataFrame(
        {
            "path": ["one.png", "copy.png", "pair.png", "blank.png", "text.jpg"],
            "age": [30.0, 31.0, 32.0, 33.0, 34.0],
            "split": ["train", "train", "val", "test", "test"],
            "colour": ["a", "b", "c", "d", "e"],
        }
    )
    table.attrs["root"] = folder
    return table


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_photos(photos, tmp_path):
    out, seen = tmp_path / "out", []
    summary = prepare(
        photos, out, geometry=SMALL, chips=False, progress=lambda done, total: seen.append((done, total))
    )
    assert summary == PrepareSummary(
        images=5, resumed=0, landmarks=3, eyes=0, fallback=0, no_face=1, failed=1
    )
    assert seen == [(done, 5) for done in range(6)]

    table = read_manifest(out / "manifest.csv")
    assert table["age"].tolist() == [30, 31, 32]
    assert table["colour"].tolist() == ["a", "b", "c"]
    assert table["split"].tolist() == ["train", "train", "val"]
    assert table["alignment"].tolist() == ["landmarks"] * 3
    assert table["source"].tolist() == [str(photos.attrs["root"] / name) for name in photos["path"][:3]]
    assert table["digest"].tolist() == [digest(path) for path in table["source"]]
    one = crop_path(out, table["digest"][0])
    assert (out / table["path"][0], one.parent.name) == (one, table["digest"][0][:2])
    assert (out / table["path"][1]).name == f"{table['digest'][0]}-2.png"
    assert (out / table["path"][1]).read_bytes() == one.read_bytes()

    image = read_image(photos.attrs["root"] / "one.png")
    (face,) = YuNetONet().detect(image)
    np.testing.assert_array_equal(read_image(one), align_face(image, face.landmarks, SMALL))
    np.testing.assert_allclose(np.fromstring(table["box"][0], sep=" "), face.box, atol=0.005)
    landmarks = np.fromstring(table["landmarks"][0], sep=" ").reshape(5, 2)
    np.testing.assert_allclose(landmarks, face.landmarks, atol=0.005)
    assert abs(table["pose"][0]) < 20

    failures = pd.read_csv(out / "failures.csv")
    assert failures.values.tolist() == [
        ["blank.png", 4, "no face found"],
        ["text.jpg", 5, "is not an image that can be read (JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC)"],
    ]


def test_of_several_faces_the_largest_or_the_one_in_the_box(photos, tmp_path):
    pair = photos.iloc[[2, 2]].reset_index(drop=True)
    pair.attrs = photos.attrs
    pair["path"] = ["pair.png", "./pair.png"]
    pair["box"] = ["", "80 20 150 100"]
    prepare(pair.iloc[:1], tmp_path / "largest", chips=False)
    prepare(pair.iloc[1:], tmp_path / "boxed", chips=False)
    largest, boxed = (
        read_manifest(tmp_path / out / "manifest.csv")["box"][0] for out in ("largest", "boxed")
    )
    assert float(largest.split()[0]) > 280 > float(boxed.split()[2])


def test_a_box_without_a_face(photos, tmp_path):
    table = photos.iloc[[0, 2]].assign(box=["", "5 200 40 250"])
    table.attrs = photos.attrs
    assert prepare(table, tmp_path / "out", chips=False).no_face == 1
    assert "no face found at the manifest's box" in (tmp_path / "out" / "failures.csv").read_text()


def test_chips(photos, tmp_path):
    out = tmp_path / "out"
    summary = prepare(photos, out, geometry=SMALL, chips=True)
    assert (summary.landmarks, summary.fallback, summary.no_face, summary.failed) == (3, 1, 0, 1)
    table = read_manifest(out / "manifest.csv")
    assert table["alignment"].tolist() == ["landmarks", "landmarks", "landmarks", "fallback"]
    assert (table["box"][3], table["landmarks"][3], np.isnan(table["pose"][3])) == ("", "", True)
    for name, path in zip(("one.png", "blank.png"), (table["path"][0], table["path"][3]), strict=True):
        chip = align_chip(read_image(photos.attrs["root"] / name), YuNetONet(), SMALL)
        np.testing.assert_array_equal(read_image(out / path), chip.crop)


def test_a_detector_without_points(photos, tmp_path):
    summary = prepare(photos.iloc[:1], tmp_path / "out", detector="none", chips=False)
    assert (summary.fallback, summary.no_face) == (1, 0)
    table = read_manifest(tmp_path / "out" / "manifest.csv")
    assert table["box"][0] == "0.00 0.00 256.00 256.00"


def state(out):
    """Every file that matters and its content."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "journal.jsonl"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_second_run_only_tries_what_failed(photos, tmp_path):
    out = tmp_path / "out"
    prepare(photos, out, chips=False)
    before, times = state(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert prepare(photos, out, chips=False).resumed == 3
    assert state(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times

    (photos.attrs["root"] / "text.jpg").write_bytes((photos.attrs["root"] / "pair.png").read_bytes())
    summary = prepare(photos, out, chips=False)
    assert (summary.resumed, summary.landmarks, summary.failed) == (3, 4, 0)
    assert "text.jpg" not in (out / "failures.csv").read_text()


def test_changed_images_and_lost_crops_are_done_again(photos, tmp_path):
    out, root = tmp_path / "out", photos.attrs["root"]
    prepare(photos, out, chips=False)
    before = state(out)
    Image.open(root / "one.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "copy.png")
    crop_path(out, digest(root / "pair.png")).unlink()
    assert prepare(photos, out, chips=False).resumed == 1
    table = read_manifest(out / "manifest.csv")
    assert table["digest"][1] == digest(root / "copy.png") != table["digest"][0]
    assert state(out)[table["path"][2]] == before[table["path"][2]]


def test_half_a_line_in_the_journal_is_forgotten(photos, tmp_path):
    out = tmp_path / "out"
    prepare(photos, out, chips=False)
    before = state(out)
    journal = out / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    prepare(photos, out, chips=False)
    assert state(out) == before
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    assert len(journal.read_text().splitlines()) >= 6


@pytest.mark.slow
def test_workers_make_the_same(photos, tmp_path):
    one = prepare(photos, tmp_path / "one", chips=True, workers=1)
    assert prepare(photos, tmp_path / "two", chips=True, workers=2) == one
    assert state(tmp_path / "two") == state(tmp_path / "one")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(portrait, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    picture = Image.open(portrait).resize((256, 256))
    names = [f"{index:03}.png" for index in range(60)]
    for index, name in enumerate(names):
        shifted = Image.new("RGB", (256, 256))
        shifted.paste(picture, (index % 8, index // 8))
        shifted.save(folder / name, compress_level=1)
    table = pd.DataFrame({"path": names, "age": 30.0})
    table.to_csv(folder / "manifest.csv", index=False)
    code = """
import sys
from agelens.data.manifest import read_manifest
from agelens.data.prepare import prepare
if __name__ == "__main__":
    prepare(read_manifest(sys.argv[1]), sys.argv[2], chips=True, workers=2, detector="mtcnn")  # slow enough
"""
    script = tmp_path / "run.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script), str(folder / "manifest.csv"), str(out)])
    journal = out / "journal.jsonl"
    end = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 17) and time.monotonic() < end:
        assert process.poll() is None, "finished too early"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.csv").exists()

    summary = prepare(read_manifest(folder / "manifest.csv"), out, chips=True, detector="mtcnn")
    assert 16 <= summary.resumed < 60
    assert summary.landmarks == 60
    prepare(read_manifest(folder / "manifest.csv"), tmp_path / "whole", chips=True, detector="mtcnn")
    assert state(out) == state(tmp_path / "whole")


def test_other_settings_are_refused(photos, tmp_path):
    prepare(photos, tmp_path / "out", chips=False)
    before = state(tmp_path / "out")
    for settings in (
        {"chips": True},
        {"chips": False, "geometry": SMALL},
        {"chips": False, "detector": "none"},
        {"chips": False, "detector_settings": {"min_face_size": 60}},
    ):
        with pytest.raises(InputError, match="was prepared with other settings"):
            prepare(photos, tmp_path / "out", **settings)
    assert state(tmp_path / "out") == before


def test_wrong_settings_write_nothing(photos, tmp_path):
    for settings in ({"workers": 0}, {"detector": "dlib"}, {"detector_settings": {"colour": 1}}):
        with pytest.raises(InputError):
            prepare(photos, tmp_path / "out", chips=False, **settings)
    with pytest.raises(ManifestError, match="column 'age'"):
        prepare(photos.drop(columns="age"), tmp_path / "out", chips=False)
    assert not (tmp_path / "out").exists()


def test_nothing_usable(photos, tmp_path):
    table = photos.iloc[3:]
    table.attrs = photos.attrs
    with pytest.raises(ManifestError, match=r"no image has a usable face; see .*failures\.csv"):
        prepare(table, tmp_path / "out", chips=False)
    assert len(pd.read_csv(tmp_path / "out" / "failures.csv")) == 2


def test_a_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(OutputError, match=r"out.*: cannot write"):
        prepare(photos, tmp_path / "out", chips=False)


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(photos, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "out", os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OutputError, match="No space left on device"):
        prepare(photos, out, chips=True)
    monkeypatch.undo()
    assert prepare(photos, out, chips=True).resumed == 1
    assert [path for path in out.rglob(".*") if path.is_file()] == []


def test_own_data_without_a_split_get_one_by_content(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(30):
        cells = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    names = [f"{number}.png" for number in range(30)] + ["copy.png"]
    table = pd.DataFrame({"path": names, "age": [*range(20, 50), 20]})
    table.attrs["root"] = folder

    def made(name, **columns):
        out = tmp_path / name
        given = table.assign(**columns)
        given.attrs = table.attrs
        summary = prepare(given, out, detector="none", geometry=SMALL, chips=True)
        assert summary.by_person is ("subject" in columns)
        return summary.split, read_manifest(out / "manifest.csv")

    split, manifest = made("crops")
    assert sum(split.values()) == 31
    assert split[""] == 1
    assert min(split["train"], split["val"], split["test"]) > 0
    assert manifest["note"].tolist().count("") == 30
    assert made("again")[1]["split"].tolist() == manifest["split"].tolist()
    people, by_person = made("people", subject=[f"p{number % 9}" for number in range(31)])
    assert people is not None
    assert (by_person[by_person["split"] != ""].groupby("subject")["split"].nunique() == 1).all()
    assert made("split", split="train")[0] is None
    assert "split" not in made("public", dataset="morph")[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.timeout(120)
def test_a_pipe_is_not_waited_for(photos, tmp_path):
    pipe = photos.attrs["root"] / "pipe.jpg"
    os.mkfifo(pipe)
    rows = photos.iloc[[0, 1]].reset_index(drop=True)
    rows.attrs = photos.attrs
    rows["path"] = ["one.png", "pipe.jpg"]
    try:
        prepare(rows, tmp_path / "out", geometry=SMALL, chips=True)
    finally:
        pipe.unlink()
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures[["path", "reason"]].values.tolist() == [["pipe.jpg", "is no regular file"]]
