"""FairFace: face chips labelled with nine age bands, gender and seven ethnicities, balanced over the latter.

Owner: https://github.com/joojs/fairface (Kärkkäinen and Joo, University of California, Los Angeles); the
images come from YFCC100M. Terms: CC BY 4.0: any use, with attribution (cite the paper).

Layout (the chips with a padding of 0.25 are meant)::

    FOLDER/fairface_label_train.csv, fairface_label_val.csv   file,age,gender,race,service_test
    FOLDER/train/1.jpg …  FOLDER/val/1.jpg …                  224 x 224; also FOLDER/fair_face/train, val

97,698 chips in the owner's set: 86,744 train and 10,954 val; parts of it are read as well. The ages are
bands: 0-2, 3-9, 10-19, … 60-69 and "more than 70" (70 and above). Copies of the tables that went through a
spreadsheet hold dates for two of them, ``03-Sep`` for 3-9 and ``Oct-19`` for 10-19: they are read as the
bands that they were, and counted as a finding.

The owner's ``val`` is the test part here (``split``; ``official_split`` keeps the owner's word): nothing is
chosen on it. A tenth of ``train`` is carved out for validation, by content (split ``fairface-v1``); copies
of a photograph count once, and a training image that is also in the test part is not used (``note``).

Kärkkäinen, Joo, FairFace: face attribute dataset for balanced race, gender, and age for bias measurement and
mitigation, WACV 2021.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from agelens.data.datasets.rows import Row, make_manifest, read_table, require_columns
from agelens.data.duplicates import Progress, fingerprint_images, group_keys, near_identical_pairs
from agelens.data.manifest import GENDERS, Finding, check_manifest
from agelens.data.splits import split_images
from agelens.errors import InputError

__all__ = ["ETHNICITIES", "SPLIT", "fairface", "parse_band"]

ETHNICITIES = (
    "White",
    "Black",
    "Latino_Hispanic",
    "East Asian",
    "Southeast Asian",
    "Indian",
    "Middle Eastern",
)
SPLIT = "fairface-v1"
_FRACTIONS = (0.9, 0.1, 0.0)
_BANDS: dict[str, tuple[int, int | str]] = {
    "0-2": (0, 2),
    "3-9": (3, 9),
    **{f"{low}-{low + 9}": (low, low + 9) for low in range(10, 70, 10)},
    "more than 70": (70, ""),
}
_DATES = {"03-Sep": "3-9", "3-Sep": "3-9", "Oct-19": "10-19", "19-Oct": "10-19"}
_COLUMNS = ("file", "age", "gender", "race")


def parse_band(text: str) -> tuple[tuple[int, int | str] | None, str]:
    """Read an age band as the owner or a spreadsheet writes it.

    Args:
        text: ``20-29``, ``more than 70``, ``03-Sep``.
    Returns:
        Lower and upper end (``""`` for an open one), None for text that is no band of the set; and the band
        that a date stands for, empty for a band that was written as one.
    """
    meant = _DATES.get(text, "")
    return _BANDS.get(meant or text), meant


def fairface(
    folder: str | Path, *, content: bool = True, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Make the manifest of FairFace: age bands, gender, ethnicity, and the split ``fairface-v1``.

    Args:
        folder: Holds the two tables and the images.
        content: Whether to read the images, for ``digest``, ``split`` and ``note``. False reads the tables
            only; ``split`` then has the test part alone.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` while reading.
    Returns:
        The manifest in the order of the tables; ``official_split`` and ``service_test`` are the owner's.
    Raises:
        InputError: None of the tables is there, or one lacks a column.
    """
    folder = Path(folder)
    rows: list[Row] = []
    problems: list[Finding] = []
    dates: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    images = "fair_face/" if (folder / "fair_face").is_dir() else ""
    for part in ("train", "val"):
        path = folder / f"fairface_label_{part}.csv"
        if not path.is_file():
            continue
        records = read_table(path)
        require_columns(path, records, _COLUMNS)
        for record in records:
            name = images + record["file"]
            band, meant = parse_band(record["age"])
            if band is None:
                detail = f"age {record['age']!r} is no band of the set; left out"
                problems.append(Finding("impossible-age", (name,), detail))
                continue
            if meant:
                dates[record["age"], meant].append(name)
            rows.append(
                {
                    "path": name,
                    "age_low": band[0],
                    "age_high": band[1],
                    "gender": _known(record["gender"].lower(), GENDERS, name, "gender", problems),
                    "ethnicity": _known(record["race"], ETHNICITIES, name, "race", problems),
                    "split": "test" if part == "val" else "",
                    "official_split": part,
                    "service_test": record.get("service_test", ""),
                }
            )
    for (date, meant), names in dates.items():
        detail = (
            f"{len(names)} ages read {date!r}, a spreadsheet's date for the band {meant}; read as {meant}"
        )
        problems.append(Finding("bad-value", tuple(names), detail))
    if not rows:
        raise InputError(
            f"{folder}: no fairface_label_train.csv or fairface_label_val.csv with a known age band"
        )
    table = make_manifest(rows, folder, problems, content=False, workers=workers, progress=progress)
    if not content:
        return table
    attrs = table.attrs
    found = fingerprint_images([folder / name for name in table["path"]], workers=workers, progress=progress)
    table["digest"] = found.digests
    notes = table["note"].tolist() if "note" in table else [""] * len(table)
    for k, (name, error) in enumerate(zip(table["path"], found.errors, strict=True)):
        if error:
            problems.append(Finding("unreadable", (name,), str(error)))
            notes[k] = f"unreadable: {error}"
    table["note"] = pd.Series(notes, dtype=object)
    groups = group_keys(found.digests, near_identical_pairs(found).indices)
    test = np.asarray(table["official_split"] == "val")
    table = check_manifest(split_images(table, groups, _FRACTIONS, SPLIT, test), folder)
    table.attrs = attrs
    return table


def _known(value: str, allowed: tuple[str, ...], name: str, column: str, problems: list[Finding]) -> str:
    """A label of the set, or nothing and a finding."""
    if value in allowed:
        return value
    problems.append(Finding("bad-value", (name,), f"{column} {value!r} is none of the set's; left empty"))
    return ""
