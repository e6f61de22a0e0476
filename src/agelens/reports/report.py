"""The report of an evaluation: one HTML page, its JSON, the predictions and the plots, in one folder.

::

    DIR/
      report.html          everything, in one file that needs no network
      report.json          the same figures, and the stamp
      predictions.csv      what the system said (distributions.npz beside it)
      plots/*.svg, *.png
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from agelens import __version__, metrics
from agelens.data.columns import MAXIMUM_AGE
from agelens.data.manifest import image_paths
from agelens.data.predictions import write_predictions
from agelens.data.protocols import load_protocol
from agelens.data.splits import split_digest
from agelens.errors import ImageError, InputError
from agelens.evaluation.assurance import Assurance, CellError, Curve, Decisions, Rate
from agelens.evaluation.evaluate import INTERVAL_LEVELS, SMALL_GROUP, TOO_FEW, Evaluation, GroupResult
from agelens.evaluation.groups import crossings, group_members, people
from agelens.faces.image import read_image
from agelens.files import write_atomically
from agelens.metrics import BootstrapInterval
from agelens.reports import plots
from agelens.reports.page import (
    Block,
    Figures,
    Gallery,
    Section,
    Table,
    Text,
    drawing,
    plot_style,
    write_page,
)

__all__ = ["LABELS", "Stamp", "label_meaning", "make_stamp", "report_groupings", "write_report"]

LABELS = {
    "real": "real age: from a date of birth or a record",
    "apparent": "apparent age: how old voters say people look",
    "estimated": "estimated age: a label made by an algorithm or a few annotators, not a record",
}
"""What the labels of a data set mean."""

WORST = 24
_MISTAKEN, _BESIDE = 8, 5  # faces of the case study, others beside each
_SAME_AGE = 2  # years between those others' true age and the estimate, at most
"""How many worst cases are listed."""

_PLOTS = "plots"
_NAMED = 5  # paths that a warning names
_THUMBNAIL = 160  # pixels, the longer side
_OVERVIEW = ("MAE", "RMSE", "bias", "CA(3)", "CA(5)", "CA(7)", "AAR", "ε-error")
_BY_GROUP = ("MAE", "bias", "CA(3)", "CA(5)", "CA(7)", "coverage(90%)", "width(90%)")
_CROSSED = ("MAE", "bias", "CA(5)", "coverage(90%)")


@dataclass(frozen=True)
class Stamp:
    """What every report says of itself: what was measured, on what, with what.

    Attributes:
        entries: Name to value, in order.
    """

    entries: Mapping[str, str]


class _OfGroup(Protocol):
    @property
    def grouping(self) -> str: ...

    @property
    def group(self) -> str: ...


def report_groupings(by: Sequence[str]) -> tuple[str, ...]:
    """Give the groupings a report needs: those asked for, their crossings, steps of age, eye distance."""
    return tuple(dict.fromkeys([*by, *crossings(by), "five_years", "eye_distance"]))


def label_meaning(labels: str | None) -> str:
    """Say for a stamp what labels mean.

    Args:
        labels: One of `LABELS`; None: not known.
    Raises:
        InputError: It is none of `LABELS`.
    """
    if labels is None:
        return "not stated (--labels real, apparent or estimated)"
    if labels not in LABELS:
        raise InputError(f"labels are {', '.join(LABELS)} (value: {labels!r})")
    return LABELS[labels]


def make_stamp(
    evaluation: Evaluation,
    manifest: pd.DataFrame,
    *,
    labels: str | None = None,
    protocol: str | None = None,
    protocol_digest: str = "",
    images: str = "",
) -> Stamp:
    """Write down protocol and split, label semantics, model digest and software.

    Args:
        evaluation: What was measured.
        manifest: The manifest it was measured on, whole.
        labels: One of `LABELS`; by default what the protocol's data set has, if there is a protocol that
            says so.
        protocol: Name of the protocol; by default the split is told.
        protocol_digest: Digest of its folds; by default that of the manifest's own split.
        images: What the images were: ``aligned``, ``chips`` or ``photos``.
    Returns:
        The stamp.
    Raises:
        InputError: ``labels`` is none of `LABELS`, or there is no such protocol.
    """
    meaning = load_protocol(protocol).labels if labels is None and protocol is not None else labels
    split = "all rows" if evaluation.split is None else f"split {evaluation.split} of the manifest"
    digest = protocol_digest
    model = evaluation.digest or "not known"
    if Path(evaluation.predictions.source).is_file():
        model = f"not known; sha256 of the predictions: {model}"
    if not digest:
        columns = {"digest", "split"} <= set(manifest.columns) and (manifest["digest"] != "").all()
        digest = split_digest(manifest) if columns else "none: the manifest lacks split or digest"
    people = "" if evaluation.people == evaluation.images else f" of {evaluation.people:,} people"
    drawn = "images" if not people else "people"
    entries = {
        "System": evaluation.system,
        "Model digest": model,
        "Data": "/".join(Path(evaluation.manifest).parts[-2:]) or "not named",
        "Protocol": protocol or split,
        "Split digest": digest,
        "Labels": label_meaning(meaning),
        "Images": f"{evaluation.images:,}{people}" + (f", {images}" if images else ""),
        "Intervals": (
            f"{evaluation.level:.0%} bootstrap intervals, {evaluation.replicates:,} draws of {drawn}, "
            f"seed {evaluation.seed}"
        ),
        "Software": (
            f"agelens {__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
            f"onnxruntime {onnxruntime.__version__}"
        ),
    }
    return Stamp(entries)


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    assurances: Sequence[Assurance],
    stamp: Stamp,
    *,
    thumbnails: bool = False,
) -> Path:
    """Write the report of an evaluation.

    Args:
        folder: Where it goes; made if it is missing.
        evaluation: With the groupings of :func:`report_groupings`.
        assurances: One a threshold.
        stamp: From :func:`make_stamp`.
        thumbnails: Show the worst cases' images. Off by default: faces are personal.
    Returns:
        The HTML file.
    Raises:
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    with plot_style():
        sections = [
            _overview(evaluation),
            _by_age(evaluation, out),
            _groups(evaluation, out),
            _calibration(evaluation, out),
            *(_assurance(assurance, evaluation, out) for assurance in assurances),
            _failures(evaluation),
            _worst(evaluation, thumbnails),
            *([_mistaken_for(evaluation)] if thumbnails else []),
        ]
    write_predictions(evaluation.predictions, out / "predictions.csv")
    table = {
        "stamp": dict(stamp.entries),
        **evaluation.to_dict(),
        "assurance": [assurance.to_dict() for assurance in assurances],
    }
    with write_atomically(out / "report.json") as temporary:
        temporary.write_text(
            json.dumps(table, indent=1, allow_nan=False) + "\n", encoding="utf-8", errors="replace"
        )
    write_page(out / "report.html", f"Age estimation: {evaluation.system}", stamp.entries, sections)
    return out / "report.html"


