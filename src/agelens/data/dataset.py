"""The parts of a data set's adapter: the items that it yields, and the declaration of the set.

A data set is one file: a docstring (its description, owner, terms and layout), a generator that yields
rows, and a :class:`DataSet` that names the generator. :func:`agelens.data.adapt.read_dataset` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agelens.terms import UNKNOWN, Terms

__all__ = ["Adapter", "ContentSplit", "DataSet", "Finding", "Root", "Row", "SubjectSplit"]

Row = dict[str, Any]
"""One image: ``path`` (relative to the data set's folder, or its :class:`Root`), ``age``, and more of the
manifest's columns.

In place of ``age``, ``age_low`` and ``age_high`` (empty for an open band)."""


@dataclass(frozen=True)
class Finding:
    """A finding about one or more images, reported to their owner.

    Attributes:
        kind: One word or a few joined by hyphens (``malformed-name``); a key of ``audit.KINDS``.
        paths: The images concerned, as the manifest or folder names them.
        detail: The fault, in words.
    """

    kind: str
    paths: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class Root:
    """The folder in which the paths of the rows start; yielded before any row where it is not FOLDER."""

    folder: Path


Adapter = Callable[..., Iterator[Row | Finding | Root]]
"""``adapter(folder, *, setting=default, …)`` yields the rows of a folder in a fixed order.

It reads names and labels, no image. Whatever cannot be used is a :class:`Finding`, never a silent drop. It
raises InputError for a folder that is not its data set. Settings of its own are keywords with a default.
"""


@dataclass(frozen=True)
class ContentSplit:
    """A split by the content of the images: copies share a side, and one of them is used.

    Rows that are in the test part already stay there; the others are divided.

    Attributes:
        salt: The name of the split (:func:`agelens.data.splits.split_images`).
        fractions: Shares of train, val and test.
    """

    salt: str
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class SubjectSplit:
    """A split by person.

    Attributes:
        salt: The name of the split (:func:`agelens.data.splits.content_split`).
        fractions: Shares of train, val and test.
    """

    salt: str
    fractions: tuple[float, float, float]


@dataclass(frozen=True)
class DataSet:
    """A public data set, or a layout of one's own.

    Attributes:
        read: Yields the rows; the docstring of its module is the set's guide.
        image: Name of an item of the set, for the error of a folder without any.
        chips: The images are cut to one face already: `prepare` treats them as face chips.
        split: The split to make; None: the one in the rows, or none.
        ages: Whether the rows have ages; a set of identities has ``subject`` instead.
        labels: The meaning of its ages, for the manifest's column ``labels``; None: not known, unless the
            rows say.
        own: A layout for data of one's own: its name is not the name of a set (column ``dataset``).
        terms: What its owner permits; models that are trained on it inherit it.
    """

    read: Adapter
    image: str = "image with a label"
    chips: bool = False
    split: ContentSplit | SubjectSplit | None = None
    ages: bool = True
    labels: Literal["real", "apparent", "estimated"] | None = None
    own: bool = False
    terms: Terms = UNKNOWN
