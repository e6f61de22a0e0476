"""The section of a report on age assurance, one a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from agelens.evaluation.assurance import Assurance
from agelens.evaluation.cells import CellError
from agelens.evaluation.decisions import Curve, Decisions
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.results import SMALL_GROUP, TOO_FEW
from agelens.reports import plots
from agelens.reports.blocks import Block, Section, Table, Text
from agelens.reports.formats import (
    group_title,
    metric_table,
    people_text,
    rate_text,
    share_text,
    value_text,
)
from agelens.reports.page import drawing

__all__ = ["assurance_section"]


def assurance_section(page: Assurance, evaluation: Evaluation, out: Path) -> Section:
    """Lay out the age assurance of one threshold; plots are written below ``out``."""
    last = math.ceil(page.threshold) - 1
    t, c = f"{page.threshold:g}", f"{page.challenge:g}"
    blocks: list[Block] = [
        Text(
            f"Threshold T = {t}, challenge age T' = {c}. Under age and adult go by the true age. An image "
            "without an estimate passes nobody and counts in every rate. Rates are given for at least "
            f"{SMALL_GROUP} people (* marks fewer), with exact 95 % bounds that count people."
        )
    ]
    if page.missing:
        blocks.append(Text(f"{page.missing} images without any prediction are in no rate.", warning=True))
    blocks.append(
        Table(
            f"Challenge-{c}: {last}-year-olds estimated {c} or older (false positive rate)",
            ("group", "people", "false positive rate"),
            tuple(
                (group_title(row), people_text(row.rate), rate_text(row.rate)) for row in page.challenge_rates
            ),
        )
    )
    blocks.append(_points_table(page, last))
    for rule in dict.fromkeys(row.rule for row in page.decisions):
        blocks.append(_decisions_table(page, [row for row in page.decisions if row.rule == rule], last))
    if all(row.rule == "estimate" for row in page.decisions):
        blocks.append(Text(f"No rule on P(age ≥ {t}): the system gives no distributions."))
    for rule in dict.fromkeys(curve.rule for curve in page.curves):
        curves = [curve for curve in page.curves if curve.rule == rule]
        what = "challenge age" if rule == "estimate" else f"certainty asked of P(age ≥ {t})"
        blocks.append(
            drawing(
                f"assurance-{t.replace('.', '-')}-{rule}",
                plots.assurance_curves(curves, page.threshold),
                f"Under-age passed against adults refused as the {what} moves, by group (left), and both by "
                f"the {what} (right). Groups of fewer than {SMALL_GROUP} people on a side are left out.",
                out / plots.FOLDER,
            )
        )
        blocks.append(_curve_table(curves, f"Operating points, all images: {what}", rule == "estimate", last))
    blocks += [_cell_means_table(page), _cells_table(page, evaluation), *_child_tables(page)]
    blocks.append(
        Table(
            "Failure to estimate (no face, unreadable)",
            ("group", "images", "people", "share without an estimate"),
            tuple(
                (group_title(row), f"{row.rate.images:,}", people_text(row.rate), rate_text(row.rate))
                for row in page.failures
            ),
        )
    )
    eyes = [result for result in evaluation.results if result.grouping == "eye_distance"]
    if eyes:
        blocks.append(
            metric_table(
                "Error by distance between the eyes",
                eyes,
                ("MAE", "bias", "CA(5)"),
                first="distance (pixels of the image the landmarks were found on)",
            )
        )
    else:
        blocks.append(Text("No error by distance between the eyes: the manifest has no landmarks."))
    return Section(f"Age assurance at {t}", tuple(blocks))


def _points_table(page: Assurance, last: int) -> Table:
    rows: list[tuple[str, ...]] = []
    for group in page.challenge_rates:
        if group.rate.too_few:
            rows.append((group_title(group), "any", "any", TOO_FEW, "", "", ""))
            continue
        for point in page.points:
            if (point.grouping, point.group) != (group.grouping, group.group):
                continue
            by_age = point.rule == "estimate"
            rows.append(
                (
                    group_title(point),
                    f"{point.wished:.1%}",
                    "challenge age" if by_age else "certainty",
                    _cut(point.cut, by_age) or "none reaches it",
                    rate_text(point.false_positives),
                    rate_text(point.adults_refused),
                    _cut(point.assured, by_age) or "none: too few people",
                )
            )
    return Table(
        f"What reaches a wished-for false positive rate among {last}-year-olds",
        ("group", "wished", "rule", "reached at", f"{last}-year-olds passed", "adults refused", "assured at"),
        tuple(rows),
        names=3,
        note=(
            "Reached at: the smallest challenge age (by the estimate), or certainty (by P(age ≥ "
            f"{page.threshold:g})), that reaches the rate on these images. Assured at: where even the upper "
            "bound of the rate reaches it."
        ),
    )


def _cut(value: float, is_age: bool) -> str:
    return "" if math.isnan(value) else f"{value:.1f}" if is_age else f"{value:.3f}"


def _decisions_table(page: Assurance, rows: Sequence[Decisions], last: int) -> Table:
    t, c = f"{page.threshold:g}", f"{page.challenge:g}"
    sides = {"under age": "under age", "just under": f"{last}-year-olds", "adult": "adult"}
    if rows[0].rule == "estimate":
        caption = f"Decisions on the estimate: passed from {c}, refused below {t}, between them undecided"
    else:
        caption = (
            f"Decisions on P(age ≥ {t}): passed from {page.certainty:.1%}, refused to "
            f"{1 - page.certainty:.1%}, between them undecided"
        )
    return Table(
        caption,
        ("group", "true age", "people", "passed", "refused", "cannot decide", "no estimate"),
        tuple(
            (
                group_title(row),
                sides[row.side],
                people_text(row.passed),
                *(rate_text(rate) for rate in (row.passed, row.refused, row.undecided, row.failed)),
            )
            for row in rows
        ),
        names=2,
    )


def _curve_table(curves: Sequence[Curve], caption: str, ages: bool, last: int) -> Table:
    curve = curves[0]
    rows = []
    for cut, passed, just, refused in zip(
        curve.cuts, curve.under_age_passed, curve.just_under_passed, curve.adults_refused, strict=True
    ):
        if (ages and (cut - curve.cuts[0]) % 1) or (not ages and round(cut * 1000) % 50 and cut < 0.95):
            continue  # the curve has them all; a table need not
        rows.append((f"{cut:g}", *(share_text(value) for value in (passed, just, refused))))
    return Table(
        caption,
        ("from", "under age passed", f"{last}-year-olds passed", "adults refused"),
        tuple(rows),
    )


def _cell_means_table(page: Assurance) -> Table:
    return Table(
        "MAE as a mean over cells",
        ("ages", "a cell is", "mean of the cells' MAE (years)", "images", "cells", "empty", "small"),
        tuple(
            (
                row.ages,
                "sex × year" if row.by_sex else "year (no sex known)",
                "" if row.mae is None else value_text(row.mae),
                f"{row.images:,}",
                str(row.cells),
                str(row.empty),
                str(row.small),
            )
            for row in page.cell_means
        ),
        names=2,
        note=f"Empty cells are left out of the mean; small: fewer than {SMALL_GROUP} people, yet in it.",
    )


def _cells_table(page: Assurance, evaluation: Evaluation) -> Table:
    sexes = list(dict.fromkeys(cell.sex for cell in page.cells if cell.images)) or ["all"]
    cells: dict[tuple[int, str], CellError] = {(cell.age, cell.sex): cell for cell in page.cells}
    ages = sorted({cell.age for cell in page.cells})
    header = ["age"]
    for sex in sexes:
        header += [f"images ({sex})", f"MAE ({sex})"]
    rows = []
    for age in ages:
        row = [str(age)]
        for sex in sexes:
            cell = cells[age, sex]
            star = "*" if cell.people < SMALL_GROUP else ""
            row += [f"{cell.images:,}{star}", "" if cell.mae is None else value_text(cell.mae)]
        bias = cells[age, "all"].bias
        rows.append((*row, "" if bias is None else value_text(bias)))
    return Table(
        "Error by single year of age",
        (*header, "bias (all)"),
        tuple(rows),
        note=f"* fewer than {SMALL_GROUP} people. [{evaluation.level:.0%} bootstrap interval], years.",
    )


def _child_tables(page: Assurance) -> Iterator[Table]:
    yield Table(
        "Child safety: 13- to 16-year-olds",
        (
            "group",
            "people",
            "MAE",
            "rated 13-16",
            "rated under 8",
            "rated 8-12",
            "rated 17-22",
            "rated over 22",
        ),
        tuple(
            (
                group_title(row),
                people_text(row.in_range),
                "" if row.mae is None else value_text(row.mae),
                rate_text(row.in_range),
                rate_text(row.rated_under_8),
                rate_text(row.rated_8_12),
                rate_text(row.rated_17_22),
                rate_text(row.rated_over_22),
            )
            for row in page.child_safety
        ),
    )
    yield Table(
        "Child safety: others rated 13 to 16",
        ("group", "people 8-12", "8-12 rated 13-16", "people 17-22", "17-22 rated 13-16"),
        tuple(
            (
                group_title(row),
                people_text(row.younger_in_range),
                rate_text(row.younger_in_range),
                people_text(row.older_in_range),
                rate_text(row.older_in_range),
            )
            for row in page.child_safety
        ),
    )
