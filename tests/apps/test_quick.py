"""Plain command lines mean what Typer makes of them, and start without what it checks values with."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from agelens.apps.cli import app
from agelens.apps.quick import plain_arguments

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there Typer reads every line")

COMMANDS = {registered.callback.__name__: registered.callback for registered in app.registered_commands}


def by_typer(function: Callable[..., object], words: list[str]) -> dict[str, Any] | None:
    """The arguments with which Typer calls a command; None if it does not."""
    seen: list[dict[str, Any]] = []

    @functools.wraps(function)
    def record(**arguments: Any) -> None:
        seen.append(arguments)

    probe = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    probe.command(context_settings={"help_option_names": ["-h", "--help"]})(record)
    with contextlib.suppress(SystemExit):
        typer.main.get_command(probe).main(words, prog_name="probe")
    return seen[0] if seen else None


PLAIN = [
    ("predict", ["photo.jpg"]),
    ("predict", ["-"]),
    ("predict", ["a.jpg", "b", "--crops", "--out", "rows.csv", "c d.png"]),
    ("predict", ["a.jpg", "--format=json", "--threshold", "21", "--level=0.8", "--model", "x.onnx"]),
    ("predict", ["a.jpg", "--out", "-", "--threads", "2", "--min-face", "30.5"]),
    ("predict", ["a.jpg", "--threshold", "-1"]),
    ("predict", ["\udcff.jpg", "--out", "\udcff.csv"]),
    ("models", []),
    ("serve", ["--port", "8001"]),
]
UNCLEAR = [
    ("predict", []),
    ("predict", ["--help"]),
    ("predict", ["-h"]),
    ("predict", ["a.jpg", "--unknown"]),
    ("predict", ["a.jpg", "--out"]),
    ("predict", ["a.jpg", "--out="]),
    ("predict", ["a.jpg", "--crops=yes"]),
    ("predict", ["a.jpg", "--threads", "0"]),
    ("predict", ["a.jpg", "--threads", "two"]),
    ("predict", ["a.jpg", "--level", "nan"]),
    ("predict", ["a.jpg", "--format", "JSON"]),
    ("predict", ["a.jpg", "--threads", "1", "--threads", "2"]),
    ("predict", ["--", "a.jpg"]),
    ("models", ["what"]),
]


@pytest.mark.parametrize(("name", "words"), PLAIN)
def test_plain_words_mean_what_typer_makes_of_them(name: str, words: list[str]) -> None:
    arguments = plain_arguments(COMMANDS[name], words)
    assert arguments is not None
    assert arguments == by_typer(COMMANDS[name], words)


@pytest.mark.parametrize(("name", "words"), UNCLEAR)
def test_unclear_words_are_left_to_typer(name: str, words: list[str]) -> None:
    assert plain_arguments(COMMANDS[name], words) is None


WORDS = [
    *("a.jpg", "-", "", "--crops", "--aligned", "--resume", "--out", "--out=x.csv", "--format", "json"),
    *("csv", "--format=table", "--threshold", "--level", "0.5", "2", "-3", "1e3", "0", "nan", "--threads"),
    *("--workers", "--model", "--partition=9", "--engine", "ray", "--max-side", "--h", "--", "-x"),
    *("--crops=1", "--level=2"),
]


@settings(deadline=None, max_examples=60)  # no clock: machines are busy
@given(
    st.sampled_from(("predict", "video", "prepare", "evaluate", "train")),
    st.lists(st.sampled_from(WORDS)),
)
def test_no_line_is_understood_in_another_way(name: str, words: list[str]) -> None:
    arguments = plain_arguments(COMMANDS[name], words)
    if arguments is not None:
        assert arguments == by_typer(COMMANDS[name], words)


GROUPS = [
    *(["a.jpg"], ["b c.png"], ["-"], ["--crops"], ["--aligned"], ["--resume"], ["--out", "x.csv"]),
    *(["--out=y.csv"], ["--format", "json"], ["--format=csv"], ["--threshold", "-3"], ["--level", "0.5"]),
    *(["--level=2"], ["--threads", "2"], ["--threads", "0"], ["--workers", "2"], ["--model", "m.onnx"]),
    *(["--engine", "ray"], ["--max-side", "1e3"], ["--max-side=500"], ["--min-face", "30.5"]),
]


@settings(deadline=None, max_examples=60)  # no clock: machines are busy
@given(st.lists(st.sampled_from(GROUPS), unique_by=tuple, max_size=6))
def test_no_plausible_line_is_understood_in_another_way(groups: list[list[str]]) -> None:
    words = [word for group in groups for word in group]
    arguments = plain_arguments(COMMANDS["predict"], words)
    if arguments is not None:
        assert arguments == by_typer(COMMANDS["predict"], words)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agelens", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_one_photo_starts_without_schemas(portrait: Path) -> None:
    code = "import sys\nfrom agelens.__main__ import main\nmain()\nsys.exit('pydantic' in sys.modules)"
    words = [sys.executable, "-c", code, "predict", str(portrait), "--format", "csv"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(portrait) in done.stdout


def test_exit_codes_are_the_same_either_way(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.jpg")
    for code, options in ((1, []), (2, ["--model", "none.onnx"])):
        plain, read = run("predict", missing, *options), run("predict", *options, "--", missing)
        assert (plain.returncode, plain.stderr) == (read.returncode, read.stderr)
        assert plain.returncode == code
    assert run("models").returncode == 0
    assert run("predict").returncode == 2


def test_a_reader_of_stderr_that_has_left_ends_it_quietly(tmp_path: Path) -> None:
    codes = []
    for separator in ([], ["--"]):  # understood at once, and by Typer
        reading, writing = os.pipe()
        os.close(reading)
        words = [sys.executable, "-m", "agelens", "predict", *separator, str(tmp_path / "missing.jpg")]
        codes.append(subprocess.run(words, stderr=writing, check=False, timeout=120).returncode)
        os.close(writing)
    assert codes == [1, 1]
