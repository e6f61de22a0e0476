"""Labeled Faces in the Wild: photographs of known people, without ages, for identity pre-training.

Owner: http://vis-www.cs.umass.edu/lfw (University of Massachusetts, Amherst), 13,233 images of 5,749 people,
250 × 250. Terms: research only; the photographs belong to their owners.

Layout: ``FOLDER/<Person_Name>/<Person_Name>_<number, 4 digits>.jpg``; any part of the set, cut to any size.

The manifest has ``subject`` and no ``age``. People are split, not images: a quarter of them, by a hash of the
name, is held back for verification (``val``), so nobody is on both sides. People with fewer than ``minimum``
images are left out.

Huang, Ramesh, Berg, Learned-Miller, Labeled faces in the wild: a database for studying face recognition in
unconstrained environments, 2007.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from agelens.data.duplicates import Progress, fingerprint_images
from agelens.data.manifest import Finding, check_manifest
from agelens.data.splits import content_split
from agelens.errors import InputError

__all__ = ["lfw"]

_SHARES = (0.75, 0.25, 0.0)
_SALT = "lfw-people-v1"


def lfw(
    folder: str | Path,
    *,
    content: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
    minimum: int = 2,
) -> pd.DataFrame:
    """Make the manifest of people, split by person.

    Args:
        folder: Holds a folder a person.
        content: Whether to read the images, for ``digest``. False reads names only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
        minimum: Fewest images a person must have.
    Returns:
        The manifest in the order of the names; ``attrs["root"]`` is the folder, ``attrs["problems"]`` a list
        of :class:`~agelens.data.manifest.Finding`: malformed names, people with too few images, unreadable
        images.
    Raises:
        InputError: No such folder, or nobody with enough images in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    rows: list[dict[str, str]] = []
    problems: list[Finding] = []
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        named = re.compile(re.escape(person.name) + r"_\d{4}\.jpe?g", re.IGNORECASE)
        found = sorted(path.name for path in person.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        kept = [name for name in found if named.fullmatch(name)]
        problems += [
            Finding("malformed-name", (f"{person.name}/{name}",), "not <person>_<number>.jpg; left out")
            for name in found
            if name not in kept
        ]
        if len(kept) < minimum:
            paths = tuple(f"{person.name}/{name}" for name in kept)
            problems.append(Finding("too-few-images", paths, f"fewer than {minimum} of one person; left out"))
            continue
        rows += [{"path": f"{person.name}/{name}", "subject": person.name} for name in kept]
    if not rows:
        raise InputError(f"{folder}: no person with {minimum} images (<person>/<person>_<number>.jpg)")
    table = pd.DataFrame(rows, dtype=object)  # str cannot hold a name that is no UTF-8
    sides = content_split(table["subject"].tolist(), _SHARES, _SALT)
    if content:
        images = [folder / path for path in table["path"]]
        fingerprints = fingerprint_images(images, workers=workers, progress=progress)
        table["digest"] = fingerprints.digests
        notes = [f"unreadable: {error}" if error else "" for error in fingerprints.errors]
        table["note"] = pd.Series(notes, dtype=object)
        sides = ["" if note else side for side, note in zip(sides, notes, strict=True)]
        problems += [
            Finding("unreadable", (path,), str(error))
            for path, error in zip(table["path"], fingerprints.errors, strict=True)
            if error
        ]
    table["split"] = pd.Series(sides, dtype=object)
    table = check_manifest(table, folder)
    table.attrs = {"root": folder.absolute(), "problems": problems}
    return table
