"""IMDB-WIKI: 523,051 photographs of film people and of Wikipedia's, aged by their date of birth.

Owner: https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/ (ETH Zürich). Terms: academic research only; the
photographs belong to their owners.

Layout, as the owner's archives unpack (either half alone will do)::

    FOLDER/imdb_crop/imdb.mat   FOLDER/imdb_crop/00/nm0000100_rm46373120_1955-1-6_2003.jpg …   460,723 crops
    FOLDER/wiki_crop/wiki.mat   FOLDER/wiki_crop/00/10000800_1954-11-18_2011.jpg …              62,328 crops
    FOLDER/imdb, FOLDER/wiki   whole photographs

The tables are MATLAB 5 files. The age is the completed years from the date of birth to the middle (1 July) of
the year in which the photograph was taken. Both are as noisy as the web: dates before the photograph, people
of 1,000 years, photographs without a face (score -Inf), several faces of which nobody knows which is meant.

Settings (the defaults are the literature's): ``minimum_face_score`` 1.0, ``allow_second_face`` no,
``minimum_age`` 0, ``maximum_age`` 100. What they leave out is counted as a finding.

Rothe, Timofte, Van Gool, Deep expectation of real and apparent age from a single image without facial
landmarks, IJCV 2018.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.data.columns import MAXIMUM_AGE
from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.errors import InputError
from agelens.terms import Terms

__all__ = ["IMDB_WIKI", "ages_from_dates", "imdb_wiki"]

_FIELDS = ("dob", "photo_taken", "full_path", "gender", "face_location", "face_score", "second_face_score")
_PEOPLE = ("celeb_id", "name")  # one of them at least is there, in the owner's files
_UNIX_EPOCH = 719529  # 1970-01-01 in MATLAB's days, which begin with the year 0
_EARLIEST_BIRTH = 1800


def imdb_wiki(
    folder: Path,
    *,
    minimum_face_score: float = 1.0,
    allow_second_face: bool = False,
    minimum_age: float = 0,
    maximum_age: float = 100,
) -> Iterator[Row | Finding | Root]:
    """Yield IMDB-WIKI, or one half of it, cleaned; IMDB first.

    ``subject`` is ``imdb-<celeb_id>`` or ``wiki-<name>``; whole photographs have the face's ``box``. The
    findings also count the images that the cleaning left out.

    Args:
        folder: Holds ``imdb_crop`` and ``wiki_crop`` (or ``imdb``, ``wiki``), or is one of them.
        minimum_face_score: Of the detector that made the set; lower-scoring images are left out.
        allow_second_face: Keep images in which that detector found a second face.
        minimum_age: Years; younger ones are left out.
        maximum_age: Years; older ones are left out.
    Raises:
        InputError: Neither table is there, or one cannot be read (a .mat file of version 7.3, say).
    """
    tables = list(_tables(folder))
    if not tables:
        raise InputError(f"{folder}: no imdb.mat or wiki.mat in it, in imdb_crop, wiki_crop, imdb or wiki")
    for half, path in tables:
        table = _read_mat(path, half)
        paths = [(path.parent.relative_to(folder) / name).as_posix() for name in _texts(table["full_path"])]
        ages = ages_from_dates(table["dob"], table["photo_taken"])
        for place in np.flatnonzero(~((ages >= 0) & (ages <= MAXIMUM_AGE))):
            detail = (
                f"born on day {table['dob'][place]:g}, taken in {table['photo_taken'][place]:g}; left out"
            )
            yield Finding("impossible-age", (paths[place],), detail)
        keep = (ages >= 0) & (ages <= MAXIMUM_AGE)
        rules = {
            f"face score below {minimum_face_score:g}": ~(table["face_score"] >= minimum_face_score),
            "a second face": np.isfinite(table["second_face_score"]) & (not allow_second_face),
            f"age outside {minimum_age:g} … {maximum_age:g}": (ages < minimum_age) | (ages > maximum_age),
        }
        for rule, hit in rules.items():
            gone = np.flatnonzero(keep & hit)
            keep &= ~hit
            if gone.size:
                detail = f"{half}: {gone.size} images left out by the cleaning: {rule}"
                yield Finding("bad-value", tuple(paths[place] for place in gone), detail)
        whole = not path.parent.name.endswith("_crop")
        subjects = _subjects(table, half)
        for place in np.flatnonzero(keep):
            row: Row = {
                "path": paths[place],
                "age": float(ages[place]),
                "subject": subjects[place],
                "gender": {0.0: "female", 1.0: "male"}.get(float(table["gender"][place]), ""),
            }
            if whole:
                corners = np.ravel(table["face_location"][place])
                if corners.shape == (4,) and (corners[:2] < corners[2:]).all():
                    row["box"] = " ".join(f"{value:g}" for value in corners)
                else:
                    detail = f"face_location {corners.tolist()} is no box; left empty"
                    yield Finding("bad-value", (paths[place],), detail)
            yield row


def ages_from_dates(birth: NDArray[np.float64], year_taken: NDArray[np.float64]) -> NDArray[np.float64]:
    """Completed years from a date of birth to 1 July of the year a photograph was taken.

    Args:
        birth: (N,) MATLAB's serial day numbers (1 = 1 January of the year 0).
        year_taken: (N,) years.
    Returns:
        (N,) years; NaN where the date of birth is no date since 1800 or the year is missing.
    """
    earliest = (np.datetime64(f"{_EARLIEST_BIRTH}-01-01") - np.datetime64("1970-01-01")).astype(np.int64)
    known = np.isfinite(birth) & np.isfinite(year_taken)
    known &= (birth >= earliest + _UNIX_EPOCH) & (birth < 10_000 * 365.0)
    days = np.where(known, birth, _UNIX_EPOCH).astype(np.int64) - _UNIX_EPOCH
    dates = np.datetime64("1970-01-01") + days.astype("timedelta64[D]")
    years = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    january = dates.astype("datetime64[Y]")
    july = (january.astype("datetime64[M]") + np.timedelta64(6, "M")).astype("datetime64[D]")
    ages = np.asarray(year_taken, dtype=np.float64) - years - (dates > july)
    return np.where(known, ages, np.nan)


def _tables(folder: Path) -> Iterator[tuple[str, Path]]:
    for half in ("imdb", "wiki"):
        for place in (f"{half}_crop", half, "."):
            path = folder / place / f"{half}.mat"
            if path.is_file():
                yield half, path
                break


def _read_mat(path: Path, half: str) -> dict[str, NDArray[Any]]:
    """The fields of the table, each (N,)."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        record = loadmat(path, variable_names=[half])[half][0, 0]
        table = {name: np.ravel(record[name]) for name in record.dtype.names}
    except NotImplementedError as error:
        raise InputError(
            f"{path}: a .mat file of version 7.3; the owner's are of version 5 (save it with '-v7')"
        ) from error
    except (
        MatReadError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: not the owner's MATLAB 5 table {half!r}: {error}") from error
    for name in (*_FIELDS, *(name for name in _PEOPLE if name in table)):
        if name not in table:
            raise InputError(f"{path}: no field {name!r} in it (found: {', '.join(table)})")
        if len(table[name]) != len(table["full_path"]):
            count, paths = len(table[name]), len(table["full_path"])
            raise InputError(f"{path}: {count} values of {name!r} for {paths} of 'full_path'")
    for name in ("dob", "photo_taken", "gender", "face_score", "second_face_score", "celeb_id"):
        if name in table and table[name].dtype.kind not in "iufb":
            raise InputError(f"{path}: the field {name!r} holds no numbers")
        if name in table:
            table[name] = table[name].astype(np.float64)
    return table


def _texts(cells: NDArray[Any]) -> list[str]:
    """The texts of a cell array; an empty cell is an empty text."""
    return [str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in cells]


def _subjects(table: dict[str, NDArray[Any]], half: str) -> list[str]:
    if "celeb_id" in table:
        return ["" if np.isnan(number) else f"{half}-{number:g}" for number in table["celeb_id"]]
    names = _texts(table["name"]) if "name" in table else [""] * len(table["full_path"])
    return [f"{half}-{name}" if name else "" for name in names]


IMDB_WIKI = DataSet(
    imdb_wiki,
    "image that the cleaning leaves",
    labels="real",
    terms=Terms("research", "IMDB-WIKI: academic research only; the photographs belong to their owners"),
)
