"""The page of an explanation, its JSON and its pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agelens import __version__
from agelens.explanation.explain import Explanation, FaceExplanation
from agelens.explanation.maps import normalised_map
from agelens.files import write_atomically
from agelens.reports.blocks import Drawing, Section, Table, Text
from agelens.reports.explanation_grids import draw_distribution, evolution_figure, rows_figure
from agelens.reports.page import drawing, plot_style, write_figure, write_page

__all__ = ["write_explanation"]

FloatArray = NDArray[np.float64]


def write_explanation(
    explanation: Explanation,
    folder: str | Path,
    *,
    beside: Sequence[Explanation] = (),
    rows: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write ``explanation.html``, ``explanation.json`` and a PNG (and SVG) a figure.

    Args:
        explanation: What to draw.
        folder: Where to.
        beside: Other systems' explanations of the same faces: each face gets a figure of all distributions, a
            row a stage and a column a system (LRN, Fig. 3).
        rows: Image to the name of its row: one figure of all faces' maps, a row a name (LRN, Fig. 4).
    Returns:
        The PNG files.
    Raises:
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    sections = []
    pictures: list[Path] = []
    blocks: list[Drawing] = []
    for number, face in enumerate(explanation.faces, start=1):
        figure = _face_figure(explanation, face)
        name = f"face-{number}"
        write_figure(figure, out, name)
        pictures.append(out / f"{name}.png")
        blocks.append(drawing(name, figure, _face_caption(explanation, face)))
    note = [Text(_KINDS[explanation.kind])]
    if explanation.faces:
        height, width = explanation.faces[0].maps[-1].shape
        note.append(Text(f"A map has {height} × {width} cells; what lies between them is interpolated."))
    if len(explanation.faces) < explanation.count:
        note.append(Text(f"The first {len(explanation.faces)} of {explanation.count} faces are shown."))
    sections.append(Section("Faces", (*note, *blocks)))
    if beside:
        columns = [explanation, *beside]
        drawn = [
            (f"distributions-{number}", evolution_figure(columns, number - 1))
            for number in range(1, len(explanation.faces) + 1)
        ]
        caption = "Distributions of {}: a row a stage, a column a system; the red line is the estimate."
        shown = [
            drawing(name, figure, caption.format(face.face.path), out)
            for (name, figure), face in zip(drawn, explanation.faces, strict=True)
        ]
        pictures += [out / f"{name}.png" for name, _ in drawn]
        sections.append(Section("Distributions side by side", tuple(shown)))
    if rows:
        figure = rows_figure(explanation, rows)
        caption = "A row a folder; each block has the same faces, first as they are, then stage by stage."
        sections.append(Section("Rows", (drawing("rows", figure, caption, out),)))
        pictures.append(out / "rows.png")
    if explanation.means:
        figure = _means_figure(explanation)
        write_figure(figure, out, "mean-maps")
        pictures.append(out / "mean-maps.png")
        caption = (
            "Mean maps by estimated age over the mean face of the group; each face's map counts from 0 to 1."
        )
        counts = tuple((group.group, str(group.count)) for group in explanation.means)
        sections.append(
            Section(
                "Age groups",
                (drawing("mean-maps", figure, caption), Table("Faces", ("group", "faces"), counts)),
            )
        )
    if explanation.failed:
        table = Table("Not used", ("image", "reason"), explanation.failed, names=2)
        sections.append(Section("Images that could not be used", (table,)))
    stamp = {
        "system": explanation.system,
        "maps": explanation.kind,
        "stages": ", ".join(explanation.stages),
        "faces": str(explanation.count),
        "software": f"agelens {__version__}",
    }
    with write_atomically(out / "explanation.json") as temporary:
        table_ = _as_json(explanation)
        temporary.write_text(json.dumps(table_, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_page(out / "explanation.html", f"Why {explanation.system} says an age", stamp, sections)
    return pictures


_KINDS = {
    "cam": "Class activation maps: the last feature map weighted by the head's weights of the explained age, "
    "stretched to the crop. Red is most evidence for that age, blue least; every map has its own scale.",
    "gradcam": "Grad-CAM (captum): the last feature map weighted by the gradient of the estimate in years. "
    "Red raises it most, blue least or lowers it; every map has its own scale.",
    "integrated-gradients": "Integrated gradients (captum) of the estimate in years, from the mean colour of "
    "training on: how much a pixel moved it, up or down; every map has its own scale.",
    "occlusion": "Occlusion: how many years the estimate moves, up or down, when a patch takes the crop's "
    "mean colour; every map has its own scale.",
}


def _face_figure(explanation: Explanation, face: FaceExplanation) -> Figure:
    stages, bins, size = explanation.stages, explanation.bins, len(face.face.pixels)
    with plot_style():
        figure = Figure(figsize=(2.1 * (1 + len(stages)), 3.6), layout="constrained")
        top, bottom = figure.subplots(2, 1 + len(stages), height_ratios=[3, 2], squeeze=False)
        for axes in top:
            axes.set_axis_off()
        top[0].imshow(face.face.pixels)
        top[0].set_title("face", fontsize=8)
        bottom[0].set_axis_off()
        peak = max((float(shown.max()) for shown in face.distributions if shown is not None), default=1.0)
        for column, stage in enumerate(stages, start=1):
            at = column - 1
            top[column].imshow(face.face.pixels)
            top[column].imshow(normalised_map(face.maps[at], size), cmap="turbo", alpha=0.5, vmin=0, vmax=1)
            of = "" if math.isnan(face.explained[at]) else f"\nmap of age {face.explained[at]:.0f}"
            top[column].set_title(f"{stage}: {face.ages[at]:.1f} years{of}", fontsize=8)
            draw_distribution(bottom[column], bins, face.distributions[at], face.ages[at], peak)
            if column > 1:
                bottom[column].tick_params(labelleft=False)
    return figure


def _means_figure(explanation: Explanation) -> Figure:
    means, stages = explanation.means, explanation.stages
    with plot_style():
        figure = Figure(figsize=(2.1 * (1 + len(stages)), 2.3 * len(means)), layout="constrained")
        grid = figure.subplots(len(means), 1 + len(stages), squeeze=False)
        for axes, group in zip(grid, means, strict=True):
            mean_face = np.clip(group.crop, 0, 255).astype(np.uint8)
            for column, panel in enumerate(axes):
                panel.set_axis_off()
                panel.imshow(mean_face)
                if column:
                    values = normalised_map(group.maps[column - 1], len(mean_face))
                    panel.imshow(values, cmap="turbo", alpha=0.5, vmin=0, vmax=1)
                    panel.set_title(stages[column - 1], fontsize=8)
            axes[0].set_title(f"{group.group}\n{group.count} faces", fontsize=8)
    return figure


def _face_caption(explanation: Explanation, face: FaceExplanation) -> str:
    said = ", ".join(f"{stage} {age:.1f}" for stage, age in zip(explanation.stages, face.ages, strict=True))
    return f"{face.face.path}, face {face.face.number}. Estimates in years (red line): {said}."


def _as_json(explanation: Explanation) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return {
        "system": explanation.system,
        "maps": explanation.kind,
        "age_bins": str(explanation.bins),
        "faces": [
            {
                "path": face.face.path,
                "face": face.face.number,
                "stages": [
                    {
                        "stage": stage,
                        "age": number(age),
                        "explained": number(explained),
                        "distribution": None if given is None else [float(f"{p:.6g}") for p in given],
                        "map": [[float(f"{v:.6g}") for v in line] for line in values],
                    }
                    for stage, age, explained, given, values in zip(
                        explanation.stages,
                        face.ages,
                        face.explained,
                        face.distributions,
                        face.maps,
                        strict=True,
                    )
                ],
            }
            for face in explanation.faces
        ],
        "groups": {group.group: group.count for group in explanation.means},
        "failed": [{"path": path, "reason": reason} for path, reason in explanation.failed],
    }
