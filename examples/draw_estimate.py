#!/usr/bin/env python3
"""Draw a photo with the box of its largest face, beside the distribution of the estimated age.

    python examples/draw_estimate.py examples/astronaut.jpg docs/images/astronaut.png

made the picture in the README. It needs the extra report (Matplotlib).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import agelens

LEVEL = 0.9
THRESHOLD = 18
BOX, BAR, INSIDE = "#ffb000", "#9db4c0", "#00798c"


def draw(photo: Path, out: Path) -> agelens.Face:
    """Estimate the largest face of a photo and draw it.

    Args:
        photo: An image with at least one face.
        out: The PNG file to write, 1,200 pixels wide, with a palette of 256 colours.
    Returns:
        The face that was drawn.
    """
    face = agelens.estimate(photo)[0]
    assert face.box is not None
    low, high = face.interval(LEVEL)
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))

    with Image.open(photo) as image:
        left.imshow(np.asarray(image.convert("RGB")))
    x1, y1, x2, y2 = face.box
    left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=BOX, linewidth=3))
    label = f"{face.age:.0f} years ({low:.0f} to {high:.0f})"
    left.text(x1, y1 - 8, label, color="black", backgroundcolor=BOX, fontsize=12)
    left.set_axis_off()

    ages, shares = face.age_bins.ages, 100 * face.distribution
    inside = (ages >= np.floor(low)) & (ages <= np.ceil(high))
    right.bar(ages, shares, width=0.9, color=np.where(inside, INSIDE, BAR))
    right.axvline(face.age, color=BOX, linewidth=3)
    right.annotate(
        f"estimate: {face.age:.1f} years\n{LEVEL:.0%} interval: {low:.0f} to {high:.0f}\n"
        f"P(age ≥ {THRESHOLD}) = {face.probability_at_least(THRESHOLD):.0%}",
        xy=(0.97, 0.95),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=14,
    )
    right.set_xlim(0, 80)
    right.set_xlabel("age in years", fontsize=12)
    right.set_ylabel("probability per year, %", fontsize=12)
    right.spines[["top", "right"]].set_visible(False)

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)
    return face


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
