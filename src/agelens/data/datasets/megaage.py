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

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import read_lines
from agelens.errors import InputError
from agelens.terms import Terms

__all__ = ["LISTED", "MEGAAGE", "list_root", "megaage", "read_lists"]

LISTED = "image listed in list/train_name.txt or list/test_name.txt"


def megaage(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield MegaAge, with its owner's split.

    Args:
        folder: Holds ``list``, ``train`` and ``test``.
    Raises:
        InputError: A list of names and one of ages that differ in length.
    """
    root = list_root(folder, "megaage")
    yield Root(root)
    yield from read_lists(root)


def read_lists(folder: Path) -> Iterator[Row]:
    """Read the lists of names and ages that MegaAge and MegaAge-Asian share.

    Args:
        folder: Holds ``list``.
    Yields:
        A row an image: ``path``, ``age``, ``split``, ``official_split``.
    Raises:
        InputError: As in :func:`megaage`.
    """
    for part in ("train", "test"):
        names_file = folder / "list" / f"{part}_name.txt"
        if not names_file.is_file():
            continue
        names, ages = read_lines(names_file), read_lines(folder / "list" / f"{part}_age.txt")
        if len(names) != len(ages):
            raise InputError(f"{names_file}: {len(names)} names for {len(ages)} ages in {part}_age.txt")
        for name, age in zip(names, ages, strict=True):
            yield {"path": f"{part}/{name}", "age": age, "split": part, "official_split": part}


def list_root(folder: Path, name: str) -> Path:
    """The folder that holds ``list``: the one given, or one or two of that name in it."""
    for place in (folder, folder / name, folder / name / name):
        if (place / "list").is_dir():
            return place
    return folder


MEGAAGE = DataSet(
    megaage,
    LISTED,
    labels="estimated",
    terms=Terms("research", "MegaAge: non-commercial research; no redistribution"),
)
