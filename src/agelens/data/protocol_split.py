"""A protocol applied to a manifest: its folds, and the one place that checks them.

The fold that a group (a person, or an image by its content) goes to is a hash of the group's key, so it
depends on neither the order nor the names of the files.

The validation part is carved out of the training part: by the protocol's own group, and where the owner made
the parts, by person where people are known and by content otherwise. A protocol may validate on its test part
instead, or not at all.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.columns import SPLITS
from agelens.data.protocols import Protocol
from agelens.data.splits import group_place
from agelens.errors import SplitError

__all__ = ["Fold", "Leak", "ProtocolSplit", "apply_protocol", "check_folds"]


@dataclass(frozen=True, eq=False)
class Fold:
    """One training and one test.

    Attributes:
        name: ``fold-01`` …
        held_out: The test part in words: ``person 001``, ``a fifth of the people``.
        sides: (N,) ``train``, ``val``, ``test`` or ``""`` for each row of the manifest.
    """

    name: str
    held_out: str
    sides: NDArray[np.object_]

    def rows(self, side: str) -> NDArray[np.int64]:
        """Positions of the rows on a side."""
        return np.flatnonzero(self.sides == side)


@dataclass(frozen=True)
class Leak:
    """People or images on both sides of a protocol's folds.

    Attributes:
        what: ``subject`` or ``image`` (the same bytes).
        groups: How many people or images, summed over the folds.
        test_images: How many test images that concerns.
    """

    what: str
    groups: int
    test_images: int


@dataclass(frozen=True, eq=False)
class ProtocolSplit:
    """A protocol applied to a manifest, and checked.

    Attributes:
        protocol: The protocol.
        manifest: The N rows it was applied to.
        folds: In order.
        unused: Reason to number of rows that no fold uses.
        leaks: People or images on both sides that the protocol does not rule out.
        digest: sha256 over the sorted lines ``<fold> <content or path> <side>`` of all folds: equal for equal
            protocols on equal images.
    """

    protocol: Protocol
    manifest: pd.DataFrame
    folds: tuple[Fold, ...]
    unused: dict[str, int]
    leaks: tuple[Leak, ...]
    digest: str

    def fold_manifest(self, fold: Fold) -> pd.DataFrame:
        """The manifest with ``split`` as a fold has it; a row it uses has no ``note`` against its use.

        Where a protocol validates on its test part, that part is ``val``.

        Args:
            fold: One of :attr:`folds`.
        Returns:
            All N rows.
        """
        table = self.manifest.copy()
        judged = self.protocol.validation == "judged"
        sides = np.where(fold.sides == "test", "val", fold.sides) if judged else fold.sides
        table["split"] = pd.Series(sides, index=table.index, dtype=object)
        notes = table["note"].tolist() if "note" in table else [""] * len(table)
        reasons = [
            "" if side else note or f"not in {self.protocol.name}"
            for side, note in zip(fold.sides, notes, strict=True)
        ]
        table["note"] = pd.Series(reasons, index=table.index, dtype=object)
        table.attrs = dict(self.manifest.attrs)
        return table

    def lines(self) -> Iterator[str]:
        """Yield the facts that a reader of the results needs, a line each."""
        tested = sum(len(fold.rows("test")) for fold in self.folds)
        yield f"{self.protocol.name}: {self.protocol.title}"
        used = int(np.any([fold.sides != "" for fold in self.folds], axis=0).sum())
        whole = f" of the {self.protocol.images:,} of the whole set" if self.protocol.images else ""
        tests = f" of {self.protocol.test_images:,}" if self.protocol.test_images else ""
        sides = ", ".join(f"{len(self.folds[0].rows(side)):,} {side}" for side in SPLITS)
        first = "" if len(self.folds) == 1 else f"; the first: {sides}"
        yield (
            f"{used:,}{whole} images used, {tested:,}{tests} tested"
            + (f" ({sides})" if len(self.folds) == 1 else f" in {len(self.folds)} folds{first}")
        )
        for reason, count in self.unused.items():
            yield f"not used: {count:,} {reason}"
        for leak in self.leaks:
            what = "people are" if leak.what == "subject" else "images are, byte for byte,"
            yield (
                f"leak: {leak.groups:,} {what} on both sides, "
                f"in {leak.test_images:,} of {tested:,} test images ({leak.test_images / tested:.1%})"
            )
        if not self.leaks:
            yield "leak: none" + ("" if _has(self.manifest, "subject") else " (people are not known)")
        if self.protocol.selection:
            yield self.protocol.selection
        yield f"digest {self.digest}"


def apply_protocol(manifest: pd.DataFrame, protocol: Protocol) -> ProtocolSplit:
    """Make a protocol's folds for a manifest, and check them.

    Rows that their ``note`` takes out (copies, conflicting labels, unreadable files) are not used. Published
    lists knew nothing of copies and conflicting labels: there they stay, and copies are counted as leaks.

    Args:
        manifest: From ``read_manifest``; ``digest`` for groups by content, ``subject`` for those by person,
            ``official_split`` for the owner's parts.
        protocol: Which.
    Returns:
        The checked folds.
    Raises:
        SplitError: A column that the protocol needs is missing or empty somewhere, or the folds break the
            protocol's promises (:func:`check_folds`).
    """
    usable, unused = _usable(manifest, protocol)
    if not usable.any():
        raise SplitError(f"{protocol.name}: the manifest has no row that can be used")
    folds: list[Fold] = []
    for number, (held_out, tests, trains, validates) in enumerate(
        _sides(manifest, protocol, usable), start=1
    ):
        name = f"fold-{number:02d}"
        sides = np.full(len(manifest), "", dtype=object)
        sides[trains], sides[tests] = "train", "test"
        if validates is None and protocol.validation == "carved":
            validates = _carve(manifest, trains, protocol, f"{protocol.name}:{name}:val")
        if validates is not None:
            sides[validates] = "val"
        folds.append(Fold(name, held_out, sides))
    check_folds(folds, manifest, protocol)
    used = np.any([fold.sides != "" for fold in folds], axis=0)
    if elsewhere := int((usable & ~used).sum()):
        unused["in no part of the protocol"] = elsewhere
    return ProtocolSplit(
        protocol, manifest, tuple(folds), unused, tuple(_leaks(folds, manifest)), _digest(folds, manifest)
    )


_Sides = tuple[str, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_] | None]


def _sides(manifest: pd.DataFrame, protocol: Protocol, usable: NDArray[np.bool_]) -> Iterator[_Sides]:
    """Test part of every fold in words, then its (N,) test, train and, if given, validation rows."""
    if protocol.kind == "official":
        parts = np.asarray(_required(manifest, "official_split", usable, protocol), dtype=object)
        of_part = {
            part: usable & (parts == part)
            for part in {*protocol.train_parts, protocol.test_part, *filter(None, [protocol.validation_part])}
        }
        trains = np.any([of_part[part] for part in protocol.train_parts], axis=0)
        validates = of_part[protocol.validation_part] if protocol.validation_part else None
        yield f"the owner's {protocol.test_part} part", of_part[protocol.test_part], trains, validates
        return
    if protocol.kind == "whole":
        yield "nothing", np.zeros_like(usable), usable, None
        return
    for held_out, tests in _tests(manifest, protocol, usable):
        yield held_out, tests, usable & ~tests, None


def _tests(
    manifest: pd.DataFrame, protocol: Protocol, usable: NDArray[np.bool_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The test part of every fold in words and as (N,) rows, where all other usable rows train."""
    if protocol.kind == "listed":
        assert protocol.test_list is not None
        lists = resources.files("agelens.data").joinpath("protocol_lists")
        listed = set(lists.joinpath(protocol.test_list).read_text(encoding="utf-8").split("\n"))
        column = "source" if "source" in manifest else "path"
        tests = np.array([Path(path).name in listed for path in manifest[column]]) & usable
        yield "the published list", tests
        return
    keys = np.asarray(
        _required(manifest, "digest" if protocol.group == "image" else "subject", usable, protocol),
        dtype=object,
    )
    known = sorted(set(keys[usable]))
    what = "person" if protocol.group == "subject" else "image"
    if protocol.kind == "leave-one-out":
        for key in known:
            yield f"{what} {key}", usable & (keys == key)
        return
    places = group_place(known, protocol.name)
    if protocol.spread == "even":
        places = places.argsort(kind="stable").argsort(kind="stable") / len(known)
    of_key = dict(zip(known, places, strict=True))
    place = np.array([of_key.get(key, np.nan) for key in keys])
    if protocol.kind == "holdout":
        yield f"{protocol.test_share:.0%} by {what}", usable & (place >= 1 - protocol.test_share)
        return
    for number in range(protocol.folds):
        tests = usable & (np.floor(np.where(usable, place, -1) * protocol.folds) == number)
        yield f"a part in {protocol.folds} by {what}", tests


