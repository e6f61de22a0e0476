"""The command line: what it prints, where its failures go, and with which exit code."""

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens import __version__
from agelens.apps import cli
from agelens.apps.command import _interruptible
from agelens.inference.estimator import AgeEstimator
from agelens.inference.shipped_models import MODELS
from agelens.inference.writers import PRINTED_COLUMNS

HEADER = "path,face,age,low,high,p_at_least,x1,y1,x2,y2,confidence,alignment,warnings,error"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out)))


def start(
    *arguments: str | Path, blocked: str | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without one package if so wished."""
    block = f"import sys; sys.modules[{blocked!r}] = None; " if blocked else ""
    code = block + "from agelens.apps.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def agelens(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``agelens("predict", …)`` runs the command line in this process."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.app([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(int(stopped.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder of aligned grey crops of 20, 40 and 60 years, for `small_model`."""
    folder = tmp_path / "crops"
    (folder / "deeper").mkdir(parents=True)
    for age, name in ((20, "a.png"), (40, "b.png"), (60, "deeper/c.png")):
        Image.new("RGB", (16, 16), (round(age * 2.55),) * 3).save(folder / name)
    return folder


def test_version_and_help(agelens: Callable[..., Done]) -> None:
    assert agelens("--version").out == f"agelens {__version__}\n"
    shown = agelens("--help")
    assert shown.code == 0
    for command in ("predict", "audit", "prepare", "train", "evaluate", "export", "models", "datasets"):
        assert command in shown.out
        assert agelens(command, "--help").code == 0


def test_csv_of_a_photo(agelens: Callable[..., Done], small_model: Path, portrait: Path) -> None:
    done = agelens("predict", portrait, "--model", small_model, "--format", "csv", "--threshold", "60")
    assert done.code == 0
    assert done.out.splitlines()[0] == HEADER == ",".join(PRINTED_COLUMNS)
    (row,) = done.rows
    (face,) = AgeEstimator(small_model).estimate(portrait)
    assert row["path"] == str(portrait)
    assert row["face"] == "1"
    assert row["error"] == ""
    shown = [float(row[name]) for name in ("age", "low", "high", "p_at_least")]
    assert shown == pytest.approx([face.age, *face.interval(0.9), face.probability_at_least(60)], abs=0.006)
    assert [float(row[name]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx(face.box, abs=0.06)


def test_level_widens_the_interval(agelens: Callable[..., Done], small_model: Path, crops: Path) -> None:
    widths = []
    for level in ("0.5", "0.95"):
        done = agelens(
            *("predict", crops / "b.png", "--aligned", "--model", small_model),
            *("--format", "csv", "--level", level),
        )
        widths.append(float(done.rows[0]["high"]) - float(done.rows[0]["low"]))
    assert 0 < widths[0] < widths[1]
    assert agelens("predict", crops, "--model", small_model, "--level", "1.5").code == 2


def test_folders_and_patterns(
    agelens: Callable[..., Done], small_model: Path, crops: Path, tmp_path: Path
) -> None:
    common = ("--aligned", "--model", small_model, "--format", "csv")
    (crops / "note.txt").write_text("not a photo")
    folder = agelens("predict", crops, *common)
    assert folder.code == 0
    assert [Path(row["path"]).name for row in folder.rows] == ["a.png", "b.png", "c.png"]
    assert [float(row["age"]) for row in folder.rows] == pytest.approx([20, 40, 60], abs=0.2)
    pattern = agelens("predict", crops / "*.png", *common)
    assert [Path(row["path"]).name for row in pattern.rows] == ["a.png", "b.png"]
    (tmp_path / "empty").mkdir()
    empty = agelens("predict", tmp_path / "empty", *common)
    assert empty.code == 2
    assert empty.err.startswith("error: ")
    assert "empty" in empty.err


def test_bytes_from_stdin(
    agelens: Callable[..., Done], small_model: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO((crops / "b.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    done = agelens("predict", "-", "--aligned", "--model", small_model, "--format", "csv")
    assert done.code == 0
    assert [(row["path"], round(float(row["age"]))) for row in done.rows] == [("-", 40)]


def test_bad_files_are_rows_and_the_rest_is_done(
    agelens: Callable[..., Done], small_model: Path, crops: Path
) -> None:
    whole = (crops / "a.png").read_bytes()
    bad = {"empty.png": b"", "text.jpg": b"no image at all", "cut.png": whole[: len(whole) // 2]}
    for name, content in bad.items():
        (crops / name).write_bytes(content)
    (crops / "link.jpg").symlink_to(crops / "nowhere.jpg")
    Image.new("1", (3000, 3000)).save(crops / "huge.png")
    done = agelens(
        *("predict", crops, "--aligned", "--model", small_model),
        *("--format", "csv", "--max-pixels", "1000000"),
    )
    assert done.code == 1
    failed = {Path(row["path"]).name: row["error"] for row in done.rows if row["error"]}
    assert set(failed) == {*bad, "link.jpg", "huge.png"}
    assert "3000" in failed["huge.png"]
    assert len(done.rows) - len(failed) == 3
    assert f"5 of {len(done.rows)} images could not be used" in done.err
    for row in done.rows:
        assert (row["age"] == "") == bool(row["error"])
        assert str(crops) not in row["error"]


def test_a_missing_file_is_no_traceback(agelens: Callable[..., Done], small_model: Path, crops: Path) -> None:
    done = agelens(
        *("predict", crops / "gone.png", crops / "a.png", "--aligned"),
        *("--model", small_model, "--format", "csv"),
    )
    assert done.code == 1
    assert [bool(row["error"]) for row in done.rows] == [True, False]


def test_no_face_is_a_row_but_no_failure(
    agelens: Callable[..., Done], small_model: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (100, 100), "white").save(tmp_path / "wall.png")
    done = agelens("predict", tmp_path, "--model", small_model, "--format", "csv")
    assert done.code == 0
    assert [row["error"] for row in done.rows] == ["no face of 40 pixels or more found"]
    chip = agelens("predict", tmp_path, "--crops", "--model", small_model, "--format", "csv")
    assert [(row["error"], row["x1"]) for row in chip.rows] == [("", "")]
    assert float(chip.rows[0]["age"]) == pytest.approx(100, abs=0.5)


def test_json(agelens: Callable[..., Done], small_model: Path, crops: Path) -> None:
    (crops / "text.jpg").write_bytes(b"no image")
    done = agelens("predict", crops, "--aligned", "--model", small_model, "--format", "json")
    assert done.code == 1
    told = {Path(photo["path"]).name: photo for photo in json.loads(done.out)}
    assert told["a.png"]["faces"][0]["age"] == pytest.approx(20, abs=0.2)
    assert told["a.png"]["error"] is None
    assert told["text.jpg"]["faces"] == []
    assert told["text.jpg"]["error"]


def test_table(agelens: Callable[..., Done], small_model: Path, crops: Path) -> None:
    done = agelens("predict", crops, "--aligned", "--model", small_model, "--threshold", "30")
    header, *lines = done.out.splitlines()
    assert header.split()[:5] == ["photo", "face", "age", "90%", "interval"]
    assert "P(age >= 30)" in header
    assert [round(float(line.split()[2])) for line in lines] == [20, 40, 60]


def test_out_is_written_whole_or_not_at_all(
    agelens: Callable[..., Done],
    small_model: Path,
    crops: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "ages.csv"
    common = ("predict", crops, "--aligned", "--model", small_model, "--out", out)
    assert agelens(*common).out == ""
    first = out.read_text()
    assert first.splitlines()[0] == HEADER
    assert len(first.splitlines()) == 4

    def interrupt(*_: object, **__: object) -> Iterator[object]:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(AgeEstimator, "estimate_many", interrupt)
    done = agelens(*common)
    assert done.code == 130
    assert done.err == "interrupted; no file was written\n"
    assert out.read_text() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ages.csv", "crops"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(small_model: Path, crops: Path) -> None:
    with open("/dev/full", "w") as full:
        done = start("predict", crops, "--aligned", "--model", small_model, stdout=full.fileno())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: stdout: cannot write: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_silent(small_model: Path, crops: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = start("predict", crops, "--aligned", "--model", small_model, stdout=writer)
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_control_c_is_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agelens", "predict", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # where the tests run in the background, SIGINT is ignored and a child inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    state, waiting = Path(f"/proc/{process.pid}"), 0
    while waiting < 5:  # until its networks are loaded and it does nothing but wait for stdin
        loaded = "onnxruntime" in (state / "maps").read_text()
        waiting = waiting + 1 if loaded and "pipe_read" in (state / "wchan").read_text() else 0
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted; no file was written\n"
    assert out == ""


def interrupt(*arguments: str | Path, when: Callable[[], bool]) -> tuple[int, str, str]:
    """Run the command line in a process of its own and send it Ctrl-C; give exit code, stdout, stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agelens", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 90
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_control_c_in_a_folder_of_photos(small_model: Path, portrait: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "ages.csv"
    photos.mkdir()
    for number in range(500):  # far more than there is time for
        (photos / f"{number}.jpg").symlink_to(portrait)
    out.write_text("old")
    code, _, err = interrupt(
        *("predict", photos, "--model", small_model, "--out", out),
        when=lambda: len(list(tmp_path.glob(".ages.*.csv"))) == 1,
    )
    assert (code, err) == (130, "interrupted; no file was written\n")
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ages.csv", "photos"]


def test_control_c_waits_until_a_process_has_started() -> None:
    steps = []

    def begin(_: BaseProcess) -> SimpleNamespace:
        signal.raise_signal(signal.SIGINT)
        steps.append("started")
        return SimpleNamespace(sentinel=0, poll=lambda: 0)

    class Worker(BaseProcess):
        _Popen = staticmethod(begin)

    def work() -> None:
        Worker().start()
        steps.append("after")
        time.sleep(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(KeyboardInterrupt), _interruptible(sigterm=True):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["started", "after"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_control_c_in_a_training_that_then_goes_on(
    agelens: Callable[..., Done], utkface: Path, tmp_path: Path
) -> None:
    crops, run = tmp_path / "crops", tmp_path / "run"
    agelens("prepare", "utkface", utkface, "--out", crops, "--detector", "none", "--size", "32")
    train = (
        *("train", "lrn-utkface", "--data", crops / "manifest.csv", "--out", run, "--cpu"),
        *("--set", "train.epochs=12", "--set", "train.batch_size=16", "--set", "train.sizes=[]"),
        *("--set", "network.input_size=32", "--set", "method.settings.generations=1"),
    )
    stage = run / "generation-1"
    code, out, err = interrupt(*train, when=(stage / "checkpoint.safetensors").exists)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; run the command again with --resume to continue"
    assert "Traceback" not in err
    assert not (stage / "network.safetensors").exists()
    assert not list(stage.glob(".*"))

    unfinished = agelens("export", run, "--out", tmp_path / "model.onnx")
    assert unfinished.code == 2
    wanted = "has no finished stage with an age network; go on with --resume"
    assert unfinished.err == f"error: {run}: {wanted}\n"
    assert not (tmp_path / "model.onnx").exists()

    kept = (stage / "log.csv").read_text().splitlines()[1:]
    assert 1 <= len(kept) < 12
    done = agelens(*train, "--resume")
    assert done.code == 0, done.err
    assert "epoch 12/12" in done.err
    assert "epoch 1/12" not in done.err  # it did not begin anew
    epochs = [line.partition(",")[0] for line in (stage / "log.csv").read_text().splitlines()[1:]]
    assert epochs == [str(epoch) for epoch in range(1, 13)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("predict", "photo.jpg", "--model", "nothing"), "no shipped model has this name"),
        (("predict", "photo.jpg", "--crops", "--aligned"), "--crops and --aligned exclude each other"),
        (("predict", "photo.jpg", "--out", "ages.pdf"), "ages.pdf: the suffix is no known format"),
        (("prepare", "imdb", "folder", "--out", "out"), "no data set 'imdb'"),
        (("audit", "no-such-folder"), "no-such-folder"),
        (("prepare", "gone.csv", "--out", "out"), "gone.csv"),
        (("prepare", "gone.csv", "--out", "out", "--geometry", "oval"), "there are agelens-v1, arcface"),
        (("train", "no-recipe", "--data", "gone.csv", "--out", "out"), "no-recipe"),
        (("evaluate", "model", "--data", "gone.csv"), "gone.csv"),
        (("export", "no-run", "--out", "model.onnx"), "no-run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_are_one_line(
    agelens: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.jpg")
    done = agelens(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert reason in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_a_threshold_that_is_no_age(
    agelens: Callable[..., Done], small_model: Path, crops: Path, threshold: str
) -> None:
    done = agelens("predict", crops, "--aligned", "--model", small_model, "--threshold", threshold)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: a threshold is a number of years, not {threshold}\n"


def test_out_cannot_be_a_folder(agelens: Callable[..., Done], small_model: Path, crops: Path) -> None:
    done = agelens("predict", crops, "--aligned", "--model", small_model, "--out", crops)
    assert done.code == 2
    assert done.err == f"error: {crops}: cannot write: it is there and is no regular file\n"


def test_audit_of_a_messy_folder(agelens: Callable[..., Done], crops: Path) -> None:
    (crops / "cut.png").write_bytes((crops / "a.png").read_bytes()[:40])
    (crops / "empty.jpg").touch()
    (crops / "copy.png").write_bytes((crops / "a.png").read_bytes())
    (crops / "link.jpg").symlink_to(crops / "nowhere.jpg")
    done = agelens("audit", crops, "--workers", "1")
    assert done.code == 0
    header, _, *lines = done.out.splitlines()
    assert header.startswith(f"{crops}: 7 images, ")
    found = {line.split()[0]: int(line.split()[1]) for line in lines}
    assert found["missing-file"] == 1
    assert found["unreadable"] == 2
    assert found["byte-identical"] == 1


def test_evaluate_with_rows_missing(agelens: Callable[..., Done], tmp_path: Path) -> None:
    manifest, table = tmp_path / "manifest.csv", tmp_path / "ages.csv"
    manifest.write_text("path,age,split\na.jpg,30,test\nb.jpg,31,test\nc.jpg,20,test\n")
    table.write_text("path,age,error\na.jpg,33,\nc.jpg,,is damaged\n")
    refused = agelens("evaluate", table, "--data", manifest)
    assert refused.code == 2
    assert refused.err == f"error: {table}: 1 of 3 images of the manifest have no prediction: b.jpg\n"
    counted = agelens("evaluate", table, "--data", manifest, "--allow-missing")
    assert counted.code == 0
    assert "failed: 1 images: c.jpg: is damaged\nmissing: 1 images: b.jpg\n" in counted.out
    gone = agelens("evaluate", tmp_path / "gone.csv", "--data", manifest)
    assert gone.err == f"error: {tmp_path / 'gone.csv'}: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("blocked", "arguments", "extra"),
    [("pandas", ("audit", "."), "report"), ("torch", ("train", "r", "--data", "m", "--out", "o"), "train")],
)
def test_a_missing_extra_names_the_command(blocked: str, arguments: tuple[str, ...], extra: str) -> None:
    done = start(*arguments, blocked=blocked)
    assert done.returncode == 2
    assert done.stderr == f"error: this needs {blocked}: in a clone of agelens, pip install '.[{extra}]'\n"


def test_evaluating_a_run_needs_the_extra_train(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "manifest.csv").write_text("path,age,split\na.png,30,test\n")
    done = start("evaluate", tmp_path, "--data", tmp_path / "manifest.csv", blocked="torch")
    assert done.returncode == 2
    assert done.stderr == "error: this needs torch: in a clone of agelens, pip install '.[train]'\n"


def test_models_say_who_may_use_them(agelens: Callable[..., Done]) -> None:
    done = agelens("models")
    assert done.code == 0
    for name, model in MODELS.items():
        assert name in done.out
        assert model.terms in done.out
    assert done.out.splitlines()[0].endswith(" MB), the default")
    assert done.out.count("the default") == 1


def test_datasets(agelens: Callable[..., Done]) -> None:
    from agelens.data.datasets import DATASETS

    listed = [line.partition(":")[0] for line in agelens("datasets").out.splitlines()]
    assert listed == list(DATASETS)
    assert {"fgnet", "morph", "utkface"} <= set(listed)


@pytest.fixture
def utkface(tmp_path: Path, draw_face: Callable[..., NDArray[np.uint8]]) -> Path:
    """A folder of drawn faces named as UTKFace names its chips."""
    folder = tmp_path / "UTKFace"
    folder.mkdir()
    for number in range(60):
        age = 1 + number
        name = f"{age}_{number % 2}_{number % 5}_20170101{number:09}.jpg.chip.jpg"
        Image.fromarray(draw_face(age, size=80, seed=number)).save(folder / name, quality=95)
    return folder


def test_audit_and_prepare(agelens: Callable[..., Done], utkface: Path, tmp_path: Path) -> None:
    (utkface / "1_0_0_20170101000000099.jpg.chip.jpg").write_bytes(b"broken")
    table, report = tmp_path / "findings.csv", tmp_path / "report.json"
    found = agelens("audit", "utkface", utkface, "--out", table, "--json", report)
    assert found.code == 0
    assert "61 images" in found.out
    assert "unreadable" in found.out
    assert "unreadable" in table.read_text()
    assert json.loads(report.read_text())["images"] == 61

    out = tmp_path / "crops"
    prepared = agelens("prepare", "utkface", utkface, "--out", out, "--detector", "none", "--size", "32")
    assert prepared.code == 0, prepared.err
    assert "fallback 60" in prepared.out
    with open(out / "manifest.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 60
    with Image.open(out / rows[0]["path"]) as crop:
        assert crop.size == (32, 32)
    again = agelens("prepare", "utkface", utkface, "--out", out, "--detector", "none", "--size", "32")
    assert "(60 done before)" in again.out


@pytest.mark.slow
def test_from_labelled_faces_to_the_age_in_a_photo(
    agelens: Callable[..., Done], utkface: Path, tmp_path: Path
) -> None:
    out, run, model = tmp_path / "crops", tmp_path / "run", tmp_path / "mine.onnx"
    manifest = out / "manifest.csv"
    agelens("prepare", "utkface", utkface, "--out", out, "--detector", "none", "--size", "32")
    settings = ("train.epochs=1", "train.batch_size=16", "train.sizes=[]", "network.input_size=32")
    train = (
        *("train", "lrn-utkface", "--data", manifest, "--out", run, "--cpu"),
        *(part for setting in (*settings, "method.settings.generations=1") for part in ("--set", setting)),
    )
    done = agelens(*train)
    assert done.code == 0, done.err
    assert "generation-1  epoch 1/1" in done.err.replace("generation-1 epoch", "generation-1  epoch")
    assert "finished generation-1" in done.out
    assert agelens(*train).code == 2  # the folder is taken
    assert agelens(*train, "--resume").code == 0
    exported = agelens("export", run, "--out", model)
    assert exported.code == 0, exported.err
    report, table = tmp_path / "report.json", tmp_path / "predictions.csv"
    for system in (model, run):
        evaluated = agelens(
            *("evaluate", system, "--data", manifest, "--split", "all", "--by", "gender"),
            *("--json", report, "--predictions", table),
        )
        assert evaluated.code == 0, evaluated.err
        assert "female" in evaluated.out
        assert json.loads(report.read_text())["images"] == 60
    from_table = agelens("evaluate", table, "--data", manifest, "--split", "all")
    assert from_table.code == 0, from_table.err
    assert "MAE" in from_table.out
    predicted = agelens("predict", out, "--aligned", "--model", model, "--format", "csv")
    assert len(predicted.rows) == 60


def test_everyday_commands_load_no_other() -> None:
    from agelens.__main__ import QUICK

    app = cli.app

    callbacks = {registered.callback for registered in app.registered_commands}
    for name, module in QUICK.items():
        loaded = importlib.import_module(f"agelens.apps.commands.{module}")
        assert getattr(loaded, name) in callbacks
    code = (
        "import sys\n"
        "from agelens.__main__ import main\n"
        "sys.argv = ['agelens', 'models']\n"
        "try:\n    main()\n"
        "finally:\n    print(*(name for name in sys.modules if name.startswith('agelens.apps.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "agelens.apps.commands.predict"
