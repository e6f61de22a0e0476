"""Trainings in processes of their own: errors come back, and nothing begins after a stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from agelens.errors import ManifestError, RunError
from agelens.experiments.at_once import Elsewhere, Training, _dealt
from agelens.training.recipe import Recipe


class _Crash:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


@pytest.mark.slow
def test_errors_come_back_and_a_crash_is_one(tmp_path: Path) -> None:
    recipe = Recipe.load("dex-utkface")
    missing = Training(recipe, tmp_path / "manifest.csv", tmp_path / "run", None, cpu=True)
    with Elsewhere(1) as processes:
        with pytest.raises(ManifestError, match=r"manifest\.csv"):
            processes.train(missing)
        with pytest.raises(RunError, match="exit code 3"):
            processes.train(Training(cast("Recipe", _Crash()), tmp_path, tmp_path / "run", None, cpu=True))
        processes.stop()
        with pytest.raises(RunError, match="stopped before it began"):
            processes.train(missing)


def test_accelerators_are_dealt_in_turn() -> None:
    assert _dealt(3, None, 2) == ["0", "1", "0"]
    assert _dealt(2, "5,7", 2) == ["5", "7"]
    assert _dealt(2, None, 0) == [None, None]
