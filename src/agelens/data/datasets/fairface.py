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
from collections.abc import Iterator
from pathlib import Path

from agelens.data.columns import GENDERS
from agelens.data.dataset import ContentSplit, DataSet, Finding, Root, Row
from agelens.data.owner_files import read_table, require_columns
from agelens.terms import Terms

__all__ = ["ETHNICITIES", "FAIRFACE", "SPLIT", "fairface", "parse_band"]

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


def fairface(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield age bands, gender and ethnicity of FairFace, in the order of the tables.

    ``official_split`` and ``service_test`` are the owner's.

    Args:
        folder: Holds the two tables and the images.
    Raises:
        InputError: A table lacks a column.
    """
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
                yield Finding(
                    "impossible-age", (name,), f"age {record['age']!r} is no band of the set; left out"
                )
                continue
            if meant:
                dates[record["age"], meant].append(name)
            known = {"gender": "", "ethnicity": ""}
            for column, of_owner, value, allowed in (
                ("gender", "gender", record["gender"].lower(), GENDERS),
                ("ethnicity", "race", record["race"], ETHNICITIES),
            ):
                if value in allowed:
                    known[column] = value
                else:
                    detail = f"{of_owner} {value!r} is none of the set's; left empty"
                    yield Finding("bad-value", (name,), detail)
            yield {
                "path": name,
                "age_low": band[0],
                "age_high": band[1],
                **known,
                "split": "test" if part == "val" else "",
                "official_split": part,
                "service_test": record.get("service_test", ""),
            }
    for (date, meant), names in dates.items():
        detail = (
            f"{len(names)} ages read {date!r}, a spreadsheet's date for the band {meant}; read as {meant}"
        )
        yield Finding("bad-value", tuple(names), detail)


FAIRFACE = DataSet(
    fairface,
    "fairface_label_train.csv or fairface_label_val.csv with a known age band",
    chips=True,
    split=ContentSplit(SPLIT, (0.9, 0.1, 0.0)),
    labels="estimated",
    terms=Terms("attribution", "FairFace: CC BY 4.0, attribution to Kärkkäinen and Joo, WACV 2021"),
)
