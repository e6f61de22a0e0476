"""Splits keyed by the content of an image, not by its place in a list.

Copies in training (:func:`split_images`): a group holds the copies of one photograph, byte for
byte or nearly (:mod:`agelens.data.duplicates`).

- The group goes to one side as a whole: a copy of a training image never tests.
- *Same age*: one copy is used, the one whose path sorts first; a photograph counts once in a loss and once
  in a mean. The others leave every split.
- *Conflicting ages*: the label of the photograph is not known, so all its copies leave every split. One of
  the ages or their mean would be a guess, and a test split would score it as the truth. Labels conflict when
  byte-identical copies differ at all, or when a group's ages (or the bands that hold them) are more than a
  year apart: a photograph that was saved and labelled again may differ by the rounding of a birthday. In
  UTKFace most copies differ by more, 5 years in the median of the 477 conflicts, because the labels are
  estimates, made file by file. Pictures of a person years apart are no copies and keep their own ages.
- *A test part that the owner made* stays whole, without its own copies; every copy of its images leaves
  training.

The ``note`` of a row that is not used gives the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.columns import SPLITS
from agelens.data.manifest import band_text, label_bounds
from agelens.errors import InputError, SplitError

__all__ = [
    "content_split",
    "default_split",
    "group_place",
    "labels_conflict",
    "names_people",
    "required_rows",
    "split_digest",
    "split_images",
    "split_rows",
]

FRACTIONS = (0.8, 0.1, 0.1)
DEFAULT_SALT = "own-v1"
"""The name of the split of data that nobody has split."""
NEAR_AGE_TOLERANCE = 1.0
"""Years by which the ages within a group of near-identical images may differ."""


def content_split(
    groups: Sequence[str], fractions: tuple[float, float, float] = FRACTIONS, salt: str = "utkface-v1"
) -> list[str]:
    """Send each group to a side by a hash of its key.

    A group's place (:func:`group_place`) below the first fraction is ``train``, below the sum of two
    ``val``, else ``test``. Neither the order nor the other images matter; adding images moves none.

    Args:
        groups: N group keys.
        fractions: Shares of train, val and test; they sum to 1.
        salt: The name of the split; another salt gives another split.
    Returns:
        N of ``train``, ``val``, ``test``.
    Raises:
        InputError: A fraction is negative or they do not sum to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError(f"fractions must be non-negative and sum to 1, got {fractions}")
    return [
        SPLITS[(place >= fractions[0]) + (place >= fractions[0] + fractions[1])]
        for place in group_place(groups, salt).tolist()
    ]


def group_place(keys: Sequence[str], salt: str) -> NDArray[np.float64]:
    """Give every group its place on [0, 1).

    Args:
        keys: N group keys.
        salt: The name of the split.
    Returns:
        (N,) the first 8 bytes of sha256(``salt:key``) as a big-endian integer over 2^64.
    """
    places = [int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "big") for key in keys]
    return np.array([place / 2**64 for place in places], dtype=np.float64)


