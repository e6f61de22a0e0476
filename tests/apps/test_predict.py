"""agelens predict on folders: what is told, kept, escaped and drawn."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agelens.apps import cli
from agelens.apps.command import _interruptible
from agelens.faces.image import Source, read_image
from agelens.inference.entries import Entry, PredictionTask
from agelens.inference.estimator import AgeEstimator


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], small_model: Path) -> Callable[..., tuple[int, str, str]]:
    """``predict(…)`` runs the command with the small model in this process: exit code, stdout, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.app(["predict", *map(str, arguments), "--model", str(small_model)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten aligned crops, 0 to 90 years old for the small model."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (16, 16), (round(number * 25.5),) * 3).save(folder / f"{number}.png")
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_summary_counts_photos_and_names_what_was_passed_over(
    predict: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    for name in ("a.txt", "b.txt", "film.mov", "README"):
        (folder / name).touch()
    code, _, err = predict(folder, "--aligned", "--format", "csv")
    assert code == 0
    assert err == (
        "10 photos: 10 faces, 0 without a face, 0 could not be used; "
        "passed over: 2 .txt, 1 without an ending, 1 .mov\n"
    )


@pytest.mark.parametrize("paths", [["3.png"], [""], ["*.png"]])
def test_no_photo_is_written_over(
    predict: Callable[..., tuple[int, str, str]], folder: Path, paths: list[str]
) -> None:
    before = (folder / "3.png").read_bytes()
    arguments = [folder / path for path in paths]
    code, out, err = predict(*arguments, "--aligned", "--format", "csv", "--out", folder / "3.png")
    assert (code, out) == (2, "")
    assert err == f"error: {folder / '3.png'}: is what this command reads: write to another file\n"
    assert (folder / "3.png").read_bytes() == before


def test_one_photo_has_no_summary(predict: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    assert predict(folder / "3.png", "--aligned")[2] == ""


def test_an_empty_folder_does_not_end_the_others(
    predict: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, out, err = predict(empty, folder, "--aligned", "--format", "csv")
    assert code == 1
    assert len(rows(out)) == 10
    assert f"{empty}: no images in this folder" in err
    assert err.endswith("0 of 10 images could not be used, 1 folders or files could not be searched\n")
    code, out, err = predict(empty, "--aligned")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {empty}: no images in this folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.timeout(60)
def test_a_pipe_in_a_folder_is_not_waited_for(
    predict: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    os.mkfifo(folder / "pipe.png")
    code, out, err = predict(folder, "--aligned", "--format", "csv")
    assert (code, len(rows(out))) == (1, 10)
    assert f"{folder / 'pipe.png'}: is no regular file\n" in err


def test_alignment_and_warnings_are_columns(
    predict: Callable[..., tuple[int, str, str]], tmp_path: Path, portrait: Path
) -> None:
    Image.new("RGB", (100, 100), "white").save(tmp_path / "blank.png")
    (row,) = rows(predict(tmp_path / "blank.png", "--crops", "--format", "csv")[1])
    assert (row["alignment"], row["warnings"]) == ("fallback", "layout_assumed blurred")
    (row,) = rows(predict(portrait, "--format", "csv")[1])
    assert (row["alignment"], row["warnings"]) == ("landmarks", "")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(portrait.read_bytes()[:-2])
    (row,) = rows(predict(cut, "--format", "csv")[1])
    assert row["warnings"] == "damaged_file"
    (told,) = json.loads(predict(cut, "--format", "json")[1])
    assert told["remarks"] == ["the file lacks its end; the last rows may be damaged"]
    assert "layout_assumed" in predict(tmp_path / "blank.png", "--crops")[1]


def test_strange_names_are_escaped(predict: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for name in ("=1+1.png", "a\x1b[31m.png", "two\nlines.png", "-5.png", "-x.png", "ü.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    table = predict(tmp_path, "--aligned")[1]
    assert len(table.splitlines()) == 7
    assert "\x1b" not in table
    assert "a\\x1b[31m.png" in table
    assert "two\\nlines.png" in table
    assert "ü.png" in table
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        sheet = predict("=1+1.png", "./-x.png", "ü.png", "--aligned", "--format", "spreadsheet")[1]
        missing = predict("gone\x1b[31m", "--aligned", "--resume", "--out", "a\x1b.txt/b.csv")
    finally:
        os.chdir(here)
    assert "--format spreadsheet --out ages.csv" in predict(tmp_path, "--out", "ages.xlsx")[2]
    assert sheet.startswith("\ufeffpath,")
    assert [row["path"] for row in rows(sheet.removeprefix("\ufeff"))] == ["'=1+1.png", "'-x.png", "ü.png"]
    assert "\x1b" not in missing[2]


def test_addresses_and_detectors_in_the_commands_words(
    predict: Callable[..., tuple[int, str, str]], portrait: Path
) -> None:
    code, out, err = predict("https://example.org/a.jpg?size=1")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.endswith("curl -s ADDRESS | agelens predict -\n")
    code, out, err = predict("data:image/png;base64," + "A" * 90_000, portrait, "--format", "csv")
    assert (code, len(rows(out)), len(err.splitlines())) == (1, 1, 2)
    assert len(err) < 400
    assert predict(portrait, "--detector", "yunet")[0] == 0
    code, _, err = predict(portrait, "--detector", "yunet", "--detector-model", "gone.onnx")
    assert (code, err.partition(" (")[0]) == (2, "error: gone.onnx: No such file or directory")
    code, _, err = predict(portrait, "--min-face", "3")
    assert (code, err) == (2, "error: --min-face is at least 12 pixels, not 3.0\n")
    assert "--min-confidence is 0 to 1, not 7" in predict(portrait, "--min-confidence", "7")[2]
    assert predict(portrait, "--max-side", "400", "--min-face", "30", "--min-confidence", "0.9")[0] == 0
    assert "no face of 400 pixels or more found" in predict(portrait, "--min-face", "400")[1]


def test_a_dash_is_stdout(predict: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)
    try:
        code, out, _ = predict("3.png", "--aligned", "--format", "csv", "--out", "-")
    finally:
        os.chdir(here)
    assert code == 0
    assert len(rows(out)) == 1
    assert not (folder / "-").exists()


def test_json_lines(predict: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ages.jsonl"
    predict(folder, "--aligned", "--out", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == json.loads(predict(folder, "--aligned", "--format", "json")[1])
    assert len(lines) == 10
    assert lines[0]["faces"][0]["alignment"] == "aligned"


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "spreadsheet", "table"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    predict: Callable[..., tuple[int, str, str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "ages"
    (folder / "bad.png").write_bytes(b"no image")
    expected = predict(folder, "--aligned", "--format", form, "--out", whole)
    common = (folder, "--aligned", "--format", form, "--out", out, "--resume")
    estimate_many, seen = AgeEstimator.estimate_many, []

    def interrupted(self: AgeEstimator, sources: Iterator[Path], **options: bool) -> Iterator[object]:
        for number, photo in enumerate(estimate_many(self, sources, **options)):
            if number == 4:
                raise KeyboardInterrupt
            seen.append(photo.source)
            yield photo

    monkeypatch.setattr(AgeEstimator, "estimate_many", interrupted)
    partial = tmp_path / "ages.partial"
    for kept in (4, 8):
        code, _, err = predict(*common)
        assert code == 130
        assert err == f"interrupted; {kept} photos are kept in {partial}: --resume goes on\n"
        assert not out.exists()
        with partial.open("ab") as handle:
            handle.write(b'{"path": "half a li')  # as a kill in the middle of a line would leave it
    assert predict(*common) == expected
    assert len(seen) == len(set(seen)) == 11
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_journal_of_other_settings_is_refused(
    predict: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "ages.csv", tmp_path / "ages.csv.partial"
    partial.write_text('{"model": "another"}\n')
    code, _, err = predict(folder, "--aligned", "--out", out, "--resume")
    assert code == 2
    assert f"{partial} is of a run with other settings" in err
    for arguments in ((folder, "--resume"), ("-", "--resume", "--out", out)):
        code, _, err = predict(*arguments)
        assert (code, err) == (2, "error: --resume needs --out FILE, and photos that are files\n")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_killed_run_goes_on(
    predict: Callable[..., tuple[int, str, str]], small_model: Path, portrait: Path, tmp_path: Path
) -> None:
    photos, out, partial = (tmp_path / name for name in ("photos", "ages.csv", "ages.csv.partial"))
    photos.mkdir()
    for number in range(400):  # seconds of work
        (photos / f"{number:03}.jpg").symlink_to(portrait)
    command = [sys.executable, "-m", "agelens", "predict", photos, "--out", out, "--resume"]
    process = subprocess.Popen([*map(str, command), "--model", str(small_model)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not out.exists()
    code, _, err = predict(photos, "--out", out, "--resume")
    assert code == 0
    assert err.startswith("400 photos: 400 faces")
    ages = [row["age"] for row in rows(out.read_text())]
    assert len(ages) == 400
    assert len(set(ages)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_module_is_loaded_ends_without_a_traceback(
    portrait: Path, tmp_path: Path, number: signal.Signals
) -> None:
    code = f"""
import os, sys
class Finder:  # a signal comes in the middle of onnxruntime's import, which turns it into an ImportError
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime.capi.onnxruntime_pybind11_state":
            try:
                os.kill(os.getpid(), {int(number)})
                for _ in range(1000): pass
            except KeyboardInterrupt:
                raise ImportError("initialization failed")
sys.meta_path.insert(0, Finder())
from agelens.__main__ import main
main()
"""
    out = tmp_path / "ages.csv"
    process = subprocess.run(
        [sys.executable, "-c", code, "predict", portrait, "--out", out],
        capture_output=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (process.returncode, process.stderr) == (130, b"interrupted; no file was written\n")
    assert not [*tmp_path.iterdir()]


def test_a_second_signal_does_not_end_an_import_that_the_first_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    class Timer:
        def __init__(self, *_: object) -> None:
            self.daemon = False

        def start(self) -> None:
            started.append(self.daemon)
            if len(started) == 1:  # as on a busy machine, where a timer ends before its start returns
                signal.raise_signal(signal.SIGINT)

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "module_of_two_signals":
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("agelens.apps.command.threading.Timer", Timer)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    try:
        with _interruptible(True), pytest.raises(ModuleNotFoundError):
            importlib.import_module("module_of_two_signals")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert started == [True, True]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.05, 0.3, "writing"])
def test_a_signal_ends_without_a_traceback_or_a_file(
    small_model: Path, portrait: Path, tmp_path: Path, number: signal.Signals, delay: float | str
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "ages.csv"
    photos.mkdir()
    for count in range(300):
        (photos / f"{count}.jpg").symlink_to(portrait)
    code = "import os; os.write(1, b'.'); from agelens.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "predict", photos, "--out", out, "--model", small_model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    process.stdout.read(1)
    deadline = time.monotonic() + 120
    if isinstance(delay, float):
        time.sleep(delay)
    else:
        while not list(tmp_path.glob(".ages.*.csv")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if delay == "writing":
        assert (process.returncode, err) == (130, b"interrupted; no file was written\n")
    assert b"Traceback" not in err or delay == 0.05  # Python itself may still be starting
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_faces_and_annotated_photos_are_saved(
    predict: Callable[..., tuple[int, str, str]], portrait: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (60, 60)).save(tmp_path / "none.png")
    faces, drawn = tmp_path / "faces", tmp_path / "drawn"
    code, _, _ = predict(portrait, tmp_path / "none.png", "--save-faces", faces, "--annotate", drawn)
    assert code == 0
    (crop,) = faces.iterdir()
    assert crop.name.startswith("astronaut-")
    assert crop.name.endswith("-1.png")
    assert read_image(crop).shape == (16, 16, 3)
    pictures = sorted(drawn.iterdir())
    assert [path.name.partition("-")[0] for path in pictures] == ["astronaut", "none"]
    before, after = read_image(portrait).astype(int), read_image(pictures[0]).astype(int)
    assert after.shape == before.shape
    yellow = (np.abs(after - (255, 200, 0)).max(axis=2) < 60) & (np.abs(after - before).max(axis=2) > 40)
    ys, xs = np.nonzero(yellow)
    assert 100 < xs.min() < 190
    assert 260 < xs.max() < 350
    assert 20 < ys.min() < 60 < 170 < ys.max() < 190


def test_workers_give_the_same_in_the_same_order(
    predict: Callable[..., tuple[int, str, str]], portrait: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        (photos / f"{number:02}.jpg").symlink_to(portrait)
    (photos / "17.jpg").unlink()
    (photos / "17.jpg").write_bytes(b"no image")
    alone = predict(photos, "--format", "csv", "--save-faces", tmp_path / "alone")
    shared = predict(photos, "--format", "csv", "--workers", "2", "--save-faces", tmp_path / "shared")
    assert shared == alone
    assert alone[0] == 1
    assert len(rows(alone[1])) == 40
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("alone", "shared")]
    assert names[0] == names[1]
    assert len(names[0]) == 39
    out = tmp_path / "ages.csv"
    assert predict(photos, "--out", out, "--resume", "--workers", "2")[0] == 1
    assert out.read_text() == alone[1]
    code, _, err = predict(photos, "--workers", "100000")
    assert (code, err) == (2, "error: workers is at most 1024, not 100000\n")
    code, _, err = predict(photos, "--provider", "tpu")
    assert (code, err) == (2, "error: provider is one of cpu, cuda, openvino, coreml, not 'tpu'\n")


def test_many_photos_are_shared_by_all_cores(
    predict: Callable[..., tuple[int, str, str]],
    portrait: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def entries(self: PredictionTask, sources: Iterable[Source], workers: int) -> Iterator[Entry]:
        asked.append(workers)
        return iter(())

    monkeypatch.setattr(PredictionTask, "entries", entries)
    monkeypatch.setattr("agelens.cores.usable_cores", lambda: 7)
    for number in range(3):
        (tmp_path / f"{number}.jpg").symlink_to(portrait)
    for many in (4, 3):
        monkeypatch.setattr("agelens.apps.commands.predict._MANY", many)
        predict(tmp_path)
    predict(tmp_path, "--threads", "3")
    predict(tmp_path, "--workers", "1")
    assert asked == [1, 7, 2, 1]
