"""Addresses in the place of image files: nothing is fetched, and the user learns how to pipe an image."""

from __future__ import annotations

import re

__all__ = ["address_refusal", "shortened"]

_SHOWN = 60  # characters of an address, which may hold a whole image


def address_refusal(name: str) -> str | None:
    """Say why an address is no image file; None if the name is no address.

    Args:
        name: What the user gave in the place of a path.
    Returns:
        The reason, to follow the name, with a command that works.
    """
    if re.match(r"data:", name, flags=re.IGNORECASE):
        return "is an image as text: pipe what follows its comma through base64 -d | agelens predict -"
    if re.match(r"(https?|ftps?)://", name, flags=re.IGNORECASE):
        return "is an address, and agelens opens no connection: curl -s ADDRESS | agelens predict -"
    return None


def shortened(name: str) -> str:
    """The beginning of a name, as long as a line has room for."""
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
