from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agelens.apps import cli
from agelens.data.audit import KINDS, audit
from agelens.data.duplicates import fingerprint_images
from agelens.errors import InputError, ManifestError
from agelens.reports.ages import age_histogram


def save_scene(path: Path, seed: int, mirrored: bool = False, **settings: int) -> None:
    random = np.random.default_rng(seed)
    total = np.zeros((120, 120, 3))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((120, 120), Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = (total / 4).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)).save(path, **settings)


def test_every_kind_in_a_manifest(tmp_path: Path) -> None:
    save_scene(tmp_path / "a.jpg", 1)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "a2.jpg")
    save_scene(tmp_path / "a3.png", 1, mirrored=True)
    for seed, name in enumerate("bcdefg", start=2):
        save_scene(tmp_path / f"{name}.jpg", seed)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:300])
    os.symlink(tmp_path / "nowhere.jpg", tmp_path / "link.jpg")
    digest = "0" * 64
    (tmp_path / "m.csv").write_text(
        "path,age,subject,split,gender,digest\n"
        "a.jpg,24,p,train,male,\n"
        "a2.jpg,37,p,test,male,\n"
        "a3.png,24,p,,male,\n"
        "b.jpg,-2,q,train,woman,\n"
        "c.jpg,old,q,val,female,\n"
        "d.jpg,118,q,val,female,\n"
        f"e.jpg,200,,train,,{digest}\n"
        "cut.jpg,5,,train,,\n"
        "link.jpg,6,,train,,\n"
        "gone.jpg,7,,train,,\n"
        "f.jpg,65,r,test,female,\n"
        "g.jpg,66,r,test,female,\n"
    )
    report = audit(tmp_path / "m.csv", workers=2)
    found = {(f.kind, f.paths) for f in report.findings}
    assert found == {
        ("missing-file", ("link.jpg",)),
        ("missing-file", ("gone.jpg",)),
        ("unreadable", ("cut.jpg",)),
        ("bad-value", ("b.jpg",)),
        ("impossible-age", ("b.jpg",)),
        ("impossible-age", ("c.jpg",)),
        ("impossible-age", ("e.jpg",)),
        ("suspicious-age", ("d.jpg",)),
        ("changed-file", ("e.jpg",)),
        ("byte-identical", ("a.jpg", "a2.jpg")),
        ("near-identical", ("a.jpg", "a3.png")),
        ("conflicting-ages", ("a.jpg", "a2.jpg", "a3.png")),
        ("image-on-two-sides", ("a.jpg", "a2.jpg")),
        ("subject-on-two-sides", ("a.jpg", "a2.jpg")),
        ("subject-on-two-sides", ("b.jpg", "c.jpg", "d.jpg")),
    }
    assert len(report.findings) == len(found)
    details = {f.paths: f.detail for f in report.findings if f.kind != "byte-identical"}
    assert details["b.jpg", "c.jpg", "d.jpg"] == "subject q: 1 in train, 2 in val"
    assert "mirrored" in details["a.jpg", "a3.png"]
    assert details["a.jpg", "a2.jpg", "a3.png"] == "ages 24/37/24"
    assert [f.kind for f in report.findings] == sorted(
        (f.kind for f in report.findings), key=list(KINDS).index
    )
    assert report.counts["impossible-age"] == 3
    assert report.images == 12
    assert report.ages == {"0-9": 3, "20-29": 2, "30-39": 1, "60-69": 2, "110-119": 1}
    assert report.groups["split"] == {"": 1, "test": 3, "train": 6, "val": 2}
    frame = report.to_frame()
    assert list(frame.columns) == ["kind", "paths", "detail"]
    assert len(frame) == 15
    told = json.loads(json.dumps(report.to_dict()))
    assert told["counts"] == report.counts
    assert told["findings"][0]["paths"] == ["link.jpg"]


def test_bands_are_counted_and_those_that_overlap_are_told(tmp_path: Path) -> None:
    for seed, name in enumerate("abcdef"):
        save_scene(tmp_path / f"{name}.jpg", seed)
    shutil.copy(tmp_path / "f.jpg", tmp_path / "f2.jpg")
    (tmp_path / "m.csv").write_text(
        "path,age,age_low,age_high,dataset\n"
        "a.jpg,,20,29,one\n"
        "b.jpg,,29,39,one\n"
        "c.jpg,,40,49,one\n"
        "d.jpg,,45,54,two\n"
        "e.jpg,7,,,two\n"
        "f.jpg,,60,,two\n"
        "f2.jpg,,40,49,one\n"
    )
    report = audit(tmp_path / "m.csv")
    told = [(f.kind, f.paths, f.detail) for f in report.findings]
    assert told == [
        ("overlapping-bands", ("a.jpg", "b.jpg"), "20-29 and 29-39: the first of each"),
        ("byte-identical", ("f.jpg", "f2.jpg"), "2 copies"),
        ("conflicting-ages", ("f.jpg", "f2.jpg"), "ages 60+/40-49"),
    ]
    assert report.ages == {"0-9": 1}
    assert report.bands == {"20-29": 1, "29-39": 1, "40-49": 2, "45-54": 1, "60+": 1}


