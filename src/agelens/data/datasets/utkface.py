"""UTKFace: 200 × 200 face chips, labelled in their file names.

Owner: https://susanqq.github.io/UTKFace/ (University of Tennessee), "Aligned & Cropped Faces". Terms:
non-commercial research only; the photographs belong to their owners.

Layout: all chips in FOLDER, named ``<age>_<gender>_<race>_<time>.jpg.chip.jpg``: gender 0 male, 1 female;
race 0 White, 1 Black, 2 Asian, 3 Indian, 4 Other; time as ``yyyymmddHHMMSSFFF``. As it comes, a few names are
malformed and several hundred files are copies, half of those with other ages: see ``agelens audit``.

Zhang, Song, Qi, Age progression/regression by conditional adversarial autoencoder, CVPR 2017.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agelens.data.columns import GENDERS
from agelens.data.dataset import ContentSplit, DataSet, Finding, Root, Row
from agelens.errors import InputError
from agelens.terms import Terms

__all__ = ["ETHNICITIES", "SPLIT", "SPLIT_DIGEST", "UTKFACE", "parse_name", "utkface"]

ETHNICITIES = ("White", "Black", "Asian", "Indian", "Other")
SPLIT = "utkface-v1"
SPLIT_DIGEST = "e7cb63552b7ba1e6379cec11b575df48508553cc17a601207ebe8d0c683ed239"
"""``split_digest`` of utkface-v1 over the 21,351 of the set's chips that its figures here are made with.

train 15,978, val 1,986, test 2,016. Not used: 1,012 with conflicting ages (477 photographs, whose ages differ
by 5 years in the median), 221 near copies and 138 byte-identical copies of the same age. Three of the 616
near-identical pairs lie within 0.002 of the threshold, all with equal ages: another JPEG decoder could change
the digest there, by a copy more or less.
"""

_NAME = re.compile(r"\d+_\d_\d_\d+\.jpg\.chip\.jpg")
_LABELS = re.compile(r"(?P<age>\d+)_(?P<fields>(?:\d?_)*)")


def parse_name(name: str) -> tuple[dict[str, Any], str]:
    """Read the labels of a file name as far as they are beyond doubt.

    A name with one single-digit field only (three in the set) does not say whether it is the gender or the
    race, so both stay empty; the age comes first in every name.

    Args:
        name: The file name without its folder.
    Returns:
        The labels (``age``, ``gender``, ``ethnicity``; empty without an age) and what is wrong with the
        name, empty if nothing is.
    """
    start = _LABELS.match(name)
    if not start:
        return {}, "no age at the start of the name"
    labels: dict[str, Any] = {"age": float(start["age"]), "gender": "", "ethnicity": ""}
    fields = start["fields"].split("_")[:-1]
    if len(fields) != 2:
        return labels, f"{len(fields)} of the two fields gender and race; left empty"
    labels["gender"] = dict(zip("01", GENDERS, strict=True)).get(fields[0], "")
    labels["ethnicity"] = dict(zip("01234", ETHNICITIES, strict=True)).get(fields[1], "")
    unknown = [column for column in ("gender", "ethnicity") if not labels[column]]
    if unknown:
        return labels, f"no code for {' and '.join(unknown)}; left empty"
    if not _NAME.fullmatch(name):
        return labels, "the end is not <time>.jpg.chip.jpg; age, gender and race are clear"
    return labels, ""


def utkface(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield the chips of UTKFace, in the order of the names.

    Args:
        folder: Holds the chips (no sub-folders).
    Raises:
        InputError: It is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for name in sorted(os.listdir(folder)):
        if not name.lower().endswith(".jpg"):
            continue
        labels, problem = parse_name(name)
        if problem:
            yield Finding("malformed-name", (name,), problem)
        if labels:
            yield {"path": name, **labels}


UTKFACE = DataSet(
    utkface,
    "UTKFace chip (<age>_<gender>_<race>_<time>.jpg.chip.jpg)",
    chips=True,
    split=ContentSplit(SPLIT),
    labels="estimated",
    terms=Terms("research", "UTKFace: non-commercial research only; the photographs belong to their owners"),
)
