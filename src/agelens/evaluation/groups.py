"""Groupings of images: by a column of the manifest, by age, pose or distance between the eyes, and crossed.

A grouping has a name: ``age_band``, ``five_years``, ``aar_group`` (the eight groups of AAR), ``pose`` (bands
of the absolute yaw), ``eye_distance`` (from the landmarks), a text column of the manifest, or a crossing of
these, ``gender:ethnicity``. Other bounds than ours stand in the name: ``pose-20`` has two groups, ``0 to
20°`` and ``20° and more`` (LRN's Table 10 has two); ``eye_distance-30-60`` has three.
Where the labels are bands, ``age_band`` is these bands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.manifest import COLUMNS, band_text, is_band, label_bounds
from agelens.errors import InputError
from agelens.metrics import AAR_GROUPS

__all__ = [
    "AGE_BANDS",
    "BY_AGE",
    "EYE_DISTANCES",
    "POSES",
    "Grouping",
    "check_groupings",
    "crossings",
    "eye_distances",
    "group",
    "group_members",
    "people",
    "split_groupings",
]

FloatArray = NDArray[np.float64]
Band = tuple[int, int | None]

AGE_BANDS: tuple[Band, ...] = (
    *((0, 2), (3, 12), (13, 17), (18, 29)),
    *((30, 44), (45, 59), (60, 74), (75, None)),
)
"""First and last completed year of each age band; the last is open."""

POSES = (0, 15, 30, 45, None)
"""Bounds of the bands of the absolute yaw, degrees; the last is open."""

EYE_DISTANCES = (0, 20, 40, 60, 80, 120, None)
"""Bounds of the six ranges of the distance between the eyes, pixels; the last is open."""

BY_AGE = ("age_band", "five_years", "aar_group")
"""Groupings by the true age."""

MOST_GROUPS = 1000
"""More groups than this are no table."""

_UNKNOWN = "unknown"
_CROSS = ":"


@dataclass(frozen=True, eq=False)
class Grouping:
    """Membership of each image in one of G groups.

    Attributes:
        name: ``gender``, ``gender:ethnicity``.
        groups: G names, empty groups too.
        codes: (N,) position of the image's group; -1 = in none.
    """

    name: str
    groups: tuple[str, ...]
    codes: NDArray[np.int64]

    def members(self, position: int) -> NDArray[np.bool_]:
        """(N,) whether an image is in the group at this position."""
        return np.asarray(self.codes == position)


def split_groupings(by: Sequence[str]) -> tuple[str, ...]:
    """Take apart ``age_band,gender`` and leave out what is named twice.

    Raises:
        InputError: A name is empty.
    """
    names = [name.strip() for text in by for name in text.split(",")]
    if "" in names:
        raise InputError(f"a grouping has no name (value: {','.join(by)!r})")
    return tuple(dict.fromkeys(names))


def crossings(by: Sequence[str]) -> tuple[str, ...]:
    """Give all pairs of groupings that are no crossings themselves, ``gender:ethnicity``."""
    single = [name for name in by if _CROSS not in name]
    return tuple(f"{a}{_CROSS}{b}" for a, b in combinations(single, 2) if not {a, b} <= set(BY_AGE))


def check_groupings(by: Sequence[str], labels: pd.DataFrame) -> None:
    """Refuse a grouping that :func:`group` does not know, before any work is done for it.

    Raises:
        InputError: There is no such grouping.
    """
    for name in by:
        for part in [name] if name in labels.columns else name.split(_CROSS):
            if part not in (*BY_AGE, *COLUMNS, *labels.columns) and _bounds(part) is None:
                raise _unknown_grouping(part, labels)


def group(name: str, labels: pd.DataFrame) -> Grouping | None:
    """Sort the images of a manifest into the groups of a grouping.

    Args:
        name: Name of the grouping.
        labels: N rows of a checked manifest.
    Returns:
        The grouping; None where the manifest has no value at all for it.
    Raises:
        InputError: There is no such grouping, or it has more than `MOST_GROUPS` groups.
    """
    if name not in labels.columns and _CROSS in name:
        return _crossed(name, labels)
    if name in BY_AGE and is_band(labels).any():
        return _by_band(labels) if name == "age_band" else None
    if name in BY_AGE:
        completed = np.floor(labels["age"].to_numpy(dtype=np.float64))
        bands: Sequence[Band] = AGE_BANDS
        if name == "aar_group":
            bands = AAR_GROUPS
        elif name == "five_years":
            bands = [(first, first + 4) for first in range(0, int(completed.max()) + 1, 5)]
        return _banded(name, completed, bands)
    computed = name in ("pose", "eye_distance") or name not in labels.columns
    ranged = _bounds(name) if computed else None
    if ranged is None:
        return _column(name, labels)
    measure, bounds = ranged
    if measure == "eye_distance":
        return _ranged(name, eye_distances(labels), bounds, " px")
    yaw = labels["pose"].to_numpy(dtype=np.float64) if "pose" in labels else np.full(len(labels), math.nan)
    return _ranged(name, np.abs(yaw), bounds, "°")


def _by_band(labels: pd.DataFrame) -> Grouping:
    """Group images by the bands that are their labels, the youngest first; ages are not grouped."""
    bands, codes = np.unique(label_bounds(labels), axis=0, return_inverse=True)
    return Grouping("age_band", tuple(band_text(*band) for band in bands), codes.reshape(-1).astype(np.int64))


def group_members(name: str, labels: pd.DataFrame) -> dict[str, NDArray[np.bool_]] | None:
    """Give each group of a grouping as a mask; arguments and errors as :func:`group`.

    Returns:
        Name to (N,) whether an image is in the group; None where the manifest has no value at all.
    """
    grouping = group(name, labels)
    return None if grouping is None else {text: grouping.members(k) for k, text in enumerate(grouping.groups)}


def eye_distances(labels: pd.DataFrame) -> FloatArray:
    """Measure the distance between the eyes from the column ``landmarks``.

    Args:
        labels: N rows of a checked manifest.
    Returns:
        (N,) pixels of the image that the landmarks were found on; NaN where there are none.
    """
    distances = np.full(len(labels), math.nan)
    if "landmarks" in labels:
        texts = labels["landmarks"].fillna("").to_numpy(dtype=object)
        given = np.flatnonzero(texts != "")
        if given.size:
            eyes = np.array([text.split()[:4] for text in texts[given]], dtype=np.float64)
            distances[given] = np.hypot(eyes[:, 2] - eyes[:, 0], eyes[:, 3] - eyes[:, 1])
    return distances


def people(labels: pd.DataFrame) -> NDArray[np.int64]:
    """Number the people of a manifest: images with one ``subject`` are one person, any other image its own.

    Args:
        labels: N rows of a checked manifest.
    Returns:
        (N,) 0 … S - 1, in the order in which they appear.
    """
    numbers = np.arange(len(labels), dtype=np.int64)
    if "subject" in labels:
        subjects = labels["subject"].fillna("").astype(str).to_numpy(dtype=object)
        keys = [(subject,) if subject else (index,) for index, subject in enumerate(subjects)]
        numbers = np.asarray(pd.factorize(pd.Series(keys, dtype=object))[0], dtype=np.int64)
    return numbers


def _bounds(name: str) -> tuple[str, tuple[int | None, ...]] | None:
    """Read ``pose`` or ``pose-20-45``: what is measured, and the bounds of its ranges.

    Raises:
        InputError: The bounds do not rise.
    """
    measure, *given = name.split("-")
    usual = {"pose": POSES, "eye_distance": EYE_DISTANCES}.get(measure)
    if usual is None or not all(re.fullmatch("[0-9]+", bound) for bound in given):
        return None
    if not given:
        return measure, usual
    bounds = [0, *map(int, given)]
    if any(low >= high for low, high in pairwise(bounds)):
        raise InputError(f"the bounds of the grouping {name!r} must rise from above 0")
    return measure, (*bounds, None)


def _crossed(name: str, labels: pd.DataFrame) -> Grouping | None:
    parts = [group(part, labels) for part in name.split(_CROSS)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    codes, groups = known[0].codes, known[0].groups
    for part in known[1:]:
        inside = (codes >= 0) & (part.codes >= 0)
        codes = np.where(inside, codes * len(part.groups) + part.codes, -1)
        groups = tuple(f"{a} × {b}" for a in groups for b in part.groups)
        _check_number(name, len(groups))
    return Grouping(name, groups, codes)


def _banded(name: str, completed: FloatArray, bands: Sequence[Band]) -> Grouping:
    codes = np.full(len(completed), -1, dtype=np.int64)
    names = []
    for position, (first, last) in enumerate(bands):
        codes[(completed >= first) & (completed <= (math.inf if last is None else last))] = position
        names.append(f"{first}+" if last is None else f"{first}-{last}")
    return Grouping(name, tuple(names), codes)


def _ranged(name: str, values: FloatArray, bounds: Sequence[int | None], unit: str) -> Grouping | None:
    missing = np.isnan(values)
    if missing.all():
        return None
    inner = [float(bound) for bound in bounds[1:] if bound is not None]
    codes = np.where(missing, len(inner) + 1, np.digitize(values, inner)).astype(np.int64)
    names = [
        f"{low}{unit} and more" if high is None else f"{low} to {high}{unit}"
        for low, high in pairwise(bounds)
    ]
    return Grouping(name, (*names, _UNKNOWN) if missing.any() else tuple(names), codes)


def _column(name: str, labels: pd.DataFrame) -> Grouping | None:
    if name not in labels.columns:
        if name in COLUMNS:
            return None
        raise _unknown_grouping(name, labels)
    values = labels[name].astype(object)
    texts = values.where(values.notna(), "").astype(str).astype(object)
    if (texts == "").all():
        return None
    codes, distinct = pd.factorize(texts.where(texts != "", _UNKNOWN), sort=True)
    names = [str(text) for text in distinct if text != _UNKNOWN]
    if len(names) < len(distinct):
        names.append(_UNKNOWN)
    _check_number(name, len(names))
    places = np.array([names.index(text) for text in distinct], dtype=np.int64)
    return Grouping(name, tuple(names), places[codes])


def _unknown_grouping(name: str, labels: pd.DataFrame) -> InputError:
    columns = ", ".join(str(column) for column in labels.columns)
    return InputError(
        f"no such grouping: {name!r} (age_band, five_years, aar_group, pose, pose-20, eye_distance, a"
        f" crossing as gender:ethnicity, or a column: {columns})"
    )


def _check_number(name: str, groups: int) -> None:
    if groups > MOST_GROUPS:
        raise InputError(f"the grouping {name!r} has {groups} groups; at most {MOST_GROUPS} make a table")
