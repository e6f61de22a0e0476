"""Checks of what a run folder's files say, which may be damaged or anyone's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from agelens.errors import RunError
from agelens.faces.alignment import CropGeometry

__all__ = ["check_arrays", "check_facts", "check_validation"]

_NUMBERS = ("MAE", "CA(5)", "AAR", "sigma", "band accuracy", "band distance", "most probable band")
_DIMENSIONS = {"ages": 1, "age": 1, "reg": 1, "ldl": 1, "logits": 2, "bounds": 2}


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Check the values of ``run.json``; one may be missing, as in older runs.

    Raises:
        RunError: One has another form.
    """
    if facts.get("geometry"):
        try:
            CropGeometry.from_dict(facts["geometry"])
        except ValueError as error:
            raise RunError(path, f"is damaged: geometry: {error}") from error
    for key, is_sound in _FACTS.items():
        if facts.get(key) is not None and not is_sound(facts[key]):
            raise RunError(path, f"is damaged: {key}: {_shown(facts[key])}")


def check_validation(table: Mapping[str, Any], path: Path) -> None:
    """Check the values of ``validation.json`` that are read.

    Raises:
        RunError: One has another form.
    """
    estimates = table.get("estimates", {})
    if not _is_table(estimates) or not all(map(_is_table, estimates.values())):
        raise RunError(path, f"is damaged: estimates: {_shown(estimates)}")
    before, ranked = table.get("before", {}), table.get("permutations", {})
    for key, part in (("before", before), ("permutations", ranked)):
        if not _is_table(part):
            raise RunError(path, f"is damaged: {key}: {_shown(part)}")
    if not _is_table(kinds := ranked.get("by kind", {})):
        raise RunError(path, f"is damaged: by kind: {_shown(kinds)}")
    for key, value in {**ranked, "by kind": None, **kinds}.items():
        if value is not None and not _is_number(value):
            raise RunError(path, f"is damaged: permutations: {key}: {_shown(value)}")
    if not isinstance(table.get("finishes", ""), str):
        raise RunError(path, f"is damaged: finishes: {_shown(table['finishes'])}")
    for part in (table, before, *estimates.values()):
        for key in _NUMBERS:
            if part.get(key) is not None and not _is_number(part[key]):
                raise RunError(path, f"is damaged: {key}: {_shown(part[key])}")


def check_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Check the shapes of ``validation.npz``: N ages, N of each estimate, (N, K) logits, (N, 2) bounds.

    Raises:
        RunError: One has another shape or no numbers, or there are estimates without ages.
    """
    known = {name: array for name, array in arrays.items() if name in _DIMENSIONS}
    if known and "ages" not in known:
        raise RunError(path, "is damaged: it holds no ages")
    for name, array in known.items():
        fits = array.ndim == _DIMENSIONS[name] and len(array) == len(known["ages"])
        if not fits or array.dtype.kind not in "fiu" or (name == "bounds" and array.shape[1] != 2):
            raise RunError(path, f"is damaged: {name} is {array.shape} {array.dtype}")


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**53)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_FACTS: dict[str, Callable[[Any], bool]] = {
    "age_bins": _is_text,
    "images": lambda value: _is_table(value) and all(map(_is_number, value.values())),
    "plugins": lambda value: isinstance(value, list) and all(map(_is_table, value)),
    "software": _is_table,
    "split_digest": _is_text,
    "stages": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "start": _is_text,
    "terms": lambda value: _is_table(value) and all(map(_is_table, value.values())),
    "teachers": lambda value: _is_table(value) and all(map(_is_table, value.values())),
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + " …"
