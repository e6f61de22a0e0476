"""The README's commands work, print what it shows, and agree with CI, the models page and the citation."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from agelens import __version__, list_models

yaml = pytest.importorskip("yaml", reason="the pre-commit configuration and the citation are YAML")

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
SHELL_LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
PRINTED = [block for kind, block in BLOCKS if kind == "text"]
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
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "text"}
    assert len(COMMANDS) >= 3


def test_commands_run_where_the_environment_is_active() -> None:
    active = False
    for line in SHELL_LINES:
        active = active or line.startswith(". .venv/bin/activate")
        assert active or not line.startswith("agelens "), line


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


def test_the_photo_command_prints_what_is_shown() -> None:
    (command,) = [command for command in COMMANDS if command[0].startswith(".venv")]
    done = run("-m", *[part.removeprefix(".venv/bin/") for part in command])
    assert done.returncode == 0, done.stderr
    shown = PRINTED[0].splitlines()
    header, *faces = done.stdout.splitlines()
    assert header.split() == shown[0].split()
    assert len(faces) == len(shown) - 1 == 1
    name, number, age = faces[0].split()[:3]
    assert [name, number] == shown[1].split()[:2]
    assert abs(float(age) - float(shown[1].split()[2])) < 0.5  # processors differ in the last bits


def test_the_check_prints_the_steps_that_are_shown() -> None:
    configuration = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    assert PRINTED[1].splitlines() == [hook["entry"].replace("python -m", "$") for hook in hooks]


def models_of(page: str) -> dict[str, str]:
    """The first interval of each model's first row: its MAE on UTKFace."""
    rows = re.findall(r"^\| \[?`([\w-]+)`.*?(\d\.\d\d \[[^\]]+\])", page, flags=re.MULTILINE)
    return dict(reversed(rows))


def test_models_are_those_of_the_models_page() -> None:
    shown = models_of(README)
    page = models_of((PROJECT / "docs" / "models.md").read_text(encoding="utf-8").partition("<!--")[0])
    assert len(shown) == 3
    assert shown.items() <= page.items()
    assert set(shown) <= set(list_models())


def test_the_models_page_holds_the_cards() -> None:
    done = runpy.run_path(str(PROJECT / "scripts" / "models_page.py"))
    written = (PROJECT / "docs" / "models.md").read_text(encoding="utf-8")
    assert done["page"]() == written, "a card changed: run scripts/models_page.py"


def test_the_picture_is_drawn_from_an_estimate(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs the extra report")
    picture = PROJECT / "docs" / "images" / "astronaut.png"
    assert picture.stat().st_size < 300_000
    done = run("examples/draw_estimate.py", "examples/astronaut.jpg", str(tmp_path / "drawn.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as shown, Image.open(tmp_path / "drawn.png") as drawn:
        assert shown.size == drawn.size
        difference = ImageChops.difference(shown.convert("L"), drawn.convert("L"))
        assert ImageStat.Stat(difference).mean[0] < 8  # fonts may differ; the photo and the bars do not


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
