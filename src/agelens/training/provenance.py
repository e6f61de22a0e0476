"""Provenance of a student: data, terms and digests of its teachers, for ``run.json`` and the model's card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from agelens.data.datasets import data_set
from agelens.errors import InputError, ModelFileError, PluginError, RunError
from agelens.model_file import open_model_file
from agelens.reading import NETWORK_BYTES, read_bytes, reason
from agelens.terms import PERMISSIONS, Terms, is_open, read_terms, strictest
from agelens.training.method import TeacherSetting
from agelens.training.model_start import names_model
from agelens.training.recipe import Recipe
from agelens.training.run import locate_network
from agelens.training.start import start_terms

__all__ = [
    "check_terms",
    "licence_of",
    "named_without_folders",
    "run_terms",
    "set_terms",
    "teacher_facts",
    "with_teachers",
]


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
        ``digest`` of its weights, and of its card ``data``, ``data_terms`` and what it ``permits``, which go
        into the student's.
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
            permits = read_terms(file_card.licence).permits
        else:
            run, file = locate_network(path, setting.stage)
            if difference := _other_crops(run.facts.get("geometry"), geometry):
                raise RunError(run.path, difference)
            try:
                content = read_bytes(file, NETWORK_BYTES)
            except OSError as error:
                raise RunError(file, f"cannot be read: {reason(error)}") from error
            card, taught = run.recipe.card, run.facts.get("teachers")  # it may be a student itself
            data = with_teachers(card.data, taught, "data")
            licence = licence_of(run.recipe, run.facts)
            terms, permits = licence["data"], read_terms(licence).permits
            name, digest = f"{run.path.name}/{file.parent.name}", hashlib.sha256(content).hexdigest()
        known = {"digest": digest, "data": str(data), "data_terms": str(terms), "permits": permits}
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


def run_terms(
    rows: pd.DataFrame,
    recipe: Recipe,
    start: str | Path | None,
    teachers: Mapping[str, Mapping[str, str]] | None,
) -> dict[str, dict[str, str]]:
    """Collect what every part of a run permits, for ``run.json``.

    Args:
        rows: The manifest; its column ``dataset`` names the set of each row.
        recipe: ``card.data_terms`` speaks for images of no named set.
        start: Weights to start from, or None.
        teachers: As :func:`teacher_facts` gives them.
    Returns:
        ``permits`` and ``text`` by part: names of sets (``own data`` for images of none), ``start``, and
        ``teacher NAME``.
    """
    used = rows[rows["split"].isin(["train", "val"])]
    names = sorted(set(used["dataset"])) if "dataset" in used else [""]
    own = Terms("unknown", recipe.card.data_terms)
    parts = {name or "own data": set_terms(name) if name else own for name in names}
    if start is not None:
        parts["start"] = start_terms(start)
    elif recipe.network.pretrained:
        parts["start"] = Terms("unknown", "weights of torchvision or timm: see theirs")
    for name, facts in (teachers or {}).items():
        parts[f"teacher {name}"] = read_terms({"permits": facts["permits"], "text": facts["data_terms"]})
    return {part: {"permits": terms.permits, "text": terms.text} for part, terms in parts.items()}


def check_terms(terms: Mapping[str, Mapping[str, str]], allowed: bool) -> list[str]:
    """Refuse a restricted start or teacher where the training images permit any use.

    Args:
        terms: From :func:`run_terms`.
        allowed: The user wants it.
    Returns:
        A note on what the model will permit, where a part is stricter than the images.
    Raises:
        InputError: A start or teacher is for research only, the images are not, and it is not allowed.
    """
    parts = {name: read_terms(part) for name, part in terms.items()}
    brought = {name: part for name, part in parts.items() if name == "start" or name.startswith("teacher ")}
    of_images = strictest(part.permits for name, part in parts.items() if name not in brought)
    combined = strictest(part.permits for part in parts.values())
    if combined == of_images:
        return []
    name, worst = next((name, part) for name, part in brought.items() if part.permits == combined)
    if is_open(of_images) and combined == "research" and not allowed:
        raise InputError(
            f"the {name} permits {PERMISSIONS[combined]} ({worst.text}), the training images permit "
            f"{PERMISSIONS[of_images]}: the model would be restricted too. If that is meant, give "
            "--allow-restricted (card.allow_restricted = true)"
        )
    return [f"the terms of the model are the strictest of its parts: {PERMISSIONS[combined]} ({name})"]


def licence_of(recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Word the licence of a run's model from the terms of its parts.

    Args:
        recipe: Of the run; ``card.use`` adds a caveat.
        facts: The run's, with ``terms`` and ``teachers``.
    Returns:
        ``code``; ``data``, the terms of all parts; ``permits``, the strictest of them, and in words ``use``.
    """
    parts = {name: read_terms(part) for name, part in (facts.get("terms") or {}).items()}
    permits = strictest(part.permits for part in parts.values())
    own = {name: part for name, part in parts.items() if not name.startswith("teacher ")}
    texts = [f"start: {part.text}" if name == "start" else part.text for name, part in own.items()]
    data = "; ".join(dict.fromkeys(texts)) or recipe.card.data_terms
    return {
        "code": "Apache-2.0",
        "data": with_teachers(data, facts.get("teachers"), "data_terms"),
        "permits": permits,
        "use": "; ".join(filter(None, (PERMISSIONS[permits], recipe.card.use))),
    }


def set_terms(name: str) -> Terms:
    """The terms of a data set by its name in a manifest; unknown for one that is not there."""
    try:
        return data_set(name).terms
    except PluginError:
        return Terms("unknown", f"{name}: terms not stated")


def _other_crops(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> str:
    """Describe how a teacher's crops differ from the student's; empty where they do not."""
    if theirs is not None and ours is not None and theirs["template"] == ours["template"]:
        return ""
    names = [None if known is None else known["name"] for known in (theirs, ours)]
    return f"teaches crops of the geometry {names[0]!r}, the student sees {names[1]!r}"
