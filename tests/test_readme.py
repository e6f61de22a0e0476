"""What the README shows works, and CI runs the test command that it names."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
SHELL_LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
PYTHON_BLOCKS = [block for kind, block in BLOCKS if kind == "python"]
COMMANDS = [
    shlex.split(part, comments=True)
    for line in SHELL_LINES
    for part in re.split(r"&&|\|", line)
    if re.match(r"(\.venv/bin/)?agelens ", part.strip())
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's folder, as a reader of the README would."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120
    )


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = [line for line in SHELL_LINES if line.endswith("scripts/check")]
    assert command.replace(".venv", "$venv") in (PROJECT / ".ci" / "run").read_text().splitlines()


def test_all_blocks_are_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_python_blocks_run(block: str) -> None:
    done = run("-W", "error", "-c", block)
    assert done.returncode == 0, done.stderr
    assert "years" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_have_these_options(command: list[str]) -> None:
    from typer.main import get_command

    from agelens.apps.cli import app

    group = get_command(app)
    _, name, *arguments = command
    subcommand = group.get_command(group.make_context("agelens", [name]), name)  # type: ignore[attr-defined]
    assert subcommand is not None, f"no command {name}"
    assert subcommand.make_context(name, arguments).params


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (PROJECT / link).exists()


def test_the_photo_command_estimates_the_age_in_the_photo() -> None:
    (command,) = [command for command in COMMANDS if command[0].startswith(".venv")]
    done = run("-m", *[part.removeprefix(".venv/bin/") for part in command])
    assert done.returncode == 0, done.stderr
    header, *faces = done.stdout.splitlines()
    assert header.split()[:3] == ["photo", "face", "age"]
    assert len(faces) == 1
    assert 20 < float(faces[0].split()[2]) < 50
