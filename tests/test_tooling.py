"""The checks are the same at a commit, in CI and by hand, and their versions are pinned."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
JUDGES = ("hatchling", "mypy", "pytest", "ruff")


def steps_of_check() -> list[list[str]]:
    """Modules that scripts/check runs, with their arguments; those given on its command line are left out."""
    tree = ast.parse((PROJECT / "scripts" / "check").read_text(encoding="utf-8"))
    (steps,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STEPS"
    )
    assert isinstance(steps, ast.Tuple)
    return [
        [part.value for part in step.elts if isinstance(part, ast.Constant)]
        for step in steps.elts
        if isinstance(step, ast.List)
    ]


def test_precommit_runs_the_steps_of_check() -> None:
    yaml = pytest.importorskip("yaml", reason="the pre-commit configuration is YAML")
    configuration = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    assert all(hook["language"] == "system" for hook in hooks)
    assert [hook["entry"].split()[2:] for hook in hooks] == steps_of_check()


@pytest.mark.parametrize("name", JUDGES)
def test_what_judges_the_code_is_pinned(name: str) -> None:
    declared = PYPROJECT["build-system"]["requires"] + PYPROJECT["project"]["optional-dependencies"]["dev"]
    (requirement,) = {text for text in declared if re.match(rf"{name}\b(?!-)", text)}
    assert re.fullmatch(rf"{name}(~=|==)[\d.]+", requirement)


LOCKED = {"ci": ("train", "report", "opencv", "serve", "heic", "dev"), "serve": ("serve", "opencv", "heic")}
LEFT_OUT = {"agelens", "torch", "torchvision"}  # which build of torch fits depends on the machine


@pytest.mark.parametrize("name", LOCKED)
def test_the_lock_has_every_requirement_in_an_allowed_version_with_hashes(name: str) -> None:
    requirements = pytest.importorskip("packaging.requirements", reason="versions are compared by packaging")
    text = (PROJECT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    locked: dict[str, list[str]] = {}
    for line in lines:
        pinned, *hashes = line.split("--hash=")
        assert hashes, pinned
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes), pinned
        requirement = requirements.Requirement(pinned.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", pinned
        locked.setdefault(requirement.name.lower().replace("_", "-"), []).append(pin.version)
    extras = PYPROJECT["project"]["optional-dependencies"]
    declared = [*PYPROJECT["project"]["dependencies"], *(text for e in LOCKED[name] for text in extras[e])]
    for text in declared:
        requirement = requirements.Requirement(text)
        if requirement.name not in LEFT_OUT:
            versions = locked[requirement.name.lower()]
            assert all(requirement.specifier.contains(version) for version in versions), (text, versions)
