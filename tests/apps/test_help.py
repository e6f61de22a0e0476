"""The order in which ``--help`` lists the commands."""

from __future__ import annotations

from typer.main import get_command
from typer.testing import CliRunner

from agelens.apps.cli import ORDER, app


def test_every_command_has_its_place() -> None:
    command = get_command(app)
    names = [*command.commands]  # type: ignore[attr-defined]
    assert names[: len(ORDER)] == list(ORDER)
    assert len(set(ORDER)) == len(ORDER)


def test_help_begins_with_estimating() -> None:
    printed = CliRunner().invoke(app, ["--help"]).stdout
    listed = [line.split()[0] for line in printed.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed[0] == "predict"
    assert listed.index("train") < listed.index("evaluate")
