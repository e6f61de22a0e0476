"""Numbers of images of every age: by age, and from the most frequent age to the rarest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from agelens.errors import InputError

__all__ = ["age_histogram"]

_BLUE, _ORANGE, _INK = "#0b5c8a", "#b45309", "#1a1d21"


def age_histogram(years: Mapping[int, int], title: str = "") -> Figure:
    """Draw the numbers of images by age, and sorted from head to tail (LAE, Fig. 1).

    Draw it within :func:`agelens.reports.page.plot_style`.

    Args:
        years: Completed year of age to number of images.
        title: Of the whole figure.
    Returns:
        The figure: ages from youngest to oldest at the left; from the most to the least frequent at the
        right, where a line marks the ages that hold the first half of all images.
    Raises:
        InputError: No image of known age.
    """
    if not sum(years.values()):
        raise InputError("there is no image of known age to draw")
    span = range(min(years), max(years) + 1)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    by_age, by_rank = figure.subplots(1, 2)
    by_age.bar(list(span), [years.get(year, 0) for year in span], width=1.0, color=_BLUE)
    by_age.set(xlabel="age (years)", ylabel="images")
    ranked = sorted((count for count in years.values() if count), reverse=True)
    by_rank.bar(range(1, len(ranked) + 1), ranked, width=1.0, color=_ORANGE)
    half = int(np.searchsorted(np.cumsum(ranked), sum(ranked) / 2)) + 1
    by_rank.axvline(half + 0.5, color=_INK, lw=0.8)
    by_rank.annotate(
        f"half of the images: {half} of {len(ranked)} ages",
        (half + 0.5, ranked[0]),
        (4, -4),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )
    by_rank.set(xlabel="ages, from head to tail", ylabel="images")
    if title:
        figure.suptitle(title, fontsize=9)
    return figure
