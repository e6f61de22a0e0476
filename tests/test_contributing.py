"""The worked examples of CONTRIBUTING.md: saved as ``my_parts.py``, and their commands run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = re.split(r"^## ", re.split(r"<!-- --8<-- .*-->\n", TEXT)[1], flags=re.MULTILINE)[1:]
EXAMPLES = {recipe.partition("\n")[0]: recipe for recipe in RECIPES}
EXPECTED = {"A loss", "A data set", "A backbone", "A method", "A face detector"}

# What makes a training of the examples short; the commands are otherwise as written.
SHORT = ("train.epochs=1", "train.batch_size=8", "network.input_size=32")


def blocks(recipe: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", recipe, flags=re.MULTILINE | re.DOTALL)


def test_there_is_an_example_of_each_kind() -> None:
    assert set(EXAMPLES) == EXPECTED
    assert all(blocks(recipe, "python") and blocks(recipe, "sh") for recipe in RECIPES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_passes_the_linter(name: str) -> None:
    pytest.importorskip("ruff", reason="linting needs the extra dev")
    code, *_ = blocks(EXAMPLES[name], "python")
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--extend-ignore", "D100"]
    done = subprocess.run(
        [*command, "--stdin-filename", str(PROJECT / "src" / "my_parts.py"), "-"],
        input=code,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_works_as_written(name: str, reader_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="most examples train")
    folder = shutil.copytree(reader_folder, tmp_path / "folder")
    (code, *tests), commands = blocks(EXAMPLES[name], "python"), blocks(EXAMPLES[name], "sh")
    (folder / "my_parts.py").write_text(code, encoding="utf-8")
    for test in tests:
        (folder / "test_my_parts.py").write_text(test, encoding="utf-8")
    for recipe in blocks(EXAMPLES[name], "toml"):
        (folder / "wide.toml").write_text(recipe, encoding="utf-8")
    for line in "".join(commands).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if arguments[0] == "train":
            arguments += [part for setting in SHORT for part in ("--set", setting)]
        module = {"agelens": ["agelens"], "pytest": ["pytest", "-q"]}[program]
        done = subprocess.run(
            [sys.executable, "-P", "-m", *module, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), line
