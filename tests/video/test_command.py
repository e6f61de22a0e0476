"""agelens video and estimate_video from clip to files: rows, copies, drawings, errors, going on."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

av = pytest.importorskip("av", reason="clips need the extra video")

import agelens  # noqa: E402
from agelens.apps.cli import app  # noqa: E402
from agelens.inference.estimator import AgeEstimator  # noqa: E402
from agelens.video import estimate as estimate_module  # noqa: E402
from agelens.video.clips import ClipTask  # noqa: E402
from agelens.video.person import FrameAges  # noqa: E402
from agelens.video.rows import FRAME_COLUMNS, PERSON_COLUMNS  # noqa: E402

MODEL = "student-strided-fairface-int8"
FRAMES = 12


@pytest.fixture(scope="module")
def clip(
    tmp_path_factory: pytest.TempPathFactory,
    write_clip: Callable[..., Path],
    moving_portrait: Callable[..., list[NDArray[np.uint8]]],
) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "a clip.mp4", moving_portrait(FRAMES))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]) -> Path:
    """A clip without a face."""
    frames = [np.full((48, 64, 3), 90 + number, np.uint8) for number in range(4)]
    return write_clip(tmp_path_factory.mktemp("clips") / "empty.mp4", frames)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["video", "--model", MODEL, *map(str, arguments)], input=stdin)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_from_python(clip: Path) -> None:
    seen: list[FrameAges] = []
    (person,) = agelens.estimate_video(clip, model=MODEL, on_frame=seen.append)
    assert [frame.number for frame in seen] == list(range(FRAMES))
    assert [len(frame.people) for frame in seen] == [0, 0] + [1] * (FRAMES - 2)
    ages = [frame.people[0].face.age for frame in seen[2:]]
    last = seen[-1].people[0]
    assert (person.person, person.frames, person.first) == (1, FRAMES, 0.0)
    assert person.last == pytest.approx((FRAMES - 1) / 15, abs=1e-3)
    assert person.age == last.shown.age
    assert min(ages) - 1 < person.age < max(ages) + 1
    low, high = person.interval(0.9)
    assert low < person.age < high
    assert person.shown_deviation < person.deviation
    assert 0 <= person.probability_at_least(18) <= 1
    told = person.to_dict()
    assert len(told["distribution"]) == 101
    json.dumps(told)


def test_every_nth_frame_and_a_clip_shorter_than_a_person(clip: Path, tmp_path: Path) -> None:
    (person,) = agelens.estimate_video(clip, model=MODEL, every=6)
    assert person.frames == 2
    assert agelens.estimate_video(io.BytesIO(clip.read_bytes()), model=MODEL)[0].frames == FRAMES


def test_a_single_frame(portrait: Path) -> None:
    seen: list[FrameAges] = []
    (person,) = agelens.estimate_video(portrait, model=MODEL, on_frame=seen.append)
    (face,) = agelens.estimate(seen[0].pixels, model=MODEL)
    assert person.age == pytest.approx(face.age, abs=0.01)
    assert (person.frames, person.deviation) == (1, 0)


def test_table_on_the_terminal(clip: Path) -> None:
    done = run(clip)
    assert done.exit_code == 0, done.output
    head, line = done.stdout.splitlines()
    assert head.split() == list(PERSON_COLUMNS)
    assert "a clip.mp4" in line
    assert f"{FRAMES} frames, 1 people" in done.stderr


def test_files_of_a_folder(clip: Path, empty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(clip, empty, "--out", out, "--frames", "--annotate", "--timeline", "--level", 0.8)
    assert done.exit_code == 0, done.output
    people = rows((out / "people.csv").read_text())
    assert [row["person"] for row in people] == ["1", ""]
    assert people[1]["error"] == "no face found"
    (table,) = out.glob("a_clip-*.frames.csv")
    frames = rows(table.read_text())
    assert tuple(frames[0]) == FRAME_COLUMNS
    assert len(frames) == FRAMES - 2
    assert frames[-1]["shown"] == people[0]["age"]
    assert (frames[-1]["low"], frames[-1]["high"]) == (people[0]["low"], people[0]["high"])
    (copy,) = out.glob("a_clip-*.mp4")
    with av.open(str(copy)) as opened:
        (stream,) = opened.streams.video
        times = [frame.time for frame in opened.decode(stream)]
        assert (stream.width, stream.height) == (240, 180)
    np.testing.assert_allclose(times, np.arange(FRAMES) / 15, atol=0.002)
    (drawing,) = out.glob("a_clip-*.svg")
    assert "person 1" in "".join(ElementTree.parse(drawing).getroot().itertext())
    assert "no face found" in next(out.glob("empty-*.svg")).read_text()
    assert rows(next(out.glob("empty-*.frames.csv")).read_text()) == []


def test_rows_of_frames_as_they_come(clip: Path, empty: Path, tmp_path: Path) -> None:
    done = run(clip, empty, tmp_path / "none.mp4", "--frames", "--format", "jsonl")
    assert done.exit_code == 1
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["frame"] for row in told] == list(range(2, FRAMES))
    assert {tuple(row) for row in told} == {FRAME_COLUMNS}
    assert "none.mp4: no such file" in done.stderr

    written: list[int] = []

    def show(rows: list[dict[str, object]]) -> None:
        written.append(len(rows))
        if len(written) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ClipTask(AgeEstimator(MODEL), show=show).run(clip)
    assert written == [0, 0, 1, 1, 1], "not when the clip has ended"


def test_a_name_that_is_no_text(clip: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n\x01.mp4")
    try:
        shutil.copy(clip, tmp_path / name)
    except OSError:
        pytest.skip("this file system takes text alone")
    done = run(tmp_path / name, "--out", tmp_path / "out", "--frames", "--annotate", "--timeline")
    assert done.exit_code == 0, done.output
    assert "\\n\\x01.mp4: 12 frames, 1 people" in done.stderr
    (drawing,) = (tmp_path / "out").glob("*.svg")
    assert "\\n\\x01.mp4: age" in "".join(ElementTree.parse(drawing).getroot().itertext())


def test_json_lines(clip: Path, empty: Path, tmp_path: Path) -> None:
    done = run(clip, empty, "--out", tmp_path, "--format", "jsonl", "--frames")
    assert done.exit_code == 0, done.output
    first, second = map(json.loads, (tmp_path / "people.jsonl").read_text().splitlines())
    assert list(first) == list(second) == list(PERSON_COLUMNS)
    assert first["frames"] == FRAMES
    assert second["person"] is None
    (table,) = tmp_path.glob("a_clip-*.frames.jsonl")
    assert [json.loads(line)["frame"] for line in table.read_text().splitlines()] == list(range(2, FRAMES))


def test_a_stream_on_stdin(clip: Path) -> None:
    done = run("-", "--format", "csv", stdin=clip.read_bytes())
    assert done.exit_code == 0, done.output
    assert [row["path"] for row in rows(done.stdout)] == ["-"]


def test_clips_that_cannot_be_read_are_rows(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").touch()
    done = run(tmp_path / "zero.mp4", clip, tmp_path / "none.mp4", "--format", "csv")
    assert done.exit_code == 1
    assert [row["error"] for row in rows(done.stdout)] == ["is empty", "", "no such file"]
    assert "2 of 3 clips could not be read" in done.stderr


def test_a_clip_that_breaks_off_keeps_its_people(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = estimate_module.VideoReader._decoded

    def breaking(self: estimate_module.VideoReader) -> object:
        for number, frame in enumerate(decoded(self)):
            if number == 8:
                self.remarks.append("cannot be decoded: No such device")
                self.broken = True
                return
            yield frame

    monkeypatch.setattr(estimate_module.VideoReader, "_decoded", breaking)
    done = run(clip, "--out", tmp_path, "--annotate")
    assert done.exit_code == 1
    (row,) = rows((tmp_path / "people.csv").read_text())
    assert (row["frames"], row["remarks"]) == ("8", "cannot be decoded: No such device")
    assert list(tmp_path.glob("*.mp4"))


def test_seconds_leave_a_clip_early(clip: Path) -> None:
    done = run(clip, "--seconds", 0.3, "--format", "csv")
    assert done.exit_code == 0, done.output
    assert 4 <= int(rows(done.stdout)[0]["frames"]) <= 7
    (person,) = agelens.estimate_video(clip, model=MODEL, seconds=0.3)
    assert person.last == pytest.approx(5 / 15, abs=1e-3)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_seconds_that_are_none(clip: Path, seconds: float) -> None:
    done = run(clip, f"--seconds={seconds}")
    assert done.exit_code == 2
    assert f"a clip is left after a number of seconds, not {seconds}" in done.stderr


def test_a_stream_that_is_interrupted_keeps_its_people(clip: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done == 8:
            raise KeyboardInterrupt

    task = ClipTask(AgeEstimator(MODEL))
    told = task.run(io.BytesIO(clip.read_bytes()), interrupt)
    (person,) = told.people
    assert (person.frames, told.error, told.broken) == (8, "", False)
    with pytest.raises(KeyboardInterrupt):
        task.run(clip, interrupt)


def test_going_on_after_the_clips_that_are_done(
    clip: Path, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = shutil.copy(clip, tmp_path / "second.mp4")
    out, whole = tmp_path / "out", tmp_path / "whole"
    clips = [clip, empty, second]
    estimated: list[str] = []
    original = ClipTask.run

    def interrupted(self: ClipTask, source: str, *rest: object) -> object:
        if len(estimated) == 2:
            raise KeyboardInterrupt
        estimated.append(source)
        return original(self, source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ClipTask, "run", interrupted)
    done = run(*clips, "--out", out, "--resume")
    assert done.exit_code == 130
    assert "2 clips are kept" in done.stderr
    assert not (out / "people.csv").exists()
    changed = run(*clips, "--out", out, "--resume", "--level", 0.5)
    assert changed.exit_code == 2
    assert "other settings" in changed.stderr
    estimated.clear()
    assert run(*clips, "--out", out, "--resume").exit_code == 0
    assert estimated == [str(second)]
    monkeypatch.setattr(ClipTask, "run", original)
    assert run(*clips, "--out", whole).exit_code == 0
    assert (out / "people.csv").read_bytes() == (whole / "people.csv").read_bytes()
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--annotate"], "need --out FOLDER"),
        (["--resume"], "need --out FOLDER"),
        (["--threshold", "nan"], "a threshold is a number of years"),
        (["--out", "x", "--format", "table"], "--out writes csv or jsonl"),
    ],
)
def test_options_that_contradict(clip: Path, options: list[str], told: str) -> None:
    done = run(clip, *options)
    assert done.exit_code == 2
    assert told in done.stderr


def test_without_the_extra(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    done = run(clip)
    assert done.exit_code == 2
    assert "pip install '.[video]'" in done.stderr


def test_an_interval_is_that_of_the_estimator(clip: Path) -> None:
    (person,) = agelens.estimate_video(clip, model=MODEL)
    estimator = AgeEstimator(MODEL)
    assert person.estimate.calibration == estimator.card.calibration
    assert person.age_bins == estimator.card.age_bins
