"""Values that the columns of a manifest may hold; no pandas is needed to know them."""

from __future__ import annotations

__all__ = ["GENDERS", "LABELS", "MAXIMUM_AGE", "SPLITS"]

SPLITS = ("train", "val", "test")
GENDERS = ("male", "female")
LABELS = ("real", "apparent", "estimated")
"""Meanings of a label: years since birth, the age that people guessed, or an estimate of the owner's."""
MAXIMUM_AGE = 130.0
"""Years; above it an age is an error (the oldest person on record reached 122)."""
