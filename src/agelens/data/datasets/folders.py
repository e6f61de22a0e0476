"""Your own faces: a folder of folders named by age.

Owner and terms: yours.

Layout::

    FOLDER/25/anything.jpg …    FOLDER/7.5/…    FOLDER/031/deeper/still.png …

The name of the folder directly in FOLDER is the age in years, a number. Images (JPEG, PNG, WebP …)
may lie deeper. Images in folders named otherwise are findings and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import images_below, parse_number

__all__ = ["FOLDERS", "folders"]


def folders(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield the images of a folder of folders named by age, in the order of the names.

    Args:
        folder: Holds the folders.
    """
    for path in images_below(folder):
        first, slash, _ = path.partition("/")
        if slash and parse_number(first) == parse_number(first):
            yield {"path": path, "age": first}
        else:
            yield Finding("malformed-name", (path,), "not in a folder named by an age; left out")


FOLDERS = DataSet(folders, "image in a folder named by an age (FOLDER/25/anything.jpg)", own=True)
