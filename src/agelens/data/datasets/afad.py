"""AFAD: 164,432 faces of Asian people aged 15 to 40 (a few to 72), cut from a social network's photographs.

Owner: https://github.com/afad-dataset/tarball (Xidian University); AFAD-Lite (59,344 faces, 15 to 39) from
https://github.com/afad-dataset/tarball-lite. Terms: academic research only.

Layout (FOLDER may be ``AFAD-Full``, ``AFAD-Lite`` or the folder around it)::

    FOLDER/AFAD-Full.txt                ./15/111/637660-0.jpg …: the owner's list, checked if it is there
    FOLDER/15/111/637660-0.jpg …        <age>/<111 male or 112 female>/<name>.jpg

The folders hold Thumbs.db files as well. Faces are cut tightly and are not all square.

Niu, Zhou, Wang, Gao, Hua, Ordinal regression with multiple output CNN for age estimation, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agelens.data.dataset import DataSet, Finding, Root, Row
from agelens.data.owner_files import images_below, read_lines
from agelens.terms import Terms

__all__ = ["AFAD", "afad"]

_GENDERS = {"111": "male", "112": "female"}
_NAMES = ("AFAD-Full", "AFAD-Lite")


def afad(folder: Path) -> Iterator[Row | Finding | Root]:
    """Yield age, gender and ethnicity of AFAD, in the order of the names.

    A name of the owner's list without a file is a finding.

    Args:
        folder: Holds the folders named by age.
    """
    root = next((folder / name for name in _NAMES if (folder / name).is_dir()), folder)
    yield Root(root)
    there = set()
    for path in images_below(root):
        age, gender = (*path.split("/"), "", "")[:2]
        if path.count("/") != 2 or not age.isdecimal() or gender not in _GENDERS:
            yield Finding("malformed-name", (path,), "not in <age>/<111 or 112>; left out")
            continue
        there.add(path)
        yield {"path": path, "age": age, "gender": _GENDERS[gender], "ethnicity": "Asian"}
    for table in (root / f"{name}.txt" for name in _NAMES):
        if table.is_file():
            listed = [line.removeprefix("./") for line in read_lines(table) if line]
            for path in listed:
                if path not in there:
                    yield Finding("missing-file", (path,), f"in {table.name}, but not there")


AFAD = DataSet(
    afad,
    "AFAD image (<age>/<111 or 112>/<name>.jpg)",
    chips=True,
    labels="real",
    terms=Terms("research", "AFAD: academic research only"),
)
