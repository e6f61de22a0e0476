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

from pathlib import Path

import pandas as pd

from agelens.data.datasets.megaage import list_root, read_lists
from agelens.data.datasets.rows import make_manifest
from agelens.data.duplicates import Progress

__all__ = ["megaage_asian"]


def megaage_asian(
    folder: str | Path, *, content: bool = True, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Make the manifest of MegaAge-Asian, with its owner's split.

    Args:
        folder: Holds ``list``, ``train`` and ``test``.
        content: Whether to read the images, for ``digest``. False reads the lists only.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The manifest: ``split`` and ``official_split`` are the owner's, ``ethnicity`` is ``Asian``.
    Raises:
        InputError: No lists, or a list of names and one of ages that differ in length.
    """
    root = list_root(Path(folder), "megaage_asian")
    rows = [{**row, "ethnicity": "Asian"} for row in read_lists(root)]
    return make_manifest(rows, root, [], content=content, workers=workers, progress=progress)
