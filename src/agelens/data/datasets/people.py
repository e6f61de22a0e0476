"""Your own people, without ages: a folder a person, for identity pre-training.

Owner and terms: yours.

Layout::

    FOLDER/anna/anything.jpg …    FOLDER/ben/deeper/still.png …

The name of the folder directly in FOLDER is the person. Images (JPEG, PNG, WebP …) may lie deeper;
those directly in FOLDER are findings and left out. People are split, not images: a quarter of them, by a
hash of the name, is held back for verification (``val``). A table ``path,subject`` serves as well: give it to
``agelens prepare`` as it is.

Setting ``minimum``: fewest images a person must have (2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row, SubjectSplit
from agelens.data.owner_files import images_below

__all__ = ["PEOPLE", "people"]


def people(folder: Path, *, minimum: int = 2) -> Iterator[Row | Finding | Root]:
    """Yield the images of a folder of folders named by person, in the order of the names.

    Args:
        folder: Holds the folders.
        minimum: Fewest images a person must have.
    """
    of_person: defaultdict[str, list[str]] = defaultdict(list)
    for path in images_below(folder):
        person, slash, _ = path.partition("/")
        if slash:
            of_person[person].append(path)
        else:
            yield Finding("malformed-name", (path,), "not in a folder of a person; left out")
    for person, paths in of_person.items():
        if len(paths) < minimum:
            yield Finding("too-few-images", tuple(paths), f"fewer than {minimum} of one person; left out")
            continue
        for path in paths:
            yield {"path": path, "subject": person}


PEOPLE = DataSet(
    people,
    "person with enough images (FOLDER/anna/anything.jpg; setting minimum)",
    split=SubjectSplit("people-v1", (0.75, 0.25, 0.0)),
    ages=False,
    own=True,
)
