"""Rehearsals: the commands of a long experiment, run from the first to the last in minutes.

``AGELENS_REHEARSAL=1`` in the environment cuts everything that takes time (images, pixels, widths, epochs,
sequences, generations), so that all commands of a paper run in minutes before weeks are spent on them.
Its figures mean nothing: every command says so, the recipe of a run records it (``rehearsal = true``), and
neither a rehearsed run can be used without the variable nor another one with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from agelens.errors import InputError

__all__ = [
    "NOTICE",
    "VARIABLE",
    "cut_channels",
    "cut_recipe",
    "cut_side",
    "rehearsing",
    "spread",
]

VARIABLE = "AGELENS_REHEARSAL"
"""Name of the environment variable; ``1`` is the only value that rehearses."""

NOTICE = f"{VARIABLE}=1: a rehearsal, cut to run in minutes; no figure of it means anything"
"""Line that every command prints on stderr."""

_IMAGES = 120  # of a data set
_BATCH = 16
_MOST = {"generations": 2, "sequences": 16, "inter_epochs": 1}
_WIDTH = 16  # channels are divided by it
_LEAST_CHANNELS = 4
_SMALL_SIDE = 64  # kept; what is above it shrinks to a sixteenth, in the same order


def rehearsing() -> bool:
    """Whether the environment asks for a rehearsal.

    Raises:
        InputError: The variable is neither 1, 0 nor empty.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise InputError(f"{VARIABLE} is 1 for a rehearsal, or unset (value: {value!r})")
    return value == "1"


def spread(count: int) -> Sequence[int]:
    """Select images by their places: all ``count`` of them, or in a rehearsal a few from first to last."""
    if not rehearsing() or count <= _IMAGES:
        return range(count)
    return [number * (count - 1) // (_IMAGES - 1) for number in range(_IMAGES)]


def cut_side(pixels: int) -> int:
    """Side of an image, in pixels; in a rehearsal 74 of 224: the larger of two sides stays the larger."""
    return min(pixels, _SMALL_SIDE + max(0, pixels - _SMALL_SIDE) // 16) if rehearsing() else pixels


def cut_channels(channels: int) -> int:
    """Channels or outputs of a layer; in a rehearsal a sixteenth, but at least 4."""
    return max(min(channels, _LEAST_CHANNELS), channels // _WIDTH) if rehearsing() else channels


def cut_recipe(table: dict[str, Any]) -> dict[str, Any]:
    """Cut a whole recipe, as a table, in place, and return it."""
    table["rehearsal"] = True
    network, settings = table["network"], table["method"]["settings"]
    network["input_size"], network["pretrained"] = cut_side(network["input_size"]), False
    for key, most in _MOST.items():
        if key in settings:
            settings[key] = min(settings[key], most)
    if "classifier_pretrained" in settings:
        settings["classifier_pretrained"] = False
    finish = table["finish"]["settings"]
    for training in (table["train"], finish, *(settings[key] for key in settings if key.endswith("_train"))):
        if training is not finish or table["finish"]["name"] != "none":
            _cut_training(training)
    return table


def _cut_training(settings: dict[str, Any]) -> None:
    settings["epochs"] = 1
    settings["batch_size"] = min(settings.get("batch_size", _BATCH), _BATCH)
    if "sizes" in settings:
        settings["sizes"] = []