def _usable(manifest: pd.DataFrame, protocol: Protocol) -> tuple[NDArray[np.bool_], dict[str, int]]:
    notes = manifest["note"].tolist() if "note" in manifest else [""] * len(manifest)
    if protocol.kind == "listed":
        notes = [note if note.startswith("unreadable") else "" for note in notes]
    reasons = Counter(_reason(note) for note in notes if note)
    usable = np.array([not note for note in notes], dtype=bool)
    if protocol.ages is not None:
        ages = manifest["age"].to_numpy(dtype=np.float64)
        inside = (ages >= protocol.ages[0]) & (ages <= protocol.ages[1])
        reasons["outside the ages"] = int((usable & ~inside).sum())
        usable &= inside
    return usable, {reason: count for reason, count in sorted(reasons.items()) if count}


def _reason(note: str) -> str:
    """The first words of a note, by which notes are counted."""
    return re.split(r" of | with |[:\d]", note, maxsplit=1)[0].strip()


def _required(
    manifest: pd.DataFrame, column: str, usable: NDArray[np.bool_], protocol: Protocol
) -> list[str]:
    why = {
        "digest": "prepare writes it",
        "subject": "the protocol goes by person",
        "official_split": "the adapter of the data set writes it",
    }[column]
    if column not in manifest:
        raise SplitError(f"{protocol.name} needs the column {column!r} ({why}); the manifest has none")
    values = [value if isinstance(value, str) else "" for value in manifest[column].tolist()]
    if column != "official_split":
        for row in np.flatnonzero(usable).tolist():
            if not values[row]:
                path = manifest["path"].iat[row]
                raise SplitError(
                    f"{protocol.name} needs the column {column!r} ({why}); row {row + 1} has none ({path})"
                )
    return values


