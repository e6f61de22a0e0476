"""FG-NET: 1,002 scanned photographs of 82 people aged 0 to 69, with 68 points each.

Owner: the Face and Gesture Recognition Network; its own pages are gone, and copies are passed on by
https://yanweifu.github.io/FG_NET_data/. Terms: research; the photographs belong to the people in them.

Layout::

    FOLDER/images/001A02.JPG, 001A43a.JPG …   <person, 3 digits>A<age, 2 digits><letter>.JPG
    FOLDER/points/001a02.pts …                the same, lower case

The protocol leaves one person out at a time (column ``subject``), so no split is set.

The 68 points are not in the iBUG order. Counted from 0: face outline 0-14 (from the image's left), brow at
image right 15-20, brow at image left 21-26, eye at image left 27-30 and its pupil 31, eye at image right
32-35 and its pupil 36, nose 37-47, mouth 48-66 (corners 48 and 54), nose tip 67.

Lanitis, Taylor, Cootes, Toward automatic simulation of aging effects on face images, PAMI 2002.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.errors import InputError
from agelens.reading import read_text, reason
from agelens.terms import Terms

__all__ = ["FGNET", "FIVE_OF_68", "fgnet", "read_points"]

FIVE_OF_68 = (31, 36, 67, 48, 54)
"""Points of the eye at image left, eye at image right, nose tip, mouth corner left, mouth corner right."""

_NAME = re.compile(r"(?P<subject>\d{3})A(?P<age>\d{2})[A-Z]?\.JPG", re.IGNORECASE)


def fgnet(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield person, age and five landmarks of FG-NET, in the order of the names.

    Missing or damaged points are findings; their landmarks stay empty.

    Args:
        folder: Holds ``images`` and ``points``.
    Raises:
        InputError: No folder ``images``.
    """
    if not (folder / "images").is_dir():
        raise InputError(f"{folder}: no folder 'images' in it")
    points = {path.stem.lower(): path for path in sorted((folder / "points").glob("*.pts"))}
    for image in sorted((folder / "images").iterdir()):
        if image.suffix.lower() != ".jpg":
            continue
        path = f"images/{image.name}"
        name = _NAME.fullmatch(image.name)
        if not name:
            yield Finding("malformed-name", (path,), "not <person>A<age>.JPG; left out")
            continue
        landmarks = ""
        try:
            five = read_points(points[image.stem.lower()])[list(FIVE_OF_68)]
            landmarks = " ".join(f"{value:g}" for value in five.ravel())
        except KeyError:
            yield Finding("missing-points", (path,), "no file of that name in points")
        except InputError as error:
            yield Finding("bad-points", (path,), str(error))
        yield {"path": path, "age": float(name["age"]), "subject": name["subject"], "landmarks": landmarks}


def read_points(path: str | Path) -> NDArray[np.float64]:
    """Read a points file (``version``, ``n_points``, then ``x y`` lines in braces).

    Args:
        path: The ``.pts`` file.
    Returns:
        (68, 2) ``x y`` in pixels of the photograph, y downwards.
    Raises:
        InputError: It cannot be read or does not hold 68 points.
    """
    try:
        text = read_text(path, encoding="ascii")
        numbers = np.array(text.partition("{")[2].partition("}")[0].split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no points: {reason(error)}") from error
    if numbers.shape != (68 * 2,) or not np.isfinite(numbers).all():
        raise InputError(f"{path}: {numbers.size / 2:g} points, not 68")
    return numbers.reshape(68, 2)


FGNET = DataSet(
    fgnet,
    "photograph of FG-NET (<person>A<age>.JPG) in 'images'",
    labels="real",
    terms=Terms("research", "FG-NET: research; the photographs belong to the people in them"),
)
