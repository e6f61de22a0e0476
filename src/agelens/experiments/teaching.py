"""A teacher or a start by the name of a shipped model."""

from __future__ import annotations

from pathlib import Path

from agelens.errors import InputError
from agelens.inference.shipped_models import MODELS, model_path

__all__ = ["start_path", "teacher_path"]


def teacher_path(name: str) -> str:
    """Path of a teacher.

    Args:
        name: Of a shipped model, or the path of a run or a model file.
    Returns:
        The path; of a shipped model, the installed file's.
    Raises:
        InputError: Neither.
    """
    if name in MODELS:
        return str(model_path(name))
    if not Path(name).exists():
        known = ", ".join(MODELS)
        raise InputError(f"teacher {name}: no such run or model file, and no shipped model ({known})")
    return name


def start_path(start: str | Path) -> Path:
    """Path of weights to start from: of a shipped model by its name, the installed file's."""
    return model_path(start) if str(start) in MODELS else Path(start)
