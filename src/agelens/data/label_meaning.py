"""Kinds of labels, in words."""

from __future__ import annotations

from agelens.errors import InputError

__all__ = ["MEANINGS", "label_meaning"]

MEANINGS = {
    "real": "real age: from a date of birth or a record",
    "apparent": "apparent age: how old voters say people look",
    "estimated": "estimated age: a label made by an algorithm or a few annotators, not a record",
}
"""The kinds of labels that a data set may have."""


def label_meaning(labels: str | None) -> str:
    """Explain a kind of labels, for a stamp.

    Args:
        labels: One of `MEANINGS`; None: not known.
    Raises:
        InputError: It is none of `MEANINGS`.
    """
    if labels is None:
        return "not stated (--labels real, apparent or estimated)"
    if labels not in MEANINGS:
        raise InputError(f"labels are {', '.join(MEANINGS)} (value: {labels!r})")
    return MEANINGS[labels]
