"""Guess The Age: the 575,073 training faces of MIVIA's contest at CAIP 2021, aged 1 to 81.

Owner: https://gta2021.unisa.it (MIVIA lab, University of Salerno); the images come from VGGFace2, the ages
are estimated. Terms: the contest's licence; research only.

Layout::

    FOLDER/training_caip_contest.csv    0_0.jpg,35: name and age, no header
    FOLDER/training_caip_contest/       the faces, cut as a detector found them: not square

Any other CSV file of the same form is read if it is the only one in FOLDER, its images from the folder of its
name. Ages need not be whole. There is no person in it, so a random split may put one on both sides.

Greco, Saggese, Vento, Vigilante, Guess the age 2021: age estimation from facial images with deep
convolutional neural networks, CAIP 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import read_table, without_header
from agelens.errors import InputError
from agelens.terms import Terms

__all__ = ["GUESS_THE_AGE", "guess_the_age"]

_TABLE = "training_caip_contest.csv"


def guess_the_age(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield the Guess The Age training set, in the order of its table.

    Args:
        folder: Holds the CSV file and the folder of images.
    Raises:
        InputError: No such table, or one that is not of two columns.
    """
    tables = [folder / _TABLE] if (folder / _TABLE).is_file() else sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise InputError(f"{folder}: no {_TABLE} in it, and {len(tables)} other CSV files")
    images = tables[0].stem if (folder / tables[0].stem).is_dir() else ""
    for record in without_header(read_table(tables[0], ("name", "age")), "name", "age"):
        path = f"{images}/{record['name']}" if images else record["name"]
        yield {"path": path, "age": record["age"]}


GUESS_THE_AGE = DataSet(
    guess_the_age,
    "row with a name and an age",
    chips=True,
    labels="estimated",
    terms=Terms("research", "Guess The Age: the contest's licence, research only"),
)
