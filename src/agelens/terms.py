"""Terms of a model: the strictest of what its data, its start and its teachers permit.

Nobody types a model's terms: they are computed when it is trained and travel in its file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PERMISSIONS", "UNKNOWN", "Permission", "Terms", "is_open", "read_terms", "strictest"]

Permission = Literal["any", "attribution", "unknown", "research"]
"""Permission of a part; later words are stricter.

``unknown`` comes before ``research``: what is made of a part without stated terms and of one for research is
for research.
"""

PERMISSIONS: dict[Permission, str] = {
    "any": "any use",
    "attribution": "any use, with attribution",
    "unknown": "not known: the terms of its data, its start or a teacher are not stated",
    "research": "non-commercial research only",
}
"""Permissions in words, from the most permissive to the strictest."""

_RANKS = {permission: rank for rank, permission in enumerate(PERMISSIONS)}


@dataclass(frozen=True)
class Terms:
    """The terms of a data set, of weights to start from, or of a teacher.

    Attributes:
        permits: What may be done with what is trained from it.
        text: The owner's terms in a line, with the name of the owner or set.
    """

    permits: Permission = "unknown"
    text: str = "terms not stated"


UNKNOWN = Terms()


def strictest(permissions: Iterable[Permission]) -> Permission:
    """Combine the permissions of several parts: the strictest one; ``unknown`` where there is no part."""
    return max(permissions, key=_RANKS.__getitem__, default="unknown")


def is_open(permission: Permission) -> bool:
    """Tell whether commercial use is permitted."""
    return permission in ("any", "attribution")


def read_terms(table: Mapping[str, Any]) -> Terms:
    """Read the terms of a part as a run or a model file keeps them: ``permits`` and ``text``."""
    permits = table.get("permits")
    known: Permission = permits if isinstance(permits, str) and permits in _RANKS else "unknown"
    return Terms(known, str(table.get("text") or UNKNOWN.text))
