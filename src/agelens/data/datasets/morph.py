"""MORPH Album 2: 55,134 police photographs of 13,618 people aged 16 to 77, several of each over the years.

Owner: https://uncw.edu/myuncw/research/innovation-commercialization/technology-portfolio/morph (University
of North Carolina Wilmington). Terms: a licence from the university (the academic one: non-commercial
research); no redistribution.

Layout (the 2008 non-commercial release)::

    FOLDER/morph_2008_nonCommercial.csv   id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,
                                          glasses,photo
    FOLDER/Album2/009055_1M54.JPG         <person>_<picture number><M or F><age>.JPG

A photograph that is not where the column ``photo`` says is looked for by its name below FOLDER. Without the
CSV file, names alone give person, gender and age, and no ethnicity. Where both are there and
their ages differ, the age is not known and the row is not used. The set's records contradict themselves now
and then (a person with two dates of birth, two genders or two races; dates that are none): such people are
findings, their labels stay as the record says.

Ricanek, Tesafaye, MORPH: a longitudinal image database of normal adult age-progression, FG 2006; Yip et al.,
Preliminary studies on a large face database, 2018 (the inconsistencies).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import images_below, read_table, require_columns
from agelens.terms import Terms

__all__ = ["ETHNICITIES", "MORPH", "morph"]

ETHNICITIES = {"W": "White", "B": "Black", "A": "Asian", "H": "Hispanic", "O": "Other"}
_GENDERS = {"M": "male", "F": "female"}
_NAME = re.compile(
    r"(?P<subject>\d+)_(?P<picture>\d+)(?P<gender>[MF])(?P<age>\d{1,3})\.(jpe?g|png)", re.IGNORECASE
)
_COLUMNS = ("photo", "age", "gender", "race", "dob", "doa")
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%m/%d/%Y", "%m/%d/%y")


def morph(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield person, age, gender and ethnicity of MORPH Album 2.

    The order is that of the table, or of the names without one.

    Args:
        folder: Holds the CSV file and ``Album2``.
    Raises:
        InputError: A table without a column.
    """
    tables = [path for path in sorted(folder.glob("*.csv")) if "morph" in path.name.lower()]
    if not tables:
        yield from _from_names(folder)
        return
    records = read_table(tables[0])
    require_columns(tables[0], records, _COLUMNS)
    items = list(_from_table(records))
    rows = [item for item in items if not isinstance(item, Finding)]
    _find_photographs(rows, folder)
    yield from items


def _from_names(folder: Path) -> Iterator[Row | Finding]:
    for path in images_below(folder):
        name = _NAME.fullmatch(Path(path).name)
        if not name:
            yield Finding("malformed-name", (path,), "not <person>_<number><M|F><age>.JPG; left out")
            continue
        yield {
            "path": path,
            "age": float(name["age"]),
            "subject": name["subject"].zfill(6),
            "gender": _GENDERS[name["gender"].upper()],
        }


def _from_table(records: list[Mapping[str, str]]) -> Iterator[Row | Finding]:
    people: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    photos: defaultdict[str, list[str]] = defaultdict(list)
    for place, record in enumerate(records, start=1):
        path = record["photo"].replace("\\", "/")
        name = _NAME.fullmatch(Path(path).name)
        subject = name["subject"] if name else record.get("id_num", "")
        if not subject:
            yield Finding("malformed-name", (path,), f"row {place}: no person; left out")
            continue
        row: Row = {
            "path": path,
            "age": record["age"],
            "subject": subject.zfill(6),
            "gender": _GENDERS.get(record["gender"].upper(), ""),
            "ethnicity": ETHNICITIES.get(record["race"].upper(), ""),
        }
        for column, code in (("gender", record["gender"]), ("ethnicity", record["race"])):
            if not row[column]:
                detail = f"row {place}: no {column} for the code {code!r}; left empty"
                yield Finding("bad-value", (path,), detail)
        if name and record["age"].isdecimal() and int(name["age"]) != int(record["age"]):
            ages = f"{record['age']} (table) / {int(name['age'])} (name)"
            yield Finding("conflicting-ages", (path,), f"row {place}: ages {ages}")
            row |= {"split": "", "note": f"conflicting ages {ages}"}
        if problem := _dates_problem(record):
            yield Finding("bad-value", (path,), f"row {place}: {problem}; the stated age is used")
        photos[row["subject"]].append(path)
        for fact in ("dob", "gender", "race"):
            people[row["subject"]][fact].add(record[fact])
        yield row
    for subject, facts in people.items():
        for fact, values in facts.items():
            if len(values) > 1:
                detail = f"person {subject} has several values of {fact}: {', '.join(sorted(values))}"
                yield Finding("bad-value", tuple(photos[subject]), detail)


def _find_photographs(rows: list[Row], folder: Path) -> None:
    """Look below the folder for the photographs that are not where the table says, by their names."""
    if all((folder / row["path"]).is_file() for row in rows):
        return
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in images_below(folder):
        places[Path(path).name.lower()].append(path)
    for row in rows:
        matches = places[Path(row["path"]).name.lower()]
        if len(matches) == 1 and not (folder / row["path"]).is_file():
            row["path"] = matches[0]


def _dates_problem(record: Mapping[str, str]) -> str:
    """Fault of the dates of birth and of arrest, against each other and the age; empty for none."""
    born, taken = _date(record["dob"]), _date(record["doa"])
    for name, value, day in (("dob", record["dob"], born), ("doa", record["doa"], taken)):
        if day is None:
            return f"{name} {value!r} is no date"
    assert born is not None
    assert taken is not None
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    if years < 0:
        return f"taken ({record['doa']}) before the birth ({record['dob']})"
    if record["age"].isdecimal() and abs(years - int(record["age"])) > 1:
        return f"the dates make {years} years, the age is {record['age']}"
    return ""


def _date(text: str) -> date | None:
    for form in _DATES:
        try:
            day = datetime.strptime(text, form).date()
        except ValueError:
            continue
        # %y puts 00 … 68 into this century; nobody in the set was born after 1995
        return day.replace(year=day.year - 100) if day.year > 2030 else day
    return None


MORPH = DataSet(
    morph,
    "morph*.csv and no photograph named <person>_<number><M|F><age>.JPG",
    labels="real",
    terms=Terms("research", "MORPH: the university's licence, non-commercial research; no redistribution"),
)
