"""The picture of a gallery: a row a group, under each face its label and its estimate."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from agelens.data.manifest import band_text, image_paths, label_bounds
from agelens.errors import ImageError, InputError, OutputError
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.gallery import GalleryRow
from agelens.faces.image import read_image
from agelens.files import write_atomically
from agelens.reports.page import plot_style, write_figure

__all__ = ["write_gallery"]

_CELL = 1.15  # inches


def write_gallery(
    evaluation: Evaluation, rows: Sequence[GalleryRow], folder: str | Path, *, originals: bool = False
) -> Path:
    """Write ``gallery.png`` (and ``.svg``), ``gallery.csv``, and the faces, a folder a group.

    Args:
        evaluation: Labels and estimates.
        rows: Of :func:`~agelens.evaluation.gallery.choose_faces`.
        folder: Where to.
        originals: Draw above each face the photo it was cut from (column ``source``).
    Returns:
        The PNG file.
    Raises:
        InputError: No row, or originals of a manifest that does not know its photos.
        OutputError: A file cannot be written.
    """
    if not rows:
        raise InputError(f"{evaluation.manifest}: there is no face to show")
    labels = evaluation.labels
    if originals and "source" not in labels:
        raise InputError(
            f"{evaluation.manifest}: no column 'source' says which photos the crops were cut from"
        )
    out = Path(folder)
    paths = image_paths(labels)
    figure = _figure(evaluation, rows, paths, originals)
    write_figure(figure, out, "gallery")
    with write_atomically(out / "gallery.csv") as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("group", "path", "label", "estimate"))
        for row in rows:
            for k in row.selected:
                writer.writerow(
                    (row.group, labels["path"].iat[k], _label(evaluation, k), _estimate(evaluation, k))
                )
    for row in rows:
        target = out / (re.sub(r"[^\w.+-]+", "_", row.group).strip("_") or "unnamed")
        try:
            target.mkdir(parents=True, exist_ok=True)
            for k in row.selected:
                shutil.copyfile(paths[k], target / paths[k].name)
        except OSError as error:
            raise OutputError(target, f"cannot copy a face: {error}") from error
    return out / "gallery.png"


def _figure(
    evaluation: Evaluation, rows: Sequence[GalleryRow], paths: Sequence[Path], originals: bool
) -> Figure:
    columns, lines = max(len(row.selected) for row in rows), 2 if originals else 1
    with plot_style():
        size = (0.5 + _CELL * columns, (_CELL * lines + 0.35) * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines * len(rows), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        for number, row in enumerate(rows):
            grid[lines * number][0].set_ylabel(row.group, fontsize=7)
            for column, k in enumerate(row.selected):
                if originals:
                    _show(grid[lines * number][column], Path(str(evaluation.labels["source"].iat[k])))
                axes = grid[lines * number + lines - 1][column]
                _show(axes, paths[k])
                axes.set_xlabel(f"{_label(evaluation, k)} / {_estimate(evaluation, k)}", fontsize=7)
    return figure


def _show(axes: Any, path: Path) -> None:
    try:
        axes.imshow(read_image(path))
    except ImageError:
        axes.text(0.5, 0.5, "not readable", ha="center", va="center", fontsize=6, transform=axes.transAxes)


def _label(evaluation: Evaluation, k: np.int64) -> str:
    low, high = label_bounds(evaluation.labels.iloc[[int(k)]])[0]
    return band_text(float(low), float(high))


def _estimate(evaluation: Evaluation, k: np.int64) -> str:
    return f"{evaluation.estimates[k]:.1f}"
