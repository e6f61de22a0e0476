"""APPA-REAL: 7,591 photographs with the real age and the age that about 38 people each guessed.

Owner: https://chalearnlap.cvc.uab.cat/dataset/26/description/ (Computer Vision Center, Barcelona). Terms:
research; the photographs belong to their owners.

Layout, as the archive unpacks (FOLDER may be ``appa-real-release`` or the folder around it)::

    FOLDER/gt_avg_train.csv, gt_avg_valid.csv, gt_avg_test.csv   file_name,num_ratings,apparent_age_avg,
                                                                 apparent_age_std,real_age
    FOLDER/train, valid, test   000000.jpg, a photograph; 000000.jpg_face.jpg, its face with 40 % margin

4,113 train, 1,500 valid and 1,978 test. The labels belong to the face of ``…_face.jpg``, which is what is
read. The deviation of the guesses is 0 for a few images; ε-error then follows the field's convention
(metrics).

Setting ``label``: ``real`` (default) or ``apparent``: which of the two is ``age``. With ``apparent`` the
deviation of the guesses is ``age_std``. Both stay in ``real_age``, ``apparent_age`` and
``apparent_age_std``.

Agustsson et al., Apparent and real age estimation in still images with deep residual regressors on the
APPA-REAL database, FG 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import read_table, require_columns
from agelens.errors import InputError
from agelens.terms import Terms

__all__ = ["APPA_REAL", "appa_real"]

_PARTS = {"train": "train", "valid": "val", "test": "test"}
_COLUMNS = ("file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age")


def appa_real(folder: Path, *, label: str = "real") -> Iterator[Row | Finding | Root]:
    """Yield APPA-REAL, with its owner's split; ``num_ratings`` is kept.

    Args:
        folder: Holds the three tables and folders.
        label: ``real`` or ``apparent``: the meaning of ``age``.
    Raises:
        InputError: A table lacks a column, or an unknown label.
    """
    if label not in ("real", "apparent"):
        raise InputError(f"label must be 'real' or 'apparent' (value: {label!r})")
    if not any(folder.glob("gt_avg_*.csv")):
        folder = folder / "appa-real-release" if (folder / "appa-real-release").is_dir() else folder
    yield Root(folder)
    for part, split in _PARTS.items():
        path = folder / f"gt_avg_{part}.csv"
        if not path.is_file():
            continue
        records = read_table(path)
        require_columns(path, records, _COLUMNS)
        for record in records:
            row: Row = {
                "path": f"{part}/{record['file_name']}_face.jpg",
                "age": record["real_age"] if label == "real" else record["apparent_age_avg"],
                "split": split,
                "official_split": split,
                "labels": label,
                "real_age": record["real_age"],
                "apparent_age": record["apparent_age_avg"],
                "apparent_age_std": record["apparent_age_std"],
                "num_ratings": record["num_ratings"],
            }
            if label == "apparent":
                row["age_std"] = record["apparent_age_std"]
            yield row


APPA_REAL = DataSet(
    appa_real,
    "row in gt_avg_train.csv, gt_avg_valid.csv or gt_avg_test.csv",
    terms=Terms("research", "APPA-REAL: research; the photographs belong to their owners"),
)