def _has(manifest: pd.DataFrame, column: str) -> bool:
    return column in manifest and bool((manifest[column] != "").any())


def _carve(
    manifest: pd.DataFrame, trains: NDArray[np.bool_], protocol: Protocol, salt: str
) -> NDArray[np.bool_]:
    """Whole groups of the training part, in the order of their hash, until they are its share."""
    by_person = protocol.published or protocol.group == "subject"
    columns = ("subject", "digest", "path") if by_person else ("digest", "path")
    column = next(name for name in columns if _filled(manifest, name, trains))
    keys = manifest[column].to_numpy(dtype=object)
    sizes = Counter(keys[trains])
    known = sorted(sizes)
    order = [known[place] for place in np.argsort(group_place(known, salt), kind="stable")]
    wanted, count = protocol.validation_share * int(trains.sum()), 0
    carved: set[str] = set()
    for key in order[:-1]:  # at least one group stays to be trained on
        if carved and count + sizes[key] / 2 > wanted:
            break
        carved.add(key)
        count += sizes[key]
    return np.array([key in carved for key in keys], dtype=bool) & trains


def _filled(manifest: pd.DataFrame, column: str, rows: NDArray[np.bool_]) -> bool:
    return column in manifest and bool((manifest[column][rows] != "").all())


def check_folds(folds: Sequence[Fold], manifest: pd.DataFrame, protocol: Protocol) -> None:
    """Check the promises of every protocol, and those of this one.

    Every fold has rows to train and test on, and to validate on if the protocol carves a part for that; no
    image tests twice; ``folds`` and ``leave-one-out`` test every row they use; nobody is on two sides of a
    fold where the protocol goes by person; no image's bytes are on two sides unless the sides are published
    ones.

    Args:
        folds: The folds.
        manifest: Their N rows.
        protocol: The protocol that made them.
    Raises:
        SplitError: A promise is broken; the message names fold and group.
    """
    name = protocol.name
    for fold in folds:
        sides = SPLITS if protocol.validation == "carved" else ("train", "test")
        for side in ("train",) if protocol.kind == "whole" else sides:
            if not len(fold.rows(side)):
                raise SplitError(
                    f"{name}, {fold.name} ({fold.held_out}): no image to {_VERBS[side]}; "
                    f"{len(manifest)} rows are too few, or not of this protocol's data set"
                )
    tested = np.sum([fold.sides == "test" for fold in folds], axis=0)
    used = np.any([fold.sides != "" for fold in folds], axis=0)
    for row in np.flatnonzero(tested > 1).tolist():
        raise SplitError(f"{name}: row {row + 1} ({manifest['path'].iat[row]}) tests in {tested[row]} folds")
    if protocol.kind in ("folds", "leave-one-out"):
        for row in np.flatnonzero(used & (tested == 0)).tolist():
            raise SplitError(f"{name}: row {row + 1} ({manifest['path'].iat[row]}) tests in no fold")
    for column, promised in (
        ("subject", protocol.group == "subject"),
        ("digest", not protocol.published),
    ):
        if not promised or column not in manifest:
            continue
        values = manifest[column].to_numpy(dtype=object)
        for fold in folds:
            groups = {side: _groups(fold, values, side) for side in SPLITS}
            for one, other in (("test", "train"), ("test", "val"), ("val", "train")):
                if shared := groups[one] & groups[other]:
                    of_group = values == min(shared)
                    paths = [
                        manifest["path"][of_group & (fold.sides == side)].iat[0] for side in (one, other)
                    ]
                    raise SplitError(
                        f"{name}, {fold.name}: {column} {min(shared)} is in both {one} ({paths[0]}) and "
                        f"{other} ({paths[1]}) ({len(shared)} such); a note in the manifest takes a row out"
                    )


_VERBS = {"train": "train on", "val": "validate on", "test": "test on"}


def _groups(fold: Fold, values: NDArray[np.object_], side: str) -> set[str]:
    return set(values[fold.sides == side]) - {""}


def _leaks(folds: Sequence[Fold], manifest: pd.DataFrame) -> Iterator[Leak]:
    for column, what in (("subject", "subject"), ("digest", "image")):
        if column not in manifest:
            continue
        values = manifest[column].to_numpy(dtype=object)
        groups = images = 0
        for fold in folds:
            shared = _groups(fold, values, "train") | _groups(fold, values, "val")
            shared &= _groups(fold, values, "test")
            groups += len(shared)
            images += sum(value in shared for value in values[fold.sides == "test"])
        if groups:
            yield Leak(what, groups, images)


def _digest(folds: Sequence[Fold], manifest: pd.DataFrame) -> str:
    column = "digest" if _filled(manifest, "digest", np.ones(len(manifest), dtype=bool)) else "path"
    keys = manifest[column].tolist()
    lines = sorted(
        f"{fold.name} {key} {side}\n"
        for fold in folds
        for key, side in zip(keys, fold.sides, strict=True)
        if side
    )
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
