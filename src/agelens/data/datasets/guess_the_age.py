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

from pathlib import Path

import pandas as pd

from agelens.data.datasets.rows import Row, make_manifest, read_table, without_header
from agelens.data.duplicates import Progress
from agelens.errors import InputError

__all__ = ["guess_the_age"]

_TABLE = "training_caip_contest.csv"


def guess_the_age(
    folder: str | Path, *, content: bool = True, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Make the manifest of the Guess The Age training set.

    Args:
        folder: Holds the CSV file and the folder of images.
        content: Whether to read the images, for ``digest``. False reads the table only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The manifest in the order of the table.
    Raises:
        InputError: No such table, or one that is not of two columns.
    """
    folder = Path(folder)
    tables = [folder / _TABLE] if (folder / _TABLE).is_file() else sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise InputError(f"{folder}: no {_TABLE} in it, and {len(tables)} other CSV files")
    records = without_header(read_table(tables[0], ("name", "age")), "name", "age")
    images = tables[0].stem if (folder / tables[0].stem).is_dir() else ""
    rows: list[Row] = [
        {"path": f"{images}/{record['name']}" if images else record["name"], "age": record["age"]}
        for record in records
    ]
    if not rows:
        raise InputError(f"{tables[0]}: no row with a name and an age")
    return make_manifest(rows, folder, [], content=content, workers=workers, progress=progress)
