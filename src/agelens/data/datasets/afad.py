"""AFAD: 164,432 faces of Asian people aged 15 to 40 (a few to 72), cut from a social network's photographs.

Owner: https://github.com/afad-dataset/tarball (Xidian University); AFAD-Lite (59,344 faces, 15 to 39) from
https://github.com/afad-dataset/tarball-lite. Terms: academic research only.

Layout (FOLDER may be ``AFAD-Full``, ``AFAD-Lite`` or the folder around it)::

    FOLDER/AFAD-Full.txt                ./15/111/637660-0.jpg …: the owner's list, checked if it is there
    FOLDER/15/111/637660-0.jpg …        <age>/<111 male or 112 female>/<name>.jpg

The folders hold Thumbs.db files as well. Faces are cut tightly and are not all square.

Niu, Zhou, Wang, Gao, Hua, Ordinal regression with multiple output CNN for age estimation, CVPR 2016.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agelens.data.datasets.rows import Row, images_below, make_manifest, read_lines
from agelens.data.duplicates import Progress
from agelens.data.manifest import Finding
from agelens.errors import InputError

__all__ = ["afad"]

_GENDERS = {"111": "male", "112": "female"}
_NAMES = ("AFAD-Full", "AFAD-Lite")


def afad(
    folder: str | Path, *, content: bool = True, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Make the manifest of AFAD: age, gender, ethnicity.

    Args:
        folder: Holds the folders named by age.
        content: Whether to read the images, for ``digest``. False reads names only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The manifest in the order of the names; a name of the owner's list without a file is a finding.
    Raises:
        InputError: No image in <age>/<111|112>.
    """
    folder = Path(folder)
    root = next((folder / name for name in _NAMES if (folder / name).is_dir()), folder)
    rows: list[Row] = []
    problems: list[Finding] = []
    for path in images_below(root):
        age, gender = (*path.split("/"), "", "")[:2]
        if path.count("/") != 2 or not age.isdecimal() or gender not in _GENDERS:
            problems.append(Finding("malformed-name", (path,), "not in <age>/<111 or 112>; left out"))
            continue
        rows.append({"path": path, "age": age, "gender": _GENDERS[gender], "ethnicity": "Asian"})
    if not rows:
        raise InputError(f"{folder}: no AFAD image (<age>/<111 or 112>/<name>.jpg)")
    there = {row["path"] for row in rows}
    for table in (root / f"{name}.txt" for name in _NAMES):
        if table.is_file():
            listed = [line.removeprefix("./") for line in read_lines(table) if line]
            problems += [
                Finding("missing-file", (path,), f"in {table.name}, but not there")
                for path in listed
                if path not in there
            ]
    return make_manifest(rows, root, problems, content=content, workers=workers, progress=progress)
