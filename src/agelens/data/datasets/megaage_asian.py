"""MegaAge-Asian: 43,945 faces of Asian people in the wild, aged like MegaAge's.

Owner: http://mmlab.ie.cuhk.edu.hk/projects/MegaAge/ (The Chinese University of Hong Kong). Terms:
non-commercial research; no redistribution.

Layout, as the archive unpacks (FOLDER may be the folder around it, ``megaage_asian`` or twice that)::

    FOLDER/list/train_name.txt, train_age.txt, test_name.txt, test_age.txt   one name, one age a line
    FOLDER/train/1.jpg …  FOLDER/test/1.jpg …

40,000 train and 3,945 test images, 178 × 218, aged 0 to 70. The owner's ``*_dis.txt`` are not read.

Zhang, Liu, Li, Loy, Quantifying facial age by posterior of age comparisons, BMVC 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.datasets.megaage import LISTED, list_root, read_lists
from agelens.terms import Terms

__all__ = ["MEGAAGE_ASIAN", "megaage_asian"]


def megaage_asian(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield MegaAge-Asian, with its owner's split.

    Args:
        folder: Holds ``list``, ``train`` and ``test``.
    Raises:
        InputError: A list of names and one of ages that differ in length.
    """
    root = list_root(folder, "megaage_asian")
    yield Root(root)
    for row in read_lists(root):
        yield {**row, "ethnicity": "Asian"}


MEGAAGE_ASIAN = DataSet(
    megaage_asian,
    LISTED,
    labels="estimated",
    terms=Terms("research", "MegaAge-Asian: non-commercial research; no redistribution"),
)
