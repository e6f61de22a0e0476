"""Public data sets, one file each: a folder as its authors ship it becomes a manifest.

Knowing them needs no extra; reading one (:func:`agelens.data.adapt.read_dataset`) needs pandas.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from agelens.data.dataset import Adapter, DataSet
from agelens.data.datasets.afad import AFAD
from agelens.data.datasets.appa_real import APPA_REAL
from agelens.data.datasets.chalearn import CHALEARN
from agelens.data.datasets.fairface import FAIRFACE
from agelens.data.datasets.fgnet import FGNET
from agelens.data.datasets.folders import FOLDERS
from agelens.data.datasets.guess_the_age import GUESS_THE_AGE
from agelens.data.datasets.imdb_wiki import IMDB_WIKI
from agelens.data.datasets.lfw import LFW
from agelens.data.datasets.megaage import MEGAAGE
from agelens.data.datasets.megaage_asian import MEGAAGE_ASIAN
from agelens.data.datasets.morph import MORPH
from agelens.data.datasets.names import NAMES
from agelens.data.datasets.people import PEOPLE
from agelens.data.datasets.table import TABLE
from agelens.data.datasets.utkface import UTKFACE
from agelens.plugins import resolve

__all__ = ["DATASETS", "data_set", "dataset_guide", "dataset_settings", "settings_of"]

DATASETS: dict[str, DataSet] = {
    "afad": AFAD,
    "appa_real": APPA_REAL,
    "chalearn": CHALEARN,
    "fairface": FAIRFACE,
    "fgnet": FGNET,
    "folders": FOLDERS,
    "guess_the_age": GUESS_THE_AGE,
    "imdb_wiki": IMDB_WIKI,
    "lfw": LFW,
    "megaage": MEGAAGE,
    "megaage_asian": MEGAAGE_ASIAN,
    "morph": MORPH,
    "names": NAMES,
    "people": PEOPLE,
    "table": TABLE,
    "utkface": UTKFACE,
}


def data_set(name: str) -> DataSet:
    """Look up a data set.

    Args:
        name: A key of :data:`DATASETS` (a hyphen stands for an underscore), an entry point
            ``agelens.datasets``, or ``package.module:name``; the latter two lead to a :class:`DataSet` or to
            the bare generator of one.
    Raises:
        PluginError: An unknown data set, or its package cannot be imported.
    """
    key = name.replace("-", "_")
    if key in DATASETS:
        return DATASETS[key]
    part: DataSet | Adapter = resolve("datasets", name, DATASETS)
    return part if isinstance(part, DataSet) else DataSet(part)


def dataset_settings(name: str) -> dict[str, Any]:
    """The settings of a data set's adapter and their defaults.

    Raises:
        PluginError: An unknown data set.
    """
    return settings_of(data_set(name))


def settings_of(dataset: DataSet) -> dict[str, Any]:
    """The settings of an adapter, its keywords, and their defaults."""
    parameters = inspect.signature(dataset.read).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def dataset_guide(name: str) -> str:
    """Description of a data set: its owner, terms and layout.

    Raises:
        PluginError: An unknown data set.
    """
    return (sys.modules[data_set(name).read.__module__].__doc__ or "").strip()
