"""ACME: drawn faces, for tests.

Layout: FOLDER/<age>_<split>.png.
"""

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Row


def acme(folder: Path) -> Iterator[Row]:
    """Yield the age and the split in each name."""
    for path in sorted(folder.glob("*.png")):
        age, split = path.stem.split("_")
        yield {"path": path.name, "age": age, "split": split}


ACME = DataSet(acme, "ACME face (<age>_<split>.png)", labels="real", chips=True)
