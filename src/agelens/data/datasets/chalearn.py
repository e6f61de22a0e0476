"""ChaLearn LAP 2015: 4,691 photographs with the age that at least ten people each guessed.

Owner: https://chalearnlap.cvc.uab.cat/dataset/18/description/ (ChaLearn, Computer Vision Center, Barcelona).
Terms: registration with the challenge; research; the photographs belong to their owners.

Layout::

    FOLDER/Train.csv, Validation.csv, Test.csv   image_1.jpg;32;4.5: name, mean, deviation (no header)
    FOLDER/Train, Validation, Test               the photographs

2,476 train, 1,136 validation and 1,079 test (whose labels came last: the papers train on the first and test
on the second). Also read: labels separated by commas, a header (``image,mean,stdv``), labels in a folder
``gt`` and names such as ``train_gt.csv`` or ``Reference.csv`` (validation), as the later release of the
same owner has them; images are found by their name anywhere below FOLDER, those in a folder of the part's
name first.

``age`` is the mean of the guesses, ``age_std`` their deviation. A photograph may show more than one person.

Escalera et al., ChaLearn looking at people 2015: apparent age and cultural event recognition datasets and
results, ICCV Workshops 2015.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import images_below, parse_number, read_table, without_header
from agelens.errors import InputError
from agelens.reading import open_table
from agelens.terms import Terms

__all__ = ["CHALEARN", "chalearn"]

_LABELS = {
    "train": ("train.csv", "train_gt.csv"),
    "val": ("validation.csv", "valid.csv", "reference.csv", "valid_gt.csv", "validation_gt.csv"),
    "test": ("test.csv", "test_gt.csv"),
}


def chalearn(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield ChaLearn LAP 2015, with its owner's split.

    Args:
        folder: Holds the label tables and the folders of photographs.
    Raises:
        InputError: A label table is not of three columns.
    """
    tables = {path.name.lower(): path for path in sorted(folder.glob("**/*.csv"))}
    images: defaultdict[str, list[str]] = defaultdict(list)
    for path in images_below(folder):
        images[Path(path).name].append(path)
    for split, names in _LABELS.items():
        table = next((tables[name] for name in names if name in tables), None)
        if table is None:
            continue
        for name, mean, deviation in _labels(table):
            matches = images.get(name, [])
            inside = [path for path in matches if split in path.rpartition("/")[0].lower()]
            if len(matches) > 1 and len(inside) != 1:
                yield Finding("bad-value", tuple(matches), f"{name} of {table.name}: which one?")
                continue
            yield {
                "path": (inside or matches or [name])[0],
                "age": mean,
                "age_std": deviation,
                "split": split,
                "official_split": split,
            }


def _labels(path: Path) -> list[tuple[str, str, str]]:
    """Name, mean and deviation of each row; a first row without numbers is the header."""
    try:
        with open_table(path) as handle:
            delimiter = ";" if ";" in handle.readline(2**16) else ","
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    records = read_table(path, ("name", "mean", "deviation"), delimiter=delimiter)
    records = list(without_header(records, "name", "mean"))
    rows = [(record["name"], record["mean"], record["deviation"]) for record in records]
    for place, (name, mean, deviation) in enumerate(rows, start=1):
        if not (parse_number(deviation) >= 0):
            raise InputError(
                f"{path}, row {place}: not name, mean, deviation: {name!r}, {mean!r}, {deviation!r}"
            )
    return rows


CHALEARN = DataSet(
    chalearn,
    "Train.csv, Validation.csv or Test.csv with labels in it or below",
    labels="apparent",
    terms=Terms("research", "ChaLearn LAP: research; the photographs belong to their owners"),
)
