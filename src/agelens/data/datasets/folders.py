"""Your own faces: a folder of folders named by age.

Owner and terms: yours.

Layout::

    FOLDER/25/anything.jpg …    FOLDER/7.5/…    FOLDER/031/deeper/still.png …

The name of the folder directly in FOLDER is the age in years, a number. Images (JPEG, PNG, WebP, BMP, TIFF)
may lie deeper. Images in folders named otherwise are findings and left out.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agelens.data.datasets.rows import Row, images_below, make_manifest, parse_number
from agelens.data.duplicates import Progress
from agelens.data.manifest import Finding
from agelens.errors import InputError

__all__ = ["folders"]


def folders(
    folder: str | Path, *, content: bool = True, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Make the manifest of a folder of folders named by age.

    Args:
        folder: Holds the folders.
        content: Whether to read the images, for ``digest``. False reads names only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The manifest in the order of the names.
    Raises:
        InputError: No such folder, or no image in a folder named by an age.
    """
    folder = Path(folder)
    rows: list[Row] = []
    problems: list[Finding] = []
    for path in images_below(folder):
        first, slash, _ = path.partition("/")
        if slash and parse_number(first) == parse_number(first):
            rows.append({"path": path, "age": first})
        else:
            problems.append(Finding("malformed-name", (path,), "not in a folder named by an age; left out"))
    if not rows:
        raise InputError(f"{folder}: no image in a folder named by an age (FOLDER/25/anything.jpg)")
    return make_manifest(rows, folder, problems, content=content, workers=workers, progress=progress)
