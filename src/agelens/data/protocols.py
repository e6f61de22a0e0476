"""Evaluation protocols as data: the people or images to train on, and those to test on.

A protocol is a table of ``protocols.toml``, checked on load; knowing them needs no extra. Applied to a
manifest (:mod:`agelens.data.protocol_split`) it gives one fold or more; a fold sends every row to train, val,
test or nowhere.

Besides the names in the file there are ``subject-K-fold`` and ``image-K-fold`` for any number K, for data of
one's own.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agelens.errors import InputError

__all__ = ["Protocol", "load_protocol", "protocol_names"]

_GENERIC = re.compile(r"(?P<group>subject|image)-(?P<folds>[1-9]\d*)-fold")
_GENERIC_NAMES = ("subject-K-fold", "image-K-fold")


class Protocol(BaseModel):
    """One evaluation protocol.

    Attributes:
        name: Key of its table.
        title: Description in one line.
        source: The papers that use it, or why it is as it is.
        dataset: The data set it is meant for; ``any``.
        kind: ``holdout``: a share of the groups tests. ``folds``: K folds, each group tests once.
            ``leave-one-out``: each group is a fold. ``official``: the owner's parts (column
            ``official_split``). ``listed``: the test images are those of a list that ships with agelens.
            ``whole``: everything is trained on and nothing tests, for a submission to others' test.
        group: The unit that goes to a side as a whole: a person (``subject``) or an ``image`` by its digest.
        test_share: Of ``holdout``.
        folds: Of ``folds``.
        validation: ``carved`` out of the training part, by the protocol's group; ``judged``: the test part
            itself, where a paper has no other, so that whatever is selected on it favours it; ``none``:
            everything outside the test part is trained on, and nothing is selected.
        validation_share: Of the training part, in images; carved out of it.
        validation_part: The owner's part that validates, instead of one carved out.
        train_parts: Of ``official``: the owner's parts that are trained on.
        test_part: Of ``official``: the owner's part that is tested on.
        test_list: Of ``listed``: a file in ``protocol_lists``, a name a line.
        ages: Only labels from the first to the second age, both included.
        spread: Rule by which groups are dealt to folds: ``hash`` (a new image moves no other) or ``even``
            (folds of one size, for small sets).
        labels: Meaning of the labels of its data set: ``real``, ``apparent`` or ``estimated`` ages.
        images: How many images the owner's whole set has; for "found 2,981 of 3,287".
        test_images: How many of them test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    source: str
    dataset: str = "any"
    kind: Literal["holdout", "folds", "leave-one-out", "official", "listed", "whole"]
    group: Literal["image", "subject"] = "image"
    test_share: float = Field(default=0.2, gt=0, lt=1)
    folds: int = Field(default=5, ge=2)
    validation: Literal["carved", "judged", "none"] = "carved"
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    validation_part: Literal["train", "val", "test"] | None = None
    train_parts: tuple[Literal["train", "val", "test"], ...] = ("train",)
    test_part: Literal["train", "val", "test"] = "test"
    test_list: str | None = None
    ages: tuple[float, float] | None = None
    spread: Literal["hash", "even"] = "hash"
    labels: Literal["real", "apparent", "estimated"] | None = None
    images: int | None = None
    test_images: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "listed") != (self.test_list is not None):
            raise ValueError("a test list goes with kind 'listed'")
        if self.kind == "whole" and self.validation != "none":
            raise ValueError("kind 'whole' goes with validation 'none'")
        if self.test_part in (*self.train_parts, self.validation_part):
            raise ValueError("the test part must be neither trained nor validated on")
        if self.validation_part is not None and self.validation != "carved":
            raise ValueError(f"a validation part does not go with validation {self.validation!r}")
        return self

    @property
    def selection(self) -> str:
        """The images that epochs and stages are selected on, in words; empty for a part of their own."""
        return {
            "carved": "",
            "judged": "epochs and stages are selected on the test part itself: its figures are too good",
            "none": "no validation part: nothing is selected, and intervals are not calibrated",
        }[self.validation]

    @property
    def published(self) -> bool:
        """Sides made by others, which may leak."""
        return self.kind in ("official", "listed")


def protocol_names() -> list[str]:
    """Names of the protocols that ship with agelens, without the ``…-K-fold`` ones."""
    return list(_tables())


def load_protocol(name: str) -> Protocol:
    """Find a protocol by its name.

    Args:
        name: One of :func:`protocol_names`, ``subject-K-fold`` or ``image-K-fold``.
    Returns:
        The checked protocol.
    Raises:
        InputError: No such protocol, or fewer than two folds.
    """
    tables = _tables()
    if name in tables:
        return _validated({"name": name, **tables[name]})
    if name in _GENERIC_NAMES:
        raise InputError(f"{name}: write the number of folds for K, as in {name.replace('K', '5')}")
    generic = _GENERIC.fullmatch(name)
    if not generic:
        known = ", ".join([*tables, *_GENERIC_NAMES])
        raise InputError(f"unknown protocol {name!r}; known: {known}")
    whom = "person" if generic["group"] == "subject" else "content"
    return _validated(
        {
            "name": name,
            "title": f"{generic['folds']} folds by {whom}: every usable image is tested once",
            "source": "cross-validation on data of one's own",
            "kind": "folds",
            "group": generic["group"],
            "folds": int(generic["folds"]),
            "spread": "even",
        }
    )


def _tables() -> dict[str, dict[str, Any]]:
    text = resources.files("agelens.data").joinpath("protocols.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _validated(table: dict[str, Any]) -> Protocol:
    try:
        return Protocol.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "table"
        raise InputError(f"protocol {table['name']!r}, {where}: {first['msg']}") from error
