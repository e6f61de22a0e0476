"""Sections of a report: error by age, error by group, calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agelens import metrics
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.groups import group_members, people
from agelens.evaluation.measures import INTERVAL_LEVELS
from agelens.evaluation.results import SMALL_GROUP
from agelens.reports import plots
from agelens.reports.blocks import Block, Headlines, Section, Table, Text
from agelens.reports.formats import grouping_title, headline, metric_table, metric_text
from agelens.reports.page import drawing

__all__ = ["calibration", "error_by_age", "errors_by_group"]

_BY_GROUP = ("MAE", "bias", "CA(3)", "CA(5)", "CA(7)", "coverage(90%)", "width(90%)")


_CROSSED = ("MAE", "bias", "CA(5)", "coverage(90%)")


def error_by_age(evaluation: Evaluation, out: Path) -> Section:
    """Draw error against true age; plots are written below ``out``.

    Errors in steps of five years need the grouping ``five_years``.
    """
    steps = [result for result in evaluation.results if result.grouping == "five_years"]
    errors = metrics.absolute_errors(evaluation.estimates, evaluation.ages)
    curves = {} if evaluation.results[0].small else {"all": errors}
    persons = people(evaluation.labels)
    for name, members in (group_members("gender", evaluation.labels) or {}).items():
        if len(np.unique(persons[members])) >= SMALL_GROUP:
            curves[name] = errors[members]
    by_age: list[Block] = []
    if steps:
        by_age = [
            drawing(
                "error-by-age",
                plots.error_by_age(steps, evaluation.ages),
                "MAE and bias by true age in steps of five years, with bootstrap intervals, and the number "
                f"of images of each year. Hollow: fewer than {SMALL_GROUP} people; they may lie outside.",
                out / plots.FOLDER,
            ),
            metric_table(
                "Error by true age",
                [result for result in steps if result.count],
                ("MAE", "bias"),
                first="age",
            ),
        ]
    return Section(
        "Error and age",
        (
            *by_age,
            drawing(
                "cumulative-errors",
                plots.cumulative_errors(curves),
                "Cumulative error curve: per cent of images with an error below n years.",
                out / plots.FOLDER,
            )
            if curves
            else Text(f"No cumulative error curve: fewer than {SMALL_GROUP} people."),
            drawing(
                "predicted-against-true",
                plots.predicted_against_true(evaluation.estimates, evaluation.ages),
                "Number of images at each true and estimated age; on the line the estimate is right.",
                out / plots.FOLDER,
            ),
        ),
    )


def errors_by_group(evaluation: Evaluation, out: Path) -> Section:
    """Draw and list the errors of every grouping; plots are written below ``out``."""
    own = ("five_years", "eye_distance")
    names = dict.fromkeys(result.grouping for result in evaluation.results[1:] if result.grouping not in own)
    single = [name for name in names if ":" not in name]
    shown = [result for result in evaluation.results if result.grouping in ("all", *single)]
    blocks: list[Block] = [
        drawing(
            "error-by-group",
            plots.group_errors(shown),
            f"MAE by group with bootstrap intervals; hollow: fewer than {SMALL_GROUP} people; the line: all.",
            out / plots.FOLDER,
        )
    ]
    for name in names:
        results = [result for result in evaluation.results if result.grouping == name]
        wanted = _BY_GROUP if name in single else _CROSSED
        blocks.append(metric_table(f"By {grouping_title(name)}", results, wanted, first=grouping_title(name)))
    blocks.append(
        Text(
            f"A star marks a group of fewer than {SMALL_GROUP} people: its errors mean little, and its rates "
            "are not given (too few). Coverage: share of true ages inside the 90 % interval."
        )
    )
    return Section("By group", tuple(blocks))


def calibration(evaluation: Evaluation, out: Path) -> Section:
    """Show the calibration of distributions and intervals; plots are written below ``out``."""
    overall, small = evaluation.overall, evaluation.results[0].small
    if evaluation.predictions.distribution is None:
        blocks: tuple[Block, ...] = (
            Text("The system gives no distributions: nothing can be said of their calibration."),
        )
        if "coverage(stated)" in overall:
            covered = metric_text("coverage(stated)", evaluation.results[0])
            blocks += (
                Text(
                    f"The intervals that it states cover {covered} of the true ages and are "
                    f"{metric_text('width(stated)', evaluation.results[0])} years wide."
                ),
            )
        return Section("Calibration", blocks)
    threshold = evaluation.threshold
    sharp = tuple(
        (
            f"{level:.0%}",
            metric_text(f"coverage({level:.0%})", evaluation.results[0]),
            metric_text(f"width({level:.0%})", evaluation.results[0]),
        )
        for level in INTERVAL_LEVELS
    )
    scores = ["CRPS", "NLL", f"Brier({threshold:g}+)", f"accuracy({threshold:g}+)"]
    entries = tuple((name, *headline(name, evaluation.results[0])) for name in scores)
    drawings: list[Block] = []
    if not small:
        covered_by = [overall[f"coverage({level:.0%})"] for level in INTERVAL_LEVELS]
        drawings = [
            drawing(
                "pit",
                plots.pit_shares(evaluation.pit_histogram),
                "PIT histogram: where the true age lies in its distribution. Flat is calibrated; a hill is "
                "too wide, a valley too narrow, a slope biased.",
                out / plots.FOLDER,
            ),
            drawing(
                "coverage",
                plots.central_coverage(
                    INTERVAL_LEVELS,
                    [value.value for value in covered_by],
                    [(value.low, value.high) for value in covered_by],
                ),
                "Coverage of the central intervals against what they say.",
                out / plots.FOLDER,
            ),
            drawing(
                "reliability",
                plots.reliability(evaluation.reliability, SMALL_GROUP, threshold),
                f"Reliability of P(age ≥ {threshold:g}): how often it is so, by the probability given; bins "
                f"of at least {SMALL_GROUP} people.",
                out / plots.FOLDER,
            ),
        ]
    return Section(
        "Calibration",
        (
            Headlines(entries),
            Text(
                "CRPS in years and NLL in nats judge the whole distribution, Brier score and accuracy "
                f"P(age ≥ {threshold:g}); smaller is better but for accuracy. Intervals: "
                f"{evaluation.intervals}."
            ),
            Table(
                "Coverage and sharpness of the intervals",
                ("level", "coverage (share of true ages inside)", "mean width (years)"),
                sharp,
            ),
            *drawings,
        ),
    )