def _overview(evaluation: Evaluation) -> Section:
    overall = evaluation.overall
    blocks: list[Block] = list(_warnings(evaluation))
    shown = [name for name in _OVERVIEW if name in overall and math.isfinite(overall[name].value)]
    entries = []
    for name in shown:
        entries.append((name, *_headline(name, evaluation.results[0])))
    blocks.append(Figures(tuple(entries)))
    blocks.append(
        Text(
            "MAE, RMSE and bias in years (bias above 0: estimated too old); CA(n): per cent of images with "
            "an error below n years; AAR: age accuracy and regularity, 10 is perfect. All images are pooled. "
            f"In brackets: {evaluation.level:.0%} bootstrap intervals."
        )
    )
    return Section("Overview", tuple(blocks))


def _warnings(evaluation: Evaluation) -> Iterator[Text]:
    match = evaluation.match
    if match.failed:
        yield Text(
            f"{len(match.failed)} images got no estimate: they are in no error below, and outcomes of their "
            "own in age assurance (see Failures).",
            warning=True,
        )
    for paths, what in (
        (match.missing, "images of the manifest have no prediction at all and are in no figure"),
        (match.unknown, "predictions are for files that the manifest lacks and were passed over"),
    ):
        if paths:
            named = ", ".join(paths[:_NAMED]) + (", … (all in report.json)" if len(paths) > _NAMED else "")
            yield Text(f"{len(paths)} {what}: {named}", warning=True)
    strange = int(((evaluation.estimates < 0) | (evaluation.estimates > MAXIMUM_AGE)).sum())
    if strange:
        yield Text(
            f"{strange} estimates lie outside 0 … {MAXIMUM_AGE:g} years; they are judged as they stand.",
            warning=True,
        )
    if evaluation.absent:
        yield Text(f"The manifest has no values for: {', '.join(evaluation.absent)}.", warning=True)
    if "age_std" in evaluation.labels:
        agreed = int((evaluation.labels["age_std"] == 0).sum())
        unknown = int(evaluation.labels["age_std"].isna().sum())
        if unknown and unknown < evaluation.images:
            yield Text(f"No ε-error: {unknown} images have no deviation of voters.", warning=True)
        elif agreed and not unknown:
            yield Text(
                f"ε-error: the voters of {agreed} images agreed (σ = 0); these count 0 where the estimate is "
                "their age exactly, else 1.",
                warning=True,
            )


