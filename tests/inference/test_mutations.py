"""Damaged images of every format get one answer each: a sample of ``scripts/check_mutations.py``."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from agelens import AgeEstimator
from agelens.apps.cli import app
from agelens.errors import UnreadableImageError
from agelens.faces.decoder_messages import quiet_pillow
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.image import read_image


@pytest.fixture(scope="module")
def images(mutations: ModuleType) -> list[Any]:
    """180 of them."""
    return list(mutations.Images(1, 0, 180))


def test_images_are_damaged_as_their_seed_says(mutations: ModuleType, images: list[Any]) -> None:
    whole = mutations.pictures()
    assert {image.form for image in images} == set(whole)
    assert {image.kind for image in images} == set(mutations.KINDS)
    assert sum(image.content == whole[image.form] for image in images) < 10
    again, other = mutations.damaged(7, 1, whole), mutations.damaged(7, 2, whole)
    assert again == images[7] != other
    for form in ("jpg-turned", "png-alpha"):  # no date in them
        with Image.open(io.BytesIO(whole[form])) as picture:
            profile = picture.info["icc_profile"]
        assert (profile[24:36], profile[36:40]) == (bytes(12), b"acsp")


@pytest.mark.parametrize("detector", [DEFAULT_DETECTOR, "none"])
def test_python_answers_each(
    mutations: ModuleType, images: list[Any], small_model: Path, detector: str, capfd: Any, caplog: Any
) -> None:
    chosen = images[::4] if detector == DEFAULT_DETECTOR else images
    contents = [image.content for image in chosen]
    photos = list(AgeEstimator(small_model, detector=detector).estimate_many(contents))
    assert [photo.source for photo in photos] == contents
    outcomes = Counter(map(mutations.outcome_of, photos))
    assert outcomes.keys() <= {
        *("ages", "no face", "ages, with a remark", "no face, with a remark"),
        *("UnreadableImageError", "ImageTooLargeError"),
    }
    assert 0.2 < outcomes["UnreadableImageError"] / len(photos) < 0.9
    assert (capfd.readouterr().err, caplog.records) == ("", [])


def test_the_command_line_answers_each(
    mutations: ModuleType, images: list[Any], small_model: Path, tmp_path: Path, capfd: Any
) -> None:
    for image in images[:120]:
        (tmp_path / image.name).write_bytes(image.content)
    arguments = ["--format", "jsonl", "--model", str(small_model), "--detector", "none"]
    done = CliRunner().invoke(app, ["predict", str(tmp_path), *arguments])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = [image.name for image in images[:120]]
    assert mutations.rows_wrong([Path(row["path"]).name for row in rows], names) == []
    assert all((row["error"] is None) == bool(row["faces"]) for row in rows)
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert capfd.readouterr().err == ""


def test_rows_are_counted(mutations: ModuleType) -> None:
    assert mutations.rows_wrong(["a", "b", "b", "d"], ["a", "b", "c"]) == [
        "b: 2 rows",
        "c: 0 rows",
        "d: 1 rows",
    ]


def damaged_tiffs() -> list[bytes]:
    """One that libtiff complains of to stderr, one that Pillow warns of, and one that Pillow logs."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 300), np.uint8)
    Image.fromarray(pixels).save(stream, "TIFF", compression="tiff_adobe_deflate")
    tiff = bytearray(stream.getvalue())
    tiff[2000:9000] = bytes(7000)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF", description="x" * 100)
    content = stream.getvalue()
    entry = content.index((270).to_bytes(2, "little") + (2).to_bytes(2, "little"))
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "TIFF")
    colours = stream.getvalue()
    samples = colours.index((277).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    return [
        bytes(tiff),
        content[: entry + 4] + (2**20).to_bytes(4, "little") + content[entry + 8 :],
        colours[: samples + 8] + b"\x7f" + colours[samples + 9 :],
    ]


def test_decoders_say_nothing_on_stderr(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    complained, warned, logged = damaged_tiffs()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for content in (complained, logged):
            with pytest.raises(UnreadableImageError):
                read_image(content)
        assert read_image(warned).shape == (60, 300, 3)
        before, level = list(warnings.filters), logging.getLogger("PIL").level
        with quiet_pillow():
            with quiet_pillow():
                pass
            assert warnings.filters != before
        assert warnings.filters == before
    assert (caught, caplog.records) == ([], [])
    assert capfd.readouterr().err == ""
    assert logging.getLogger("PIL").level == level


class Stalling:
    """In place of `_predict`: each file has a row, but at the images 3 and 7 nothing comes any more."""

    def __init__(self) -> None:
        self.folders: list[list[int]] = []

    def __call__(self, folder: Path, names: list[str], detector: str, found: Any) -> list[str]:
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
        numbers = [int(name.partition("-")[0]) for name in names]
        self.folders.append(numbers)
        stalled = next((place for place, number in enumerate(numbers) if number in {3, 7}), len(names))
        rows = max(0, stalled - 1) if stalled < len(names) else stalled  # one row waits for its batch
        found.outcomes["ages"] += rows
        if stalled < len(names) and len(names) == 1:
            found.problems.append(f"{numbers[0]}: hangs")
        return names[rows:] if stalled < len(names) > 1 else []


def test_the_command_line_goes_on_after_a_hang(
    mutations: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalling = Stalling()
    monkeypatch.setattr(mutations, "_predict", stalling)
    monkeypatch.setattr(mutations, "_FOLDER", 10)
    found = mutations.through_cli(mutations.Images(1, 0, 20), "none")
    assert (found.problems, found.outcomes["ages"]) == (["3: hangs", "7: hangs"], 18)
    assert stalling.folders[0] == list(range(10))
    assert stalling.folders[-1] == list(range(10, 20))


def test_parts_that_are_done_are_not_done_again(
    mutations: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def door(images: Any, _detector: str) -> Any:
        asked.extend(images.numbers)
        found = mutations.Found(Counter({"ages": 2}), peak=5)
        found.timed("slow", 21.0, 3.0)
        return found

    monkeypatch.setitem(mutations.DOORS, "api", door)
    first, second = mutations.Images(1, 0, 2), mutations.Images(1, 2, 2)
    done = tmp_path / "parts.jsonl"
    before = mutations.part("api", first, "none", done)
    assert before.problems == ["slow: took 21.0 s, 3.0 s of them waiting"]
    assert vars(mutations.part("api", first, "none", done)) == vars(before)
    mutations.part("api", second, "none", done)
    assert asked == [0, 1, 2, 3]
    before.add(mutations.part("api", second, "none", done))
    assert (before.outcomes["ages"], before.slowest, before.peak) == (4, (18.0, 21.0, "slow"), 5)
