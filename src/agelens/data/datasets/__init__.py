"""Public data sets, one file each: a folder as its authors ship it becomes a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pandas as pd

from agelens.data.datasets.fgnet import fgnet
from agelens.data.datasets.utkface import utkface
from agelens.data.duplicates import Progress

__all__ = ["CHIP_DATASETS", "DATASETS", "Adapter"]


class Adapter(Protocol):
    """A function that reads one data set's folder.

    It returns manifest rows in a fixed order, with ``attrs["root"]`` the folder and ``attrs["problems"]`` a
    list of findings; ``content=False`` reads names and labels but no image. It raises InputError for a
    folder that is not its data set.
    """

    def __call__(
        self,
        folder: str | Path,
        *,
        content: bool = True,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Read the folder."""


DATASETS: dict[str, Adapter] = {
    "fgnet": fgnet,
    "utkface": utkface,
}

CHIP_DATASETS = {"utkface"}
"""Those whose images are cut to one face already: `prepare` treats them as face chips."""
