"""The documentation's commands exist with these options, its recipes and objectives are the shipped ones."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
INCOMPLETE = re.compile(r"\$|…")  # a variable or something left out: no command as it stands


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks that call agelens, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r" && | \| ", line)]
    return [
        part for part in parts if re.match(r"(\.venv/bin/)?agelens ", part) and not INCOMPLETE.search(part)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_have_these_options(page: Path) -> None:
    from typer.main import get_command

    from agelens.apps.cli import app

    group = get_command(app)
    for line in commands(page):
        _, name, *arguments = shlex.split(line, comments=True)
        if name.startswith("--"):
            continue
        subcommand = group.get_command(group.make_context("agelens", [name]), name)  # type: ignore[attr-defined]
        assert subcommand is not None, line
        subcommand.make_context(name, arguments)  # a usage error if an option is unknown


def test_most_pages_show_commands() -> None:
    assert len([page for page in PAGES if commands(page)]) >= 8


def test_trained_recipes_are_shipped() -> None:
    pytest.importorskip("torch", reason="recipes need the extra train")
    from agelens.training.recipe import recipe_names

    lines = [line for page in PAGES for line in commands(page)]
    named = {shlex.split(line)[2] for line in lines if re.match(r"agelens (train|sweep|ladder) ", line)}
    assert len(named) > 5
    assert named - {"wide.toml"} <= set(recipe_names())


def test_every_objective_is_listed_and_every_published_one_has_a_recipe() -> None:
    pytest.importorskip("torch", reason="objectives need the extra train")
    from agelens.objectives import OBJECTIVES
    from agelens.training.recipe import Recipe, recipe_names

    page = (DOCS / "methods" / "baseline.md").read_text(encoding="utf-8")
    page = page.partition("## Compact systems")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", page, flags=re.MULTILINE)
    papers = {name: paper for names, paper in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert set(papers) == set(OBJECTIVES), "docs/methods/baseline.md has a row for each objective"
    methods = [Recipe.load(name).method for name in recipe_names()]
    trained = {method.settings["objective"] for method in methods if method.name == "baseline"}
    assert {name for name, paper in papers.items() if paper != "–"} <= trained


def test_every_room_is_on_the_map() -> None:
    package = DOCS.parent / "src" / "agelens"
    rooms = {path.name for path in package.glob("*.py")} - {"__main__.py"}
    rooms |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    page = (DOCS / "design.md").read_text(encoding="utf-8").partition("## Rooms")[2]
    first = [row.split("|")[1] for row in re.findall(r"^\| `.*", page, flags=re.MULTILINE)]
    assert {name for cell in first for name in re.findall(r"`([^`]+)`", cell)} - {"recipes/*.toml"} == rooms


def test_every_extra_is_explained() -> None:
    declared = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "index.md").read_text(encoding="utf-8").partition("## Extras")[2]
    rows = re.findall(r"^\| `([a-z]+)` \|", page, flags=re.MULTILINE)
    assert set(rows) == set(declared["optional-dependencies"])


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the site needs the extra dev")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=DOCS.parent,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.stem: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    assert len(pages) >= len(PAGES)
    fetched = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    assert [found for page in pages.values() for found in fetched.findall(page)] == []
    assert "Raises:" in pages["reference"]
    assert "Raises: " not in re.sub(r"<[^>]+>", "", pages["reference"]), "a section that was not parsed"
