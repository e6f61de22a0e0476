"""Sections of a report whose labels are age bands: what was hit, by how much it was missed, by group."""

from __future__ import annotations

from pathlib import Path

from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.measures import INTERVAL_LEVELS
from agelens.evaluation.results import SMALL_GROUP
from agelens.reports import plots
from agelens.reports.blocks import Block, Headlines, Section, Table, Text
from agelens.reports.formats import grouping_title, headline, metric_table, metric_text
from agelens.reports.page import drawing

__all__ = ["band_calibration", "band_overview", "bands_by_group"]

_OVERVIEW = ("band accuracy", "band accuracy(estimate)", "band distance", "band bias", "NLL")
_BY_GROUP = ("band accuracy", "band distance", "band bias", "coverage(90%)", "width(90%)")


def band_overview(evaluation: Evaluation) -> tuple[Block, ...]:
    """Give the figures of all images, and what they mean."""
    overall = evaluation.results[0]
    entries = [(name, *headline(name, overall)) for name in _OVERVIEW if name in overall.metrics]
    return (
        Headlines(tuple(entries)),
        Text(
            "The labels are age bands. Band accuracy: per cent of images whose most probable band is theirs "
            "(estimate: whose estimated completed year is in it). Band distance: years from the estimate to "
            "the band, 0 inside; the error of the hidden age is at least that. Band bias: the same with its "
            f"sign, above 0 too old. In brackets: {evaluation.level:.0%} bootstrap intervals."
        ),
    )


def bands_by_group(evaluation: Evaluation, out: Path) -> Section:
    """Draw and list the figures of every grouping; plots are written below ``out``."""
    names = dict.fromkeys(
        result.grouping for result in evaluation.results[1:] if result.grouping != "eye_distance"
    )
    single = [name for name in names if ":" not in name]
    shown = [result for result in evaluation.results if result.grouping in ("all", *single)]
    blocks: list[Block] = [
        drawing(
            "band-distance-by-group",
            plots.group_errors(shown, "band distance"),
            "Distance to the band by group with bootstrap intervals; hollow: fewer than "
            f"{SMALL_GROUP} people; the line: all.",
            out / plots.FOLDER,
        )
    ]
    for name in names:
        results = [result for result in evaluation.results if result.grouping == name]
        title = grouping_title(name)
        blocks.append(metric_table(f"By {title}", results, _BY_GROUP, first=title))
    blocks.append(Text(f"A star marks a group of fewer than {SMALL_GROUP} people: it has no rates."))
    return Section("By group", tuple(blocks))


def band_calibration(evaluation: Evaluation, out: Path) -> Section:
    """Show what can be said of intervals whose ages are hidden in bands; plots are written below ``out``."""
    if evaluation.distribution is None:
        nothing = "The system gives no distributions: nothing can be said of their calibration."
        return Section("Calibration", (Text(nothing),))
    overall = evaluation.results[0]
    columns = ("coverage({})", "coverage({}, certain)", "coverage({}, possible)", "width({})")
    rows = tuple(
        (f"{level:.0%}", *(metric_text(column.format(f"{level:.0%}"), overall) for column in columns))
        for level in INTERVAL_LEVELS
    )
    blocks: list[Block] = [
        Table(
            "Coverage and sharpness of the intervals",
            ("level", "coverage, censored", "at least", "at most", "mean width (years)"),
            rows,
        ),
        Text(
            "Censored: the hidden age lies in its band as the distribution says. At least: the whole band is "
            f"in the interval; at most: they touch. Intervals: {evaluation.intervals}."
        ),
    ]
    if not overall.small:
        blocks.append(
            drawing(
                "pit",
                plots.pit_shares(evaluation.pit_histogram),
                "PIT histogram, censored: where the hidden age lies in its distribution. Flat is calibrated.",
                out / plots.FOLDER,
            )
        )
    return Section("Calibration", tuple(blocks))