def split_images(
    manifest: pd.DataFrame,
    groups: Sequence[str],
    fractions: tuple[float, float, float] = FRACTIONS,
    salt: str = "utkface-v1",
    test: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Split a manifest by content and take out copies and conflicting labels (see the module).

    Args:
        manifest: N rows with ``path``, a label, ``digest``; a row whose ``note`` is not empty already is
            not used and does not count as a copy.
        groups: N group keys (:func:`agelens.data.duplicates.group_keys`).
        fractions: As in :func:`content_split`.
        salt: As in :func:`content_split`.
        test: (N,) rows of a test part that the owner made; the fractions then divide the others.
    Returns:
        A copy with ``split`` and ``note`` filled in.
    Raises:
        InputError: As in :func:`content_split`.
    """
    table = manifest.copy()
    paths, digests = table["path"].tolist(), table["digest"].tolist()
    labels = [(float(low), float(high)) for low, high in label_bounds(table)]
    notes = table["note"].tolist() if "note" in table else [""] * len(table)
    sides = content_split(groups, fractions, salt)
    held = [False] * len(table) if test is None else test.tolist()
    sides = ["test" if there else side for there, side in zip(held, sides, strict=True)]
    members: dict[str, list[int]] = {}
    for k, key in enumerate(groups):
        if notes[k]:
            sides[k] = ""
        else:
            members.setdefault(key, []).append(k)
    for rows in members.values():
        if len(rows) == 1:
            continue
        rows = sorted(rows, key=lambda k: (not held[k], paths[k]))
        if labels_conflict([labels[k] for k in rows], [digests[k] for k in rows]):
            shown = "/".join(band_text(*label) for label in sorted({labels[k] for k in rows}))
            for k in rows:
                others = ", ".join(paths[other] for other in rows if other != k)
                sides[k], notes[k] = "", f"conflicting ages {shown} with {others}"
        else:
            for k in rows[1:]:
                near = "" if digests[k] == digests[rows[0]] else "near "
                sides[k], notes[k] = "", f"{near}copy of {paths[rows[0]]}"
    table["split"] = pd.Series(sides, index=table.index, dtype=object)
    table["note"] = pd.Series(notes, index=table.index, dtype=object)
    return table


def default_split(manifest: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """Split data that nobody has split: 80/10/10, by person where every row names one, else by content.

    Args:
        manifest: N rows with ``path``, ``digest`` and a label, or a ``subject``.
        groups: N keys of photographs (:func:`agelens.data.duplicates.group_keys`).
    Returns:
        A copy with ``split`` and ``note`` filled in; copies and conflicting labels are not used, as in
        :func:`split_images`, unless the rows are people without ages.
    """
    if "age" in manifest or "age_low" in manifest:
        table = split_images(manifest, groups, salt=DEFAULT_SALT)
    else:
        table = manifest.copy()
        notes = manifest["note"].tolist() if "note" in manifest else [""] * len(manifest)
        table["note"] = pd.Series(notes, index=table.index, dtype=object)
    if names_people(manifest):
        sides = content_split(manifest["subject"].tolist(), salt=DEFAULT_SALT)
        sides = ["" if note else side for side, note in zip(sides, table["note"], strict=True)]
        table["split"] = pd.Series(sides, index=table.index, dtype=object)
    return table


def names_people(manifest: pd.DataFrame) -> bool:
    """Tell whether every row names its person, by whom :func:`default_split` then goes."""
    return "subject" in manifest and bool((manifest["subject"] != "").all())


def labels_conflict(labels: Sequence[tuple[float, float]], digests: Sequence[str]) -> bool:
    """Tell whether the copies of one photograph contradict each other about the age.

    Args:
        labels: Lower and upper end of each copy's label, years; equal for an age.
        digests: Of the copies; equal ones are byte-identical.
    Returns:
        Whether byte-identical copies differ at all, or more than :data:`NEAR_AGE_TOLERANCE` lies between two
        labels.
    """
    of_bytes: dict[str, tuple[float, float]] = {}
    same_bytes_differ = any(
        of_bytes.setdefault(d, label) != label for d, label in zip(digests, labels, strict=True)
    )
    apart = max(low for low, _ in labels) - min(high for _, high in labels)
    return same_bytes_differ or apart > NEAR_AGE_TOLERANCE


def split_rows(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """Select the rows of one split; none where the manifest has no column ``split``."""
    return manifest[manifest["split"] == split] if "split" in manifest else manifest.iloc[:0]


def required_rows(manifest: pd.DataFrame, split: str, source: str | Path) -> pd.DataFrame:
    """Select the rows of one split, or of ``all``.

    Args:
        manifest: A checked manifest.
        split: ``train``, ``val``, ``test``, or ``all``.
        source: Where the manifest comes from, for the message.
    Raises:
        SplitError: There are none.
    """
    rows = manifest if split == "all" else split_rows(manifest, split)
    if rows.empty:
        raise SplitError(f"{source}: no rows with split {split!r}")
    return rows


def split_digest(df: pd.DataFrame) -> str:
    """Fingerprint a split: which content is on which side.

    Args:
        df: A manifest with ``digest`` and ``split``.
    Returns:
        sha256, in hex, over the sorted lines ``digest split`` (an unused row has nothing after the space),
        each ended by a line feed. File names, order and other columns do not matter.
    Raises:
        InputError: A column is missing or a digest empty.
    """
    for column in ("digest", "split"):
        if column not in df:
            raise InputError(f"a split's digest needs the column {column!r}")
    if (df["digest"] == "").any():
        raise InputError("a split's digest needs the digest of every image")
    lines = sorted(f"{digest} {split}\n" for digest, split in zip(df["digest"], df["split"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