def _by_age(evaluation: Evaluation, out: Path) -> Section:
    steps = [result for result in evaluation.results if result.grouping == "five_years"]
    errors = metrics.absolute_errors(evaluation.estimates, evaluation.ages)
    curves = {} if evaluation.results[0].small else {"all": errors}
    persons = people(evaluation.labels)
    for name, members in (group_members("gender", evaluation.labels) or {}).items():
        if len(np.unique(persons[members])) >= SMALL_GROUP:
            curves[name] = errors[members]
    return Section(
        "Error and age",
        (
            drawing(
                "error-by-age",
                plots.error_by_age(steps, evaluation.ages),
                "MAE and bias by true age in steps of five years, with bootstrap intervals, and the number "
                f"of images of each year. Hollow: fewer than {SMALL_GROUP} people; they may lie outside.",
                out / _PLOTS,
            ),
            _table(
                "Error by true age",
                [result for result in steps if result.count],
                ("MAE", "bias"),
                first="age",
            ),
            drawing(
                "cumulative-errors",
                plots.cumulative_errors(curves),
                "Cumulative error curve: per cent of images with an error below n years.",
                out / _PLOTS,
            )
            if curves
            else Text(f"No cumulative error curve: fewer than {SMALL_GROUP} people."),
            drawing(
                "predicted-against-true",
                plots.predicted_against_true(evaluation.estimates, evaluation.ages),
                "Number of images at each true and estimated age; on the line the estimate is right.",
                out / _PLOTS,
            ),
        ),
    )


def _groups(evaluation: Evaluation, out: Path) -> Section:
    own = ("five_years", "eye_distance")
    names = dict.fromkeys(result.grouping for result in evaluation.results[1:] if result.grouping not in own)
    single = [name for name in names if ":" not in name]
    shown = [result for result in evaluation.results if result.grouping in ("all", *single)]
    blocks: list[Block] = [
        drawing(
            "error-by-group",
            plots.group_errors(shown),
            f"MAE by group with bootstrap intervals; hollow: fewer than {SMALL_GROUP} people; the line: all.",
            out / _PLOTS,
        )
    ]
    for name in names:
        results = [result for result in evaluation.results if result.grouping == name]
        wanted = _BY_GROUP if name in single else _CROSSED
        blocks.append(_table(f"By {_title(name)}", results, wanted, first=_title(name)))
    blocks.append(
        Text(
            f"A star marks a group of fewer than {SMALL_GROUP} people: its errors mean little, and its rates "
            "are not given (too few). Coverage: share of true ages inside the 90 % interval."
        )
    )
    return Section("By group", tuple(blocks))


