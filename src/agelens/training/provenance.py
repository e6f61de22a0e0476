"""Provenance of a student: data, terms and digests of its teachers, for ``run.json`` and the model's card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agelens.errors import ModelFileError, RunError
from agelens.model_file import open_model_file
from agelens.training.method import TeacherSetting
from agelens.training.run import locate_network
from agelens.training.teachers import names_model

__all__ = ["named_without_folders", "teacher_facts", "with_teachers"]


def named_without_folders(table: dict[str, Any], teachers: Mapping[str, TeacherSetting]) -> dict[str, Any]:
    """Prepare a recipe's table for a model's card: runs and files by name, without their folders here.

    Args:
        table: ``Recipe.model_dump()``; left as it is.
        teachers: The method's settings that name teachers.
    """
    settings = dict(table["method"]["settings"])
    for key in teachers:
        named = settings.get(key)
        if named:
            settings[key] = (
                Path(named).name if isinstance(named, str) else [Path(path).name for path in named]
            )
    network = {**table["network"], "start": Path(table["network"].get("start") or "").name}
    return {**table, "method": {**table["method"], "settings": settings}, "network": network}


def teacher_facts(
    teachers: Mapping[str, TeacherSetting], settings: Mapping[str, Any], geometry: Mapping[str, Any] | None
) -> dict[str, dict[str, str]]:
    """Collect the facts of a run's teachers for ``run.json``; their crops must have the student's geometry.

    Args:
        teachers: The method's settings that name teachers.
        settings: ``method.settings`` of the recipe.
        geometry: Of the student's crops, as in ``run.json``.
    Returns:
        By name (of run and stage, or of a model; a number behind a name that was there) what each is:
        ``digest`` of its weights, and of its card ``data`` and ``data_terms``, which go into the student's.
    Raises:
        RunError: Not a run, or one trained on crops of another geometry.
        ModelFileError: Not a model of ours, or one of another geometry.
    """
    named: list[tuple[str, TeacherSetting]] = []
    for key, setting in teachers.items():
        named += [(path, setting) for path in setting.paths(settings.get(key, ()))]
    facts: dict[str, dict[str, str]] = {}
    for path, setting in named:
        if setting.models and names_model(path):
            file_card = open_model_file(path)[1]
            if difference := _other_crops(file_card.geometry, geometry):
                raise ModelFileError(path, difference)
            data, terms = file_card.provenance.get("data", ""), file_card.licence.get("data", "")
            name, digest = file_card.name, file_card.digest
        else:
            run, file = locate_network(path, setting.stage)
            if difference := _other_crops(run.facts.get("geometry"), geometry):
                raise RunError(run.path, difference)
            try:
                content = file.read_bytes()
            except OSError as error:
                raise RunError(file, f"cannot be read: {error.strerror or error}") from error
            card, taught = run.recipe.card, run.facts.get("teachers")  # it may be a student itself
            data = with_teachers(card.data, taught, "data")
            terms = with_teachers(card.data_terms, taught, "data_terms")
            name, digest = f"{run.path.name}/{file.parent.name}", hashlib.sha256(content).hexdigest()
        known = {"digest": digest, "data": str(data), "data_terms": str(terms)}
        if known not in facts.values() or name not in facts:
            facts[name if name not in facts else f"{name} ({len(facts) + 1})"] = known
    return facts


def with_teachers(own: str, teachers: Mapping[str, Mapping[str, str]] | None, key: str) -> str:
    """Extend a card's text on data or terms by that of the teachers' cards, where it is not part of it.

    Args:
        own: The recipe's text.
        teachers: As :func:`teacher_facts` gives them.
        key: ``data`` or ``data_terms``.
    """
    further: dict[str, list[str]] = {}
    for name, known in (teachers or {}).items():
        if known.get(key) and known[key] not in own:
            further.setdefault(known[key], []).append(name)
    return "; ".join([own, *(f"taught by {' and '.join(names)}: {text}" for text, names in further.items())])


def _other_crops(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> str:
    """Describe how a teacher's crops differ from the student's; empty where they do not."""
    if theirs is not None and ours is not None and theirs["template"] == ours["template"]:
        return ""
    names = [None if known is None else known["name"] for known in (theirs, ours)]
    return f"teaches crops of the geometry {names[0]!r}, the student sees {names[1]!r}"
