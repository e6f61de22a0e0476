"""MegaAge: 41,941 faces in the wild, aged by comparing them with faces of known age.

Owner: http://mmlab.ie.cuhk.edu.hk/projects/MegaAge/ (The Chinese University of Hong Kong); the images come
from MegaFace and YFCC100M. Terms: non-commercial research; no redistribution.

Layout, as the archive unpacks (FOLDER may be the folder around it)::

    FOLDER/list/train_name.txt, train_age.txt, test_name.txt, test_age.txt   one name, one age a line
    FOLDER/train/1.jpg …  FOLDER/test/1.jpg …

33,411 train and 8,530 test images, aged 0 to 70. The owner's ``*_dis.txt`` (the posteriors) are not read.

Zhang, Liu, Li, Loy, Quantifying facial age by posterior of age comparisons, BMVC 2017.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agelens.data.datasets.rows import Row, make_manifest, read_lines
from agelens.data.duplicates import Progress
from agelens.errors import InputError

__all__ = ["list_root", "megaage", "read_lists"]


def megaage(
    folder: str | Path, *, content: bool = True, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Make the manifest of MegaAge, with its owner's split.

    Args:
        folder: Holds ``list``, ``train`` and ``test``.
        content: Whether to read the images, for ``digest``. False reads the lists only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The manifest: ``split`` and ``official_split`` are the owner's.
    Raises:
        InputError: No lists, or a list of names and one of ages that differ in length.
    """
    root = list_root(Path(folder), "megaage")
    return make_manifest(read_lists(root), root, [], content=content, workers=workers, progress=progress)


def read_lists(folder: Path) -> list[Row]:
    """Read the lists of names and ages that MegaAge and MegaAge-Asian share.

    Args:
        folder: Holds ``list``.
    Returns:
        A row an image: ``path``, ``age``, ``split``, ``official_split``.
    Raises:
        InputError: As in :func:`megaage`.
    """
    rows: list[Row] = []
    for part in ("train", "test"):
        names_file = folder / "list" / f"{part}_name.txt"
        if not names_file.is_file():
            continue
        names, ages = read_lines(names_file), read_lines(folder / "list" / f"{part}_age.txt")
        if len(names) != len(ages):
            raise InputError(f"{names_file}: {len(names)} names for {len(ages)} ages in {part}_age.txt")
        rows += [
            {"path": f"{part}/{name}", "age": age, "split": part, "official_split": part}
            for name, age in zip(names, ages, strict=True)
        ]
    if not rows:
        raise InputError(f"{folder}: no list/train_name.txt or list/test_name.txt with names")
    return rows


def list_root(folder: Path, name: str) -> Path:
    """The folder that holds ``list``: the one given, or one or two of that name in it."""
    for place in (folder, folder / name, folder / name / name):
        if (place / "list").is_dir():
            return place
    return folder
