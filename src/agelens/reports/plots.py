"""The figures of a report, each a function of arrays that gives a :class:`matplotlib.figure.Figure`.

Draw them within :func:`agelens.reports.page.plot_style`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from agelens.evaluation.decisions import Curve
from agelens.evaluation.results import GroupResult, ReliabilityBin

__all__ = [
    "FOLDER",
    "assurance_curves",
    "central_coverage",
    "cumulative_errors",
    "error_by_age",
    "group_errors",
    "pit_shares",
    "predicted_against_true",
    "reliability",
]

FloatArray = NDArray[np.float64]

FOLDER = "plots"
"""The folder of a report that holds its plots."""

_INK, _BLUE, _ORANGE, _GREY = "#1a1d21", "#0b5c8a", "#b45309", "#9aa3ad"
_STYLES = ("-", "--", "-.", ":")
_SMALL_WIDTH, _WIDE = 4.6, 8.4


def error_by_age(results: Sequence[GroupResult], ages: ArrayLike) -> Figure:
    """Draw MAE and bias in steps of five years, and under them how many images there are of each year.

    Args:
        results: Of the grouping ``five_years``.
        ages: (N,) true ages, years.
    """
    filled = [result for result in results if result.count]
    centres = [float(result.group.split("-")[0]) + 2.5 for result in filled]
    figure = Figure(figsize=(_WIDE, 4.4), layout="constrained")
    errors, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, colour in (("MAE", _BLUE), ("bias", _ORANGE)):
        values = [result.metrics[name] for result in filled]
        errors.plot(centres, [value.value for value in values], color=colour, label=name)
        low, high = [value.low for value in values], [value.high for value in values]
        errors.fill_between(centres, low, high, color=colour, alpha=0.18, lw=0)
        for centre, result, value in zip(centres, filled, values, strict=True):
            errors.plot([centre], [value.value], "o", ms=5, mec=colour, mfc="w" if result.small else colour)
    errors.axhline(0, color=_INK, lw=0.8)
    telling = [result for result in filled if not result.small] or filled
    values = [result.metrics[name] for result in telling for name in ("MAE", "bias")]
    errors.set_ylim(
        1.3 * min(0.0, *(value.low for value in values)) - 1, 1.3 * max(v.high for v in values) + 1
    )
    errors.set_ylabel("years")
    errors.legend()
    years = np.floor(np.asarray(ages, dtype=np.float64))
    counts.hist(years, bins=np.arange(0, years.max() + 2), color=_GREY)
    counts.set_ylabel("images")
    counts.set_xlabel("true age (years)")
    return figure


def cumulative_errors(errors: Mapping[str, ArrayLike]) -> Figure:
    """Draw the share of images whose absolute error is less than n, for each group.

    Args:
        errors: Name of the group to (N,) absolute errors, years; the first is drawn boldest.
    """
    figure = Figure(figsize=(_WIDE, 3.6), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(0, 20.25, 0.25)
    for place, (name, values) in enumerate(errors.items()):
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        share = 100 * np.searchsorted(ordered, steps, side="left") / len(ordered)
        style = _STYLES[place // 8 % len(_STYLES)]
        axes.plot(steps, share, style, lw=1.2 if place else 2.4, color=None if place else _INK, label=name)
    axes.set(xlabel="n (years)", ylabel="CA(n) (%)", xlim=(0, 20), ylim=(0, 100))
    axes.legend(loc="lower right", ncols=2)
    return figure


def predicted_against_true(estimates: ArrayLike, ages: ArrayLike) -> Figure:
    """Draw how many images there are at each true and estimated age.

    Args:
        estimates: (N,) years.
        ages: (N,) years.
    """
    said, true = np.asarray(estimates, dtype=np.float64), np.asarray(ages, dtype=np.float64)
    last = math.ceil(max(true.max(), min(said.max(), 130.0), 10.0) / 10) * 10
    shares, *_ = np.histogram2d(true, np.clip(said, 0, last), bins=last, range=((0, last + 1), (0, last)))
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    seen = np.ma.masked_equal(shares.T, 0)
    picture = axes.imshow(
        seen,
        origin="lower",
        extent=(0, last, 0, last),
        cmap="viridis_r",
        norm=LogNorm(1, max(2.0, float(shares.max()))),
        interpolation="nearest",
    )
    axes.plot([0, last], [0, last], color=_INK, lw=0.8)
    axes.set(xlabel="true age (years)", ylabel="estimated age (years)")
    figure.colorbar(picture, ax=axes, label="images", format="%g", fraction=0.046, pad=0.03)
    return figure


def group_errors(results: Sequence[GroupResult], metric: str = "MAE") -> Figure:
    """Draw an error of each group, in years, with its interval; small groups are hollow.

    Args:
        results: The first is that of all images; groups without images are left out.
        metric: Name of the error.
    """
    filled = [result for result in results if result.count]
    figure = Figure(figsize=(_WIDE, 0.7 + 0.22 * len(filled)), layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(reversed(filled)):
        value = result.metrics[metric]
        axes.plot([value.low, value.high], [place, place], color=_BLUE, lw=1.5)
        axes.plot([value.value], [place], "o", ms=5, mec=_BLUE, mfc="w" if result.small else _BLUE)
    axes.axvline(filled[0].metrics[metric].value, color=_INK, lw=0.8)
    names = [
        result.group if result.grouping == "all" else f"{result.grouping.replace('_', ' ')}: {result.group}"
        for result in filled
    ]
    axes.set_yticks(range(len(filled)), names[::-1])
    axes.set_ylim(-0.7, len(filled) - 0.3)
    axes.set_xlabel(f"{metric} (years)")
    axes.set_xlim(left=0)
    return figure


def pit_shares(shares: Sequence[float]) -> Figure:
    """Draw the PIT histogram: ten bars of one height if the distributions are calibrated.

    Args:
        shares: Ten shares that sum to 1.
    """
    figure = Figure(figsize=(_SMALL_WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(10) / 10 + 0.05, shares, width=0.094, color=_BLUE)
    axes.axhline(0.1, color=_INK, lw=0.8)
    axes.set(xlabel="F(true age)", ylabel="share of images", xlim=(0, 1))
    return figure


def central_coverage(levels: Sequence[float], covered: Sequence[float], bounds: ArrayLike) -> Figure:
    """Draw the coverage of the central intervals against their nominal level.

    Args:
        levels: L nominal levels, 0 … 1.
        covered: L coverages, 0 … 1.
        bounds: (L, 2) their intervals.
    """
    low, high = np.asarray(bounds, dtype=np.float64).T
    figure = Figure(figsize=(_SMALL_WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_INK, lw=0.8)
    axes.vlines(levels, low, high, color=_BLUE, lw=1.5)
    axes.plot(levels, covered, "o-", color=_BLUE, ms=5)
    axes.set(xlabel="nominal level", ylabel="share of true ages inside", xlim=(0.4, 1), ylim=(0.4, 1.01))
    return figure


def reliability(bins: Sequence[ReliabilityBin], least: int, threshold: float) -> Figure:
    """Draw how often people reach a threshold against the probability they were given.

    Args:
        bins: From the evaluation; those of fewer than ``least`` people are left out.
        least: People.
        threshold: Years.
    """
    shown = [row for row in bins if row.people >= least]
    figure = Figure(figsize=(_SMALL_WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_INK, lw=0.8)
    axes.plot([row.predicted for row in shown], [row.observed for row in shown], "o-", color=_BLUE, ms=5)
    axes.set(
        xlabel=f"P(age ≥ {threshold:g}) as estimated",
        ylabel=f"share that is {threshold:g} or older",
        xlim=(0, 1),
        ylim=(0, 1.01),
    )
    return figure


def assurance_curves(curves: Sequence[Curve], threshold: float) -> Figure:
    """Draw under-age passed against adults refused, and both by the cut, one colour a group.

    Args:
        curves: Of one rule; groups without a rate are left out.
        threshold: Years.
    """
    figure = Figure(figsize=(_WIDE, 3.8), layout="constrained")
    trade, by_cut = figure.subplots(1, 2)
    for place, curve in enumerate(curves):
        passed, refused = 100 * np.array(curve.under_age_passed), 100 * np.array(curve.adults_refused)
        just = 100 * np.array(curve.just_under_passed)
        colour = _INK if not place else f"C{(place - 1) % 10}"
        width = 1.2 if place else 2.4
        if np.isfinite(passed).all() and np.isfinite(refused).all():
            style = _STYLES[(place - 1) // 10 % len(_STYLES)] if place else "-"
            trade.plot(refused, passed, style, color=colour, lw=width, label=curve.group)
        if not place:
            last = f"{math.ceil(threshold) - 1}-year-olds passed"
            for values, colour, style, label in (
                (refused, _BLUE, "-", "adults refused"),
                (passed, _ORANGE, "-", "under age passed"),
                (just, _ORANGE, "--", last),
            ):
                if np.isfinite(values).all():
                    by_cut.plot(curve.cuts, values, style, color=colour, label=label)
    trade.set(xlabel="adults refused (%)", ylabel="under age passed (%)")
    trade.set_xlim(left=0)
    trade.set_ylim(bottom=0)
    challenge = bool(curves) and curves[0].rule == "estimate"
    by_cut.set(xlabel="challenge age (years)" if challenge else "certainty", ylabel="%, all images")
    by_cut.set_ylim(0, 100)
    for axes in (trade, by_cut):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure
