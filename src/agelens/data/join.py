"""One manifest of several prepared data sets, without the images that another set tests on.

Every row keeps its crop, its ``source``, its ``split``, the set it comes from (``dataset``) and the meaning
of its label (``labels``). A row that is not used has no split, and ``note`` says why; none is deleted, except
where several manifests name one and the same crop.

Not used, in this order:

1. an image that is in several of the sets, byte for byte: one row stays (of the test part before the
   validation part before the training part, then in the order of the sets), or none where the sets disagree
   about the age;
2. an image that is in the test part of an excluded manifest, by bytes or nearly;
3. a training image that is nearly one of another set's validation or test part.

Near copies are looked for among the *crops* (:mod:`agelens.data.duplicates`): of one geometry, they show one
photograph alike although one set has the whole of it and another a chip.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.columns import SPLITS
from agelens.data.duplicates import (
    Fingerprints,
    Progress,
    fingerprint_images,
    group_keys,
    near_identical_between,
    near_identical_pairs,
)
from agelens.data.geometry import crop_geometry, same_alignment
from agelens.data.manifest import image_paths, label_bounds
from agelens.data.splits import default_split, labels_conflict, names_people, split_rows
from agelens.errors import InputError, ManifestError
from agelens.faces.alignment import CropGeometry

__all__ = ["Joined", "join"]

_Drop = Callable[[NDArray[np.int64], str, Sequence[str]], None]


@dataclass(frozen=True, eq=False)
class Joined:
    """Several sets in one manifest.

    Attributes:
        table: The manifest; ``attrs["root"]`` is the folder that holds all of the sets.
        dropped: By reason, how many rows are not used that their own set uses.
        notes: Facts that the user should know, a line each.
    """

    table: pd.DataFrame
    dropped: dict[str, int]
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> Iterator[str]:
        """Yield the sets and the numbers of dropped images, a line each."""
        for name, rows in self.table.groupby("dataset", sort=False):
            counts = Counter(rows["split"])
            parts = ", ".join(f"{counts[side]:,} {side}" for side in SPLITS)
            meaning = "/".join(sorted({text or "unknown" for text in rows["labels"]}))
            yield f"{name}: {len(rows):,} images ({parts}, {counts['']:,} not used), {meaning} ages"
        for reason, count in self.dropped.items():
            yield f"dropped: {count:,} {reason}"
        yield from self.notes


@dataclass(frozen=True, eq=False)
class _Set:
    """One of the sets to join."""

    name: str
    table: pd.DataFrame
    geometry: CropGeometry


def join(
    manifests: Sequence[pd.DataFrame],
    *,
    excluded: Sequence[pd.DataFrame] = (),
    workers: int | None = None,
    progress: Progress | None = None,
) -> Joined:
    """Join prepared manifests.

    A set without any split gets the default one (:func:`~agelens.data.splits.default_split`), with a note.

    Args:
        manifests: Of ``prepare``, from ``read_manifest``; crops of one geometry and size.
        excluded: Manifests whose test parts must stay unseen: a student's, where the union trains its
            teachers. Of the same geometry, at any size.
        workers: Threads that read crops; by default one a processor.
        progress: Called as ``progress(done, total)`` while crops are read.
    Returns:
        The union.
    Raises:
        InputError: Crops of different or of unknown geometry, or a set joined with itself.
        ManifestError: A digest is missing, or an excluded manifest has no test part.
    """
    if not manifests:
        raise InputError("nothing to join: name at least one manifest")
    sets = _named(manifests)
    tests = [_test_part(table, sets[0]) for table in excluded]
    notes: list[str] = []
    root = Path(os.path.commonpath([each.table.attrs["root"] for each in sets]))
    table = pd.concat([_columns(each, root) for each in sets], ignore_index=True)
    for name in table.columns.difference(table.select_dtypes("number").columns):
        table[name] = table[name].fillna("")  # a column that only some of the sets have
    table.attrs = {"root": root}
    member = np.repeat(np.arange(len(sets)), [len(each.table) for each in sets])
    meanings = sorted({text or "unknown" for text in table["labels"]})
    if len(meanings) > 1:
        notes.append(f"the labels mean different things: {', '.join(meanings)} ages, row by row in 'labels'")
    total, done = len(table) + sum(map(len, tests)), 0

    def read(rows: pd.DataFrame) -> Fingerprints:
        nonlocal done
        start, done = done, done + len(rows)
        report = None if progress is None else lambda k, _: progress(start + k, total)
        return fingerprint_images(image_paths(rows), workers=workers, progress=report)

    prints = read(table)
    for number, each in enumerate(sets):
        if "split" not in each.table or not (each.table["split"] != "").any():
            rows = np.flatnonzero(member == number)
            pairs = near_identical_pairs(_taken(prints, rows)).indices
            digests = table["digest"].iloc[rows].tolist()
            split = default_split(table.iloc[rows], group_keys(digests, pairs))
            table.loc[rows, ["split", "note"]] = split[["split", "note"]].to_numpy()
            way = "person" if names_people(split) else "content"
            notes.append(f"{each.name} had no split; the default one, by {way}, was made")
    dropped: Counter[str] = Counter()

    def drop(rows: NDArray[np.int64], reason: str, notes: Sequence[str]) -> None:
        used = (table["split"].to_numpy()[rows] != "").nonzero()[0]
        dropped[reason] += len(used)
        for place in used:
            table.loc[rows[place], ["split", "note"]] = ["", notes[place]]

    _drop_shared(table, member, sets, drop)
    for part in tests:
        path = Path(part.attrs["path"])
        where = f"the test part of {path.parent.name}/{path.name}"
        same = np.flatnonzero(table["digest"].isin(set(part["digest"])).to_numpy())
        drop(same, f"in {where}, byte for byte", [f"in {where}"] * len(same))
        used = np.flatnonzero((table["split"] != "").to_numpy())
        rows = np.array(sorted(_near(prints, used, read(part))), dtype=np.int64)
        drop(rows, f"nearly in {where}", [f"near copy of an image in {where}"] * len(rows))
    _drop_near_held(table, member, prints, drop)
    return Joined(
        _one_row_a_crop(table), {reason: count for reason, count in dropped.items() if count}, tuple(notes)
    )


def _named(manifests: Sequence[pd.DataFrame]) -> list[_Set]:
    """The sets with distinct names, checked against each other."""
    sets: list[_Set] = []
    for table in manifests:
        path = table.attrs["path"]
        _require_digests(table, path)
        geometry = crop_geometry(table)
        if geometry is None:
            raise InputError(
                f"{path}: crops of unknown geometry; join takes manifests that agelens prepare wrote"
            )
        of_rows = set(table["dataset"]) - {""} if "dataset" in table else set()
        name = of_rows.pop() if len(of_rows) == 1 else Path(table.attrs["root"]).name
        if name in [each.name for each in sets]:
            name = f"{name}-{len(sets) + 1}"
        digests = set(table["digest"])
        for other in sets:
            if geometry != other.geometry:
                mine, theirs = (f"{known.name} at {known.size} px" for known in (geometry, other.geometry))
                raise InputError(
                    f"{path} has crops of {mine}, {other.table.attrs['path']} of {theirs}: prepare one of "
                    f"them again with --geometry {other.geometry.name} --size {other.geometry.size}"
                )
            others = set(other.table["digest"])
            if digests <= others or others <= digests:
                small, large = (path, other.table.attrs["path"])[:: 1 if digests <= others else -1]
                raise InputError(f"{small}: all of its images are in {large}: a set joined with itself")
        sets.append(_Set(name, table, geometry))
    return sets


def _require_digests(table: pd.DataFrame, path: object) -> None:
    if "digest" not in table:
        raise ManifestError(str(path), "join goes by content; prepare writes the column", column="digest")
    if (table["digest"] == "").any():
        row = int((table["digest"] == "").to_numpy().argmax()) + 1
        raise ManifestError(str(path), "join goes by content", row=row, column="digest", value="")


def _test_part(table: pd.DataFrame, first: _Set) -> pd.DataFrame:
    """The test rows of an excluded manifest, whose crops can be compared with those of the sets."""
    path = table.attrs["path"]
    _require_digests(table, path)
    part = split_rows(table, "test")
    if part.empty:
        raise ManifestError(str(path), "an excluded manifest needs rows with split 'test'", column="split")
    geometry = crop_geometry(table)
    if not same_alignment(geometry, first.geometry):
        name = "unknown geometry" if geometry is None else f"the geometry {geometry.name}"
        raise InputError(
            f"{path}: crops of {name} cannot be compared with crops of {first.geometry.name}: "
            f"prepare it with --geometry {first.geometry.name}"
        )
    return part


def _columns(each: _Set, root: Path) -> pd.DataFrame:
    """A set's rows with the columns that the union needs."""
    table = each.table.copy()
    for name in ("dataset", "labels", "split", "note"):
        if name not in table:
            table[name] = pd.Series([""] * len(table), dtype=object)
    table["dataset"] = pd.Series([name or each.name for name in table["dataset"]], dtype=object)
    paths = [Path(os.path.relpath(path, root)).as_posix() for path in image_paths(each.table)]
    table["path"] = pd.Series(paths, dtype=object)
    table.attrs = {}
    return table


def _taken(prints: Fingerprints, rows: NDArray[np.int64]) -> Fingerprints:
    """The fingerprints of some rows."""
    return Fingerprints(
        [prints.digests[k] for k in rows],
        prints.hashes[rows],
        prints.thumbnails[rows],
        [prints.errors[k] for k in rows],
    )


def _near(prints: Fingerprints, rows: NDArray[np.int64], others: Fingerprints) -> dict[int, list[int]]:
    """The rows that are nearly one of ``others``, each with the places of those."""
    pairs = near_identical_between(_taken(prints, rows), others).indices
    of_content: dict[str, list[int]] = {}
    for row, other in zip(rows[pairs[:, 0]].tolist(), pairs[:, 1].tolist(), strict=True):
        of_content.setdefault(prints.digests[row], []).append(other)
    # Of byte-identical crops the first stood for all.
    return {
        row: of_content[prints.digests[row]] for row in rows.tolist() if prints.digests[row] in of_content
    }


def _drop_shared(table: pd.DataFrame, member: NDArray[np.int64], sets: Sequence[_Set], drop: _Drop) -> None:
    """Keep one of the rows of an image that several sets have, or none where their ages conflict."""
    order = {"test": 0, "val": 1, "train": 2}
    splits, digests = table["split"].tolist(), table["digest"].tolist()
    labels = [(float(low), float(high)) for low, high in label_bounds(table)] if "age" in table else None
    places: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        if splits[row]:
            places.setdefault(digest, []).append(row)
    for rows in places.values():
        if len({member[row] for row in rows}) < 2:
            continue
        rows = sorted(rows, key=lambda row: (order[splits[row]], member[row], row))
        names = " and ".join(dict.fromkeys(sets[member[row]].name for row in rows))
        if labels is not None and labels_conflict(
            [labels[row] for row in rows], [digests[row] for row in rows]
        ):
            note = f"conflicting ages in {names}"
            drop(np.array(rows), "in several sets with conflicting ages", [note] * len(rows))
        else:
            note = f"copy of an image of {sets[member[rows[0]]].name}"
            drop(np.array(rows[1:]), "copies of an image of another set", [note] * (len(rows) - 1))


