"""Grids of several faces or systems: distributions side by side, and maps in rows (LRN, Figs. 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agelens.errors import InputError
from agelens.explanation.explain import Explanation, FaceExplanation
from agelens.explanation.maps import normalised_map
from agelens.label_distribution import AgeBins
from agelens.reports.page import plot_style

__all__ = ["ROW_FACES", "draw_distribution", "evolution_figure", "rows_figure"]

FloatArray = NDArray[np.float64]

ROW_FACES = 3
"""Most faces of a row of maps."""


def evolution_figure(explanations: Sequence[Explanation], number: int) -> Figure:
    """Draw the distributions of one face: a row a stage, a column a system.

    Args:
        explanations: Of the same faces, one a system; systems may have different stages and ages.
        number: Which face, from 0.
    Returns:
        The figure; the face stands in the first column.
    Raises:
        InputError: The explanations are not of the same faces.
    """
    faces = [explanation.faces[number] for explanation in explanations if number < len(explanation.faces)]
    if len({(face.face.path, face.face.number) for face in faces}) != 1 or len(faces) < len(explanations):
        raise InputError("the systems side by side did not use the same faces")
    lines = max(len(explanation.stages) for explanation in explanations)
    with plot_style():
        figure = Figure(figsize=(1.6 + 1.9 * len(faces), 0.3 + 1.4 * lines), layout="constrained")
        grid = figure.subplots(lines, 1 + len(faces), squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        grid[0][0].imshow(faces[0].face.pixels)
        for column, (explanation, face) in enumerate(zip(explanations, faces, strict=True), start=1):
            peak = max((float(shown.max()) for shown in face.distributions if shown is not None), default=1.0)
            for line, given in enumerate(face.distributions):
                axes = grid[line][column]
                axes.set_axis_on()
                draw_distribution(axes, explanation.bins, given, face.ages[line], peak)
                stage = f"t = {line + 1}, " if len(face.distributions) > 1 else ""
                above = f"{explanation.system}\n" if line == 0 else ""
                top = "" if given is None else f", peak at {explanation.bins.ages[int(given.argmax())]:.0f}"
                axes.set_title(f"{above}{stage}{face.ages[line]:.1f}{top}", fontsize=7)
                if line + 1 < len(face.distributions):
                    axes.set_xlabel("")
    return figure


def rows_figure(explanation: Explanation, rows: Mapping[str, str]) -> Figure:
    """Draw the maps of several faces in rows, in a block the same faces stage by stage.

    Args:
        explanation: Of all faces.
        rows: Image to the name of its row; rows stand in the order of the faces.
    Returns:
        The figure, up to :data:`ROW_FACES` faces a row.
    Raises:
        InputError: No face belongs to a row.
    """
    members: dict[str, list[FaceExplanation]] = {}
    for face in explanation.faces:
        if face.face.path in rows:
            members.setdefault(rows[face.face.path], []).append(face)
    if not members:
        raise InputError("none of the faces with a figure of their own belongs to a row")
    each = min(ROW_FACES, max(map(len, members.values())))
    blocks = ("face", *explanation.stages)
    with plot_style():
        size = (0.4 + 0.9 * each * len(blocks), 0.4 + 0.95 * len(members))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(members), each * len(blocks), squeeze=False)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        for at, name in enumerate(blocks):
            grid[0][at * each].set_title(name, fontsize=7, loc="left")
        for line, (row, faces) in zip(grid, members.items(), strict=True):
            line[0].set_ylabel(row, fontsize=7)
            for place, face in enumerate(faces[:each]):
                for at in range(len(blocks)):
                    axes = line[at * each + place]
                    axes.imshow(face.face.pixels)
                    if at:
                        values = normalised_map(face.maps[at - 1], len(face.face.pixels))
                        axes.imshow(values, cmap="turbo", alpha=0.5, vmin=0, vmax=1)
    return figure


def draw_distribution(
    axes: Any, bins: AgeBins, distribution: FloatArray | None, age: float, peak: float
) -> None:
    """Draw a distribution (K,) and its estimate in years; nothing where there is none."""
    if distribution is None:
        axes.set_axis_off()
        return
    axes.fill_between(bins.ages, distribution, step="mid", alpha=0.6)
    axes.axvline(age, color="tab:red", linewidth=1)
    axes.set_xlim(bins.minimum, bins.maximum)
    axes.set_ylim(0, 1.05 * peak)
    axes.set_xlabel("age [years]", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_title(f"peak at {bins.ages[int(distribution.argmax())]:.0f}", fontsize=7)
