"""Your own faces: images whose names begin with the age.

Owner and terms: yours.

Layout::

    FOLDER/25_anna.jpg    FOLDER/7.5-ben.png    FOLDER/holiday/031 somebody.webp

The name begins with the age in years, a number, followed by ``_``, ``-``, a space, or nothing but the ending.
Images (JPEG, PNG, WebP …) may lie in folders of any name. Images named otherwise are findings and
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import images_below

__all__ = ["NAMES", "names"]

_AGE = re.compile(r"(?P<age>\d{1,3}(?:\.\d+)?)(?=[_ -]|\.[A-Za-z]+$)")


def names(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield the images of a folder whose names begin with an age, in the order of the names.

    Args:
        folder: Holds the images, or folders of them.
    """
    for path in images_below(folder):
        age = _AGE.match(path.rpartition("/")[2])
        if age:
            yield {"path": path, "age": age["age"]}
        else:
            yield Finding("malformed-name", (path,), "the name does not begin with an age; left out")


NAMES = DataSet(names, "image whose name begins with an age (25_anything.jpg)", own=True)