def _one_row_a_crop(table: pd.DataFrame) -> pd.DataFrame:
    """Keep one row of each crop that several manifests name: the used one, where one is."""
    unused = (table["split"] == "").to_numpy()
    order = np.argsort(unused, kind="stable")
    again = table["path"].iloc[order].duplicated().to_numpy()
    kept: pd.DataFrame = table.iloc[np.sort(order[~again])].reset_index(drop=True)
    kept.attrs = table.attrs
    return kept


def _drop_near_held(
    table: pd.DataFrame, member: NDArray[np.int64], prints: Fingerprints, drop: _Drop
) -> None:
    """Drop training images that are nearly a validation or test image of another set."""
    splits = table["split"].to_numpy()
    train = np.flatnonzero(splits == "train")
    held = np.flatnonzero((splits == "val") | (splits == "test"))
    if not len(train) or not len(held) or len(set(member)) == 1:
        return
    across = {}
    for one, others in _near(prints, train, _taken(prints, held)).items():
        for other in held[others].tolist():
            if member[one] != member[other]:
                across[one] = f"near copy of a {splits[other]} image of {table['dataset'].iat[other]}"
    rows = np.array(sorted(across), dtype=np.int64)
    drop(rows, "near copies of another set's held-out images", [across[row] for row in rows.tolist()])
