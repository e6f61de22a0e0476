"""Public data sets, one file each: a folder as its authors ship it becomes a manifest."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from agelens.data.datasets.afad import afad
from agelens.data.datasets.appa_real import appa_real
from agelens.data.datasets.chalearn import chalearn
from agelens.data.datasets.fairface import fairface
from agelens.data.datasets.fgnet import fgnet
from agelens.data.datasets.folders import folders
from agelens.data.datasets.guess_the_age import guess_the_age
from agelens.data.datasets.imdb_wiki import imdb_wiki
from agelens.data.datasets.lfw import lfw
from agelens.data.datasets.megaage import megaage
from agelens.data.datasets.megaage_asian import megaage_asian
from agelens.data.datasets.morph import morph
from agelens.data.datasets.table import table
from agelens.data.datasets.utkface import utkface
from agelens.data.duplicates import Progress
from agelens.errors import InputError
from agelens.plugins import resolve

__all__ = [
    "CHIP_DATASETS",
    "DATASETS",
    "Adapter",
    "dataset_adapter",
    "dataset_guide",
    "dataset_settings",
    "holds_chips",
    "read_dataset",
]


class Adapter(Protocol):
    """A function that reads one data set's folder.

    It returns manifest rows in a fixed order, with ``attrs["root"]`` the folder and ``attrs["problems"]`` a
    list of findings; ``content=False`` reads names and labels but no image. It raises InputError for a
    folder that is not its data set. Settings of its own are further keywords with a default. The docstring of
    its module says what the set is (first line), where its owner offers it, its terms and its layout.
    An adapter of another package whose images are cut to one face already has the attribute ``chips = True``.
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
    "afad": afad,
    "appa_real": appa_real,
    "chalearn": chalearn,
    "fairface": fairface,
    "fgnet": fgnet,
    "folders": folders,
    "guess_the_age": guess_the_age,
    "imdb_wiki": imdb_wiki,
    "lfw": lfw,
    "megaage": megaage,
    "megaage_asian": megaage_asian,
    "morph": morph,
    "table": table,
    "utkface": utkface,
}

CHIP_DATASETS = {"fairface", "utkface"}
"""Those whose images are cut to one face already: `prepare` treats them as face chips."""

_COMMON = ("folder", "content", "workers", "progress")


def dataset_settings(name: str) -> dict[str, Any]:
    """The settings of a data set's adapter and their defaults.

    Raises:
        PluginError: An unknown data set.
    """
    parameters = inspect.signature(dataset_adapter(name)).parameters
    return {key: value.default for key, value in parameters.items() if key not in _COMMON}


def dataset_guide(name: str) -> str:
    """What a data set is, where its owner offers it, its terms, and how to lay it out.

    Raises:
        PluginError: An unknown data set.
    """
    return (sys.modules[dataset_adapter(name).__module__].__doc__ or "").strip()


def read_dataset(
    name: str,
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Read a data set by its name.

    Args:
        name: As :func:`dataset_adapter` takes it.
        folder: As its owner lays it out.
        settings: Some of :func:`dataset_settings`.
        workers: Threads that read.
        progress: Called as ``progress(done, total)``.
    Returns:
        The manifest.
    Raises:
        PluginError: An unknown data set.
        InputError: An unknown setting, a setting of another type, or not its folder.
    """
    known = dataset_settings(name)
    for key, value in (settings or {}).items():
        if key not in known:
            raise InputError(f"{name} has no setting {key!r}; it has {', '.join(known) or 'none'}")
        kind = str if known[key] is None else type(known[key])
        # A setting whose default is a whole number of years takes parts of years; NaN is no number.
        number = kind in (int, float) and type(value) in (int, float) and value == value
        if not number and (type(value) is not kind or kind is float):
            raise InputError(f"the setting {key!r} of {name} is of type {kind.__name__} (value: {value!r})")
    return dataset_adapter(name)(folder, workers=workers, progress=progress, **(settings or {}))


def dataset_adapter(name: str) -> Adapter:
    """Look up the adapter of a data set.

    Args:
        name: A key of :data:`DATASETS` (a hyphen stands for an underscore), an entry point
            ``agelens.datasets``, or ``package.module:name``.
    Raises:
        PluginError: An unknown data set, or its package cannot be imported.
    """
    key = name.replace("-", "_")
    return DATASETS[key] if key in DATASETS else resolve("datasets", name, DATASETS)


def holds_chips(name: str) -> bool:
    """Whether the images of a data set are cut to one face already.

    Raises:
        PluginError: An unknown data set, or its package cannot be imported.
    """
    return name.replace("-", "_") in CHIP_DATASETS or getattr(dataset_adapter(name), "chips", False) is True
