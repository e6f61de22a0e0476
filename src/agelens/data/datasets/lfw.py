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
from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row, SubjectSplit
from agelens.errors import InputError
from agelens.terms import Terms

__all__ = ["LFW", "lfw"]


def lfw(folder: Path, *, minimum: int = 2) -> Iterator[Row | Finding | Root]:
    """Yield the people of LFW, in the order of the names.

    Args:
        folder: Holds a folder a person.
        minimum: Fewest images a person must have.
    Raises:
        InputError: Nobody with enough images in it.
    """
    nobody = True
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        named = re.compile(re.escape(person.name) + r"_\d{4}\.jpe?g", re.IGNORECASE)
        present = sorted(path.name for path in person.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        kept = [name for name in present if named.fullmatch(name)]
        for name in present:
            if name not in kept:
                path = f"{person.name}/{name}"
                yield Finding("malformed-name", (path,), "not <person>_<number>.jpg; left out")
        if len(kept) < minimum:
            paths = tuple(f"{person.name}/{name}" for name in kept)
            yield Finding("too-few-images", paths, f"fewer than {minimum} of one person; left out")
            continue
        for name in kept:
            nobody = False
            yield {"path": f"{person.name}/{name}", "subject": person.name}
    if nobody:
        raise InputError(f"{folder}: no person with {minimum} images (<person>/<person>_<number>.jpg)")


LFW = DataSet(
    lfw,
    "person",
    split=SubjectSplit("lfw-people-v1", (0.75, 0.25, 0.0)),
    ages=False,
    terms=Terms("research", "LFW: research only; the photographs belong to their owners"),
)
