"""From a data set's folder to a checked manifest: everything that adapters have in common.

An owner's table has rows without a file, files named twice, ages that cannot be. None of them stops the
reading and none goes unmentioned: each is a finding in ``attrs["problems"]``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agelens.data.columns import MAXIMUM_AGE
from agelens.data.dataset import ContentSplit, DataSet, Finding, Root, Row
from agelens.data.datasets import data_set, settings_of
from agelens.data.duplicates import (
    Fingerprints,
    Progress,
    fingerprint_images,
    group_keys,
    near_identical_pairs,
)
from agelens.data.manifest import check_manifest
from agelens.data.owner_files import parse_number
from agelens.data.splits import content_split, split_images
from agelens.errors import InputError

__all__ = ["read_dataset"]


def read_dataset(
    dataset: str | DataSet,
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    content: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Make the manifest of a data set's folder.

    Left out, each with a finding: rows whose file is not there, rows with an impossible age, repeated rows.
    A deviation that is none is a finding, too, and left empty.
    A file named twice with different ages stays as one row that no split uses (``note`` says why), for its
    age is not known.

    Args:
        dataset: A data set, or a name that :func:`~agelens.data.datasets.data_set` takes.
        folder: As its owner lays it out.
        settings: Some of the adapter's own (:func:`~agelens.data.datasets.dataset_settings`).
        content: Whether to read the images, for ``digest``, for ``note`` where one is unreadable, and for a
            split by content. False reads names and labels only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The checked manifest in the adapter's order; ``attrs["root"]`` is where its paths start,
        ``attrs["problems"]`` a list of :class:`~agelens.data.dataset.Finding`.
    Raises:
        PluginError: An unknown data set.
        InputError: An unknown setting, a setting of another type, not the data set's folder, or
            no image with a usable label in it.
        ManifestError: A row breaks the manifest's contract.
    """
    opened = data_set(dataset) if isinstance(dataset, str) else dataset
    _check_settings(opened, settings or {})
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder")
    root, rows = folder, []
    problems: list[Finding] = []
    for item in opened.read(folder, **(settings or {})):
        if isinstance(item, Finding):
            problems.append(item)
        elif isinstance(item, Root):
            root = item.folder
        else:
            rows.append(item)
    if not rows:
        raise InputError(f"{folder}: no {opened.image}{_first(problems)}")
    kept = list(_usable(_once(rows, problems), root, problems, opened.ages))
    if not kept:
        raise InputError(f"{root}: no image with a usable age and a file{_first(problems)}")
    for row in kept:
        if not opened.own:
            row["dataset"] = opened.read.__name__
        if opened.labels is not None:
            row["labels"] = opened.labels
    table = pd.DataFrame(kept, dtype=object)  # str cannot hold a name that is no UTF-8
    prints = None
    if content:
        images = [root / path for path in table["path"]]
        prints = fingerprint_images(images, workers=workers, progress=progress)
        notes = table["note"].tolist() if "note" in table else [""] * len(table)
        for k, (path, error) in enumerate(zip(table["path"], prints.errors, strict=True)):
            if error:
                problems.append(Finding("unreadable", (path,), str(error)))
                notes[k] = f"unreadable: {error}"
        table["digest"] = prints.digests
        table["note"] = pd.Series(notes, dtype=object)
    table = _split(check_manifest(table, root), opened, prints)
    table.attrs = {"root": root.absolute(), "problems": problems}
    return table


def _check_settings(dataset: DataSet, settings: Mapping[str, Any]) -> None:
    name, known = getattr(dataset.read, "__name__", "the data set"), settings_of(dataset)
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"{name} has no setting {key!r}; it has {', '.join(known) or 'none'}")
        kind = str if known[key] is None else type(known[key])
        # A setting whose default is a whole number of years takes parts of years; NaN is no number.
        number = kind in (int, float) and type(value) in (int, float) and value == value
        if not number and (type(value) is not kind or kind is float):
            raise InputError(f"the setting {key!r} of {name} is of type {kind.__name__} (value: {value!r})")


def _first(problems: Sequence[Finding]) -> str:
    return f"; the first of {len(problems)} problems: {problems[0].detail}" if problems else ""


def _once(rows: Sequence[Row], problems: list[Finding]) -> Iterator[Row]:
    """Rows of distinct files; a file named twice is a finding."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row["path"]].append(place)
    for path, of_path in places.items():
        row = rows[of_path[0]]
        if len(of_path) > 1:
            where = ", ".join(str(place + 1) for place in of_path)
            ages = sorted({_label_text(rows[place]) for place in of_path})
            if len(ages) > 1:
                shown = "/".join(ages)
                problems.append(Finding("conflicting-ages", (path,), f"rows {where}: ages {shown}"))
                row = {**row, "split": "", "note": f"conflicting ages {shown} in rows {where}"}
            else:
                problems.append(Finding("bad-value", (path,), f"rows {where} repeat each other; one is used"))
        yield row


def _usable(rows: Iterator[Row], folder: Path, problems: list[Finding], ages: bool) -> Iterator[Row]:
    """The rows with a file and, unless the set is one of identities, a possible age."""
    for row in rows:
        age = parse_number(row.get("age", ""))
        if ages and (reason := _impossible(row, age)):
            problems.append(Finding("impossible-age", (row["path"],), f"{reason}; left out"))
            continue
        if not os.path.isfile(folder / row["path"]):
            problems.append(Finding("missing-file", (row["path"],), "labelled, but not there; left out"))
            continue
        deviation = row.get("age_std", "")
        if deviation != "" and not parse_number(deviation) >= 0:
            detail = f"age_std {deviation!r} is no deviation; left empty"
            problems.append(Finding("bad-value", (row["path"],), detail))
            row = {**row, "age_std": ""}
        yield {**row, "age": age} if ages else row


def _label_text(row: Row) -> str:
    """A row's label as the owner gives it: the age, or both ends of the band."""
    if _has_band(row):
        return f"{row['age_low']}-{row.get('age_high', '')}"
    return str(row.get("age", ""))


def _has_band(row: Row) -> bool:
    return bool(row.get("age", "") == "" and row.get("age_low", "") != "")


def _impossible(row: Row, age: float) -> str:
    """Fault of a row's label; empty for none."""
    if not _has_band(row):
        within = 0 <= age <= MAXIMUM_AGE
        return "" if within else f"age {row.get('age', '')!r} is not within 0 … {MAXIMUM_AGE:g} years"
    low, high = parse_number(row["age_low"]), parse_number(row.get("age_high", "") or MAXIMUM_AGE)
    if 0 <= low <= high <= MAXIMUM_AGE and low.is_integer() and high.is_integer():
        return ""
    return f"age band {_label_text(row)!r} is no range of whole years within 0 … {MAXIMUM_AGE:g}"


def _split(table: pd.DataFrame, dataset: DataSet, prints: Fingerprints | None) -> pd.DataFrame:
    """Split the images as the data set declares; without fingerprints there is no split by content."""
    if isinstance(dataset.split, ContentSplit):
        if prints is None:
            return table
        groups = group_keys(prints.digests, near_identical_pairs(prints).indices)
        test = (table["split"] == "test").to_numpy() if "split" in table else None
        return split_images(table, groups, dataset.split.fractions, dataset.split.salt, test)
    if dataset.split is not None:
        sides = content_split(table["subject"].tolist(), dataset.split.fractions, dataset.split.salt)
        notes = table["note"].tolist() if "note" in table else [""] * len(table)
        sides = ["" if note else side for side, note in zip(sides, notes, strict=True)]
        table["split"] = pd.Series(sides, dtype=object)
    return table