def test_a_good_manifest_has_no_finding(tmp_path: Path) -> None:
    for seed in range(3):
        save_scene(tmp_path / f"{seed}.png", seed)
    prints = fingerprint_images([tmp_path / f"{seed}.png" for seed in range(3)])
    table = pd.DataFrame({"path": ["0.png", "1.png", "2.png"], "age": [1, 2, 3], "digest": prints.digests})
    table.assign(subject=["s", "s", "t"], split=["train", "train", "test"]).to_csv(
        tmp_path / "m.csv", index=False
    )
    report = audit(tmp_path / "m.csv")
    assert report.findings == []
    assert report.counts == {}
    assert len(report.to_frame()) == 0


def test_a_folder_without_labels(tmp_path: Path) -> None:
    save_scene(tmp_path / "one" / "a.png", 1)
    save_scene(tmp_path / "two" / "b.JPG", 1, quality=60)
    save_scene(tmp_path / "c.png", 2)
    (tmp_path / "two" / "empty.webp").touch()
    (tmp_path / "notes.txt").touch()
    calls: list[tuple[int, int]] = []
    report = audit(tmp_path, progress=lambda *call: calls.append(call))
    assert [(f.kind, f.paths) for f in report.findings] == [
        ("unreadable", ("two/empty.webp",)),
        ("near-identical", ("one/a.png", "two/b.JPG")),
    ]
    assert (report.images, report.ages, report.groups) == (4, {}, {})
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_read_by_a_data_set(tmp_path: Path) -> None:
    save_scene(tmp_path / "24_0_0_20170101000000000.jpg.chip.jpg", 1)
    shutil.copy(
        tmp_path / "24_0_0_20170101000000000.jpg.chip.jpg", tmp_path / "37_1_20170101000000001.jpg.chip.jpg"
    )
    report = audit(tmp_path, dataset="utkface")
    assert report.counts == {"malformed-name": 1, "byte-identical": 1, "conflicting-ages": 1}
    assert report.groups == {"gender": {"": 1, "male": 1}, "ethnicity": {"": 1, "White": 1}}


def test_fgnet_findings_are_kinds(tmp_path: Path) -> None:
    save_scene(tmp_path / "images" / "001A02.JPG", 1)
    save_scene(tmp_path / "images" / "holiday.JPG", 2)
    report = audit(tmp_path, dataset="fgnet")
    assert report.counts == {"malformed-name": 1, "missing-points": 1}


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image"):
        audit(tmp_path)
    with pytest.raises(InputError, match="there are afad"):
        audit(tmp_path, dataset="faces")
    with pytest.raises(ManifestError, match="No such file"):
        audit(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_text("file,age\na.jpg,3\n")
    with pytest.raises(ManifestError, match="found: file, age"):
        audit(tmp_path / "m.csv")
    with pytest.raises(InputError, match="read from its folder"):
        audit(tmp_path / "m.csv", dataset="utkface")


def test_real_fgnet_is_clean(shared: Path) -> None:
    report = audit(shared / "data" / "FG-NET", dataset="fgnet", workers=1)
    assert report.counts == {}
    assert sum(report.ages.values()) == report.images == 1002


def test_ages_by_year_are_drawn_from_head_to_tail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["path,age"]
    for number, age in enumerate((20, 20.7, 20, 35, 35, 71)):
        save_scene(tmp_path / f"{number}.png", number)
        lines.append(f"{number}.png,{age}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    assert audit(tmp_path / "m.csv").years == {20: 3, 35: 2, 71: 1}
    figure = age_histogram({35: 2, 20: 3, 71: 1})
    by_age, by_rank = figure.axes
    heights = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in by_age.patches}
    assert {age: height for age, height in heights.items() if height} == {20: 3, 35: 2, 71: 1}
    assert [bar.get_height() for bar in by_rank.patches] == [3, 2, 1]
    assert by_rank.texts[0].get_text() == "half of the images: 1 of 3 ages"
    with pytest.raises(SystemExit) as stopped:
        cli.app(["audit", str(tmp_path / "m.csv"), "--plot", str(tmp_path / "figures")])
    assert stopped.value.code == 0, capsys.readouterr().err
    assert {"ages.png", "ages.svg"} == {path.name for path in (tmp_path / "figures").iterdir()}
    with pytest.raises(InputError, match="no image of known age"):
        age_histogram({})