def _calibration(evaluation: Evaluation, out: Path) -> Section:
    overall, small = evaluation.overall, evaluation.results[0].small
    if evaluation.predictions.distribution is None:
        blocks: tuple[Block, ...] = (
            Text("The system gives no distributions: nothing can be said of their calibration."),
        )
        if "coverage(stated)" in overall:
            covered = _metric_cell("coverage(stated)", evaluation.results[0])
            blocks += (
                Text(
                    f"The intervals that it states cover {covered} of the true ages and are "
                    f"{_metric_cell('width(stated)', evaluation.results[0])} years wide."
                ),
            )
        return Section("Calibration", blocks)
    threshold = evaluation.threshold
    sharp = tuple(
        (
            f"{level:.0%}",
            _metric_cell(f"coverage({level:.0%})", evaluation.results[0]),
            _metric_cell(f"width({level:.0%})", evaluation.results[0]),
        )
        for level in INTERVAL_LEVELS
    )
    scores = ["CRPS", "NLL", f"Brier({threshold:g}+)", f"accuracy({threshold:g}+)"]
    entries = tuple((name, *_headline(name, evaluation.results[0])) for name in scores)
    drawings: list[Block] = []
    if not small:
        covered_by = [overall[f"coverage({level:.0%})"] for level in INTERVAL_LEVELS]
        drawings = [
            drawing(
                "pit",
                plots.pit_shares(evaluation.pit_histogram),
                "PIT histogram: where the true age lies in its distribution. Flat is calibrated; a hill is "
                "too wide, a valley too narrow, a slope biased.",
                out / _PLOTS,
            ),
            drawing(
                "coverage",
                plots.central_coverage(
                    INTERVAL_LEVELS,
                    [value.value for value in covered_by],
                    [(value.low, value.high) for value in covered_by],
                ),
                "Coverage of the central intervals against what they say.",
                out / _PLOTS,
            ),
            drawing(
                "reliability",
                plots.reliability(evaluation.reliability, SMALL_GROUP, threshold),
                f"Reliability of P(age ≥ {threshold:g}): how often it is so, by the probability given; bins "
                f"of at least {SMALL_GROUP} people.",
                out / _PLOTS,
            ),
        ]
    return Section(
        "Calibration",
        (
            Figures(entries),
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


def _assurance(page: Assurance, evaluation: Evaluation, out: Path) -> Section:
    """The age assurance page of one threshold."""
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
            tuple((_name(row), _people(row.rate), _rate(row.rate)) for row in page.challenge_rates),
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
                out / _PLOTS,
            )
        )
        blocks.append(_curve_table(curves, f"Operating points, all images: {what}", rule == "estimate", last))
    blocks += [_cell_means_table(page), _cells_table(page, evaluation), *_child_tables(page)]
    blocks.append(
        Table(
            "Failure to estimate (no face, unreadable)",
            ("group", "images", "people", "share without an estimate"),
            tuple(
                (_name(row), f"{row.rate.images:,}", _people(row.rate), _rate(row.rate))
                for row in page.failures
            ),
        )
    )
    eyes = [result for result in evaluation.results if result.grouping == "eye_distance"]
    if eyes:
        blocks.append(
            _table(
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
            rows.append((_name(group), "any", "any", TOO_FEW, "", "", ""))
            continue
        for point in page.points:
            if (point.grouping, point.group) != (group.grouping, group.group):
                continue
            by_age = point.rule == "estimate"
            rows.append(
                (
                    _name(point),
                    f"{point.wished:.1%}",
                    "challenge age" if by_age else "certainty",
                    _cut(point.cut, by_age) or "none reaches it",
                    _rate(point.false_positives),
                    _rate(point.adults_refused),
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
                _name(row),
                sides[row.side],
                _people(row.passed),
                *(_rate(found) for found in (row.passed, row.refused, row.undecided, row.failed)),
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
        rows.append((f"{cut:g}", *(_share(value) for value in (passed, just, refused))))
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
                "" if row.mae is None else _value(row.mae),
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
            row += [f"{cell.images:,}{star}", "" if cell.mae is None else _value(cell.mae)]
        bias = cells[age, "all"].bias
        rows.append((*row, "" if bias is None else _value(bias)))
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
                _name(row),
                _people(row.in_range),
                "" if row.mae is None else _value(row.mae),
                _rate(row.in_range),
                _rate(row.rated_under_8),
                _rate(row.rated_8_12),
                _rate(row.rated_17_22),
                _rate(row.rated_over_22),
            )
            for row in page.child_safety
        ),
    )
    yield Table(
        "Child safety: others rated 13 to 16",
        ("group", "people 8-12", "8-12 rated 13-16", "people 17-22", "17-22 rated 13-16"),
        tuple(
            (
                _name(row),
                _people(row.younger_in_range),
                _rate(row.younger_in_range),
                _people(row.older_in_range),
                _rate(row.older_in_range),
            )
            for row in page.child_safety
        ),
    )


def _failures(evaluation: Evaluation) -> Section:
    failed = evaluation.match.failed
    if not failed:
        return Section("Failures", (Text("Every image got an estimate."),))
    reasons: dict[str, int] = {}
    for _, reason in failed:
        reasons[reason] = reasons.get(reason, 0) + 1
    return Section(
        "Failures",
        (
            Table(
                "Images without an estimate, by reason",
                ("reason", "images"),
                tuple((reason, f"{count:,}") for reason, count in sorted(reasons.items())),
                note="Their names are in report.json and predictions.csv.",
            ),
        ),
    )


def _worst(evaluation: Evaluation, thumbnails: bool) -> Section:
    errors = metrics.absolute_errors(evaluation.estimates, evaluation.ages)
    order = np.argsort(-errors, kind="stable")[:WORST]
    names = evaluation.labels["path"].astype(str).to_numpy(dtype=object)
    ages, estimates = evaluation.ages, evaluation.estimates
    table = Table(
        f"The {len(order)} largest errors",
        ("image", "true age", "estimate", "error (years)"),
        tuple(
            (names[k], f"{ages[k]:g}", f"{estimates[k]:.1f}", f"{estimates[k] - ages[k]:+.1f}") for k in order
        ),
    )
    if not thumbnails:
        told = Text("Their images are not shown: faces are personal (--thumbnails shows them).")
        return Section("Worst cases", (table, told))
    pictures, unreadable = _pictures(
        evaluation,
        order,
        [f"{n}. aged {ages[k]:g}, estimated {estimates[k]:.1f}" for n, k in enumerate(order, start=1)],
    )
    blocks: list[Block] = [table, Gallery(pictures)]
    if unreadable:
        blocks.append(Text(f"{unreadable} of these images cannot be read.", warning=True))
    return Section("Worst cases", tuple(blocks))


def _mistaken_for(evaluation: Evaluation) -> Section:
    """What wrong answers tell: the worst cases, each beside others of the age it was taken for.

    The case study of Zhao et al. 2020, Appendix D: who is estimated wrong often looks like the age that was
    estimated (or the label is wrong); whoever reads the page judges. Beside stand faces whose true age and
    estimate are nearest to it.
    """
    ages, estimates = evaluation.ages, evaluation.estimates
    persons = people(evaluation.labels)
    order = np.argsort(-metrics.absolute_errors(estimates, ages), kind="stable")
    galleries: list[Block] = []
    for k in order[:_MISTAKEN]:
        off = np.abs(ages - estimates[k])
        likely = np.flatnonzero((off <= _SAME_AGE) & (persons != persons[k]))
        distance = off[likely] + np.abs(estimates[likely] - estimates[k])
        beside = likely[np.argsort(distance, kind="stable")[:_BESIDE]]
        shown = np.array([k, *beside])
        captions = [f"aged {ages[k]:g}, taken for {estimates[k]:.0f}", *(f"aged {ages[j]:g}" for j in beside)]
        pictures, _ = _pictures(evaluation, shown, captions)
        if pictures and pictures[0][1] == captions[0]:  # else the face itself cannot be read
            galleries.append(Gallery(pictures))
    told = Text(
        "First in each row: a face that was estimated wrong. Beside it: other faces of the age that was "
        "estimated, told right. Does the first look like them, or like its own age? It may look it, or its "
        "label may be wrong."
    )
    return Section("Mistaken for", (told, *galleries))


def _pictures(
    evaluation: Evaluation, which: NDArray[np.int64], captions: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Thumbnails of some images with their captions, and how many of them cannot be read."""
    rows = evaluation.labels.iloc[which]
    rows.attrs = dict(evaluation.labels.attrs)
    pictures = []
    for path, caption in zip(image_paths(rows), captions, strict=True):
        with contextlib.suppress(ImageError):
            pictures.append((_thumbnail(path), caption))
    return tuple(pictures), len(which) - len(pictures)


def _thumbnail(path: Path) -> str:
    """A small picture as a ``data:`` address."""
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(caption: str, results: Sequence[GroupResult], names: Sequence[str], first: str) -> Table:
    shown = [name for name in names if any(name in result.metrics for result in results)]
    by_people = any(result.people != result.count for result in results)
    return Table(
        caption,
        (first, "images", *(["people"] if by_people else []), *shown),
        tuple(
            (
                result.group,
                f"{result.count:,}*" if result.small else f"{result.count:,}",
                *([f"{result.people:,}"] if by_people else []),
                *(_metric_cell(name, result) for name in shown),
            )
            for result in results
        ),
    )


def _metric_cell(name: str, result: GroupResult) -> str:
    value = result.metrics.get(name)
    if value is None or not math.isfinite(value.value):
        return ""
    return TOO_FEW if result.rate_hidden(name) else _value(value, 1 if name.startswith("CA(") else None)


def _headline(name: str, result: GroupResult) -> tuple[str, str]:
    return (TOO_FEW, "") if result.rate_hidden(name) else _parts(result.metrics[name])


def _value(value: BootstrapInterval, digits: int | None = None) -> str:
    return " ".join(_parts(value, digits))


def _parts(value: BootstrapInterval, digits: int | None = None) -> tuple[str, str]:
    if digits is None:
        digits = 3 if abs(value.value) < 1 else 2
    return f"{value.value:.{digits}f}", f"[{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _rate(found: Rate | None) -> str:
    if found is None:
        return ""
    if found.too_few:
        return TOO_FEW
    return f"{found.value:.1%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _people(found: Rate) -> str:
    return f"{found.people:,}*" if found.too_few else f"{found.people:,}"


def _share(value: float) -> str:
    return TOO_FEW if math.isnan(value) else f"{value:.1%}"


def _title(name: str) -> str:
    return name.replace("_", " ").replace(":", " × ")


def _name(row: _OfGroup) -> str:
    return row.group if row.grouping == "all" else f"{_title(row.grouping)}: {row.group}"
