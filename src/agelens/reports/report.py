"""The report of an evaluation: one HTML page, its JSON, the predictions and the plots, in one folder.

::

    DIR/
      report.html          everything, in one file that needs no network
      report.json          the same figures, and the stamp
      predictions.csv      the system's estimates (distributions.npz beside it)
      plots/*.svg, *.png
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from agelens.data.columns import MAXIMUM_AGE
from agelens.data.manifest import read_manifest
from agelens.data.prediction_columns import PREDICTIONS_NAME
from agelens.data.predictions import write_predictions
from agelens.evaluation.assurance import Assurance
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.groups import crossings
from agelens.files import write_atomically
from agelens.reports.assurance_section import assurance_section
from agelens.reports.band_sections import band_calibration, band_overview, bands_by_group
from agelens.reports.blocks import Block, Headlines, Section, Text
from agelens.reports.cases import failures, mistaken_for, worst_cases
from agelens.reports.error_sections import calibration, error_by_age, errors_by_group
from agelens.reports.formats import headline
from agelens.reports.page import plot_style, write_page
from agelens.reports.stamp import Stamp, make_stamp

__all__ = ["report_groupings", "write_report"]

_OVERVIEW = ("MAE", "RMSE", "bias", "CA(3)", "CA(5)", "CA(7)", "AAR", "ε-error")


_NAMED = 5  # paths that a warning names


def report_groupings(by: Sequence[str]) -> tuple[str, ...]:
    """List the groupings a report needs: those asked for, their crossings, steps of age, eye distance."""
    return tuple(dict.fromkeys([*by, *crossings(by), "five_years", "eye_distance"]))


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    assurances: Sequence[Assurance] = (),
    stamp: Stamp | None = None,
    *,
    thumbnails: bool = False,
) -> Path:
    """Write the report of an evaluation.

    Args:
        folder: Output folder; made if it is missing.
        evaluation: Best by the groupings of :func:`report_groupings`; without them the report lacks the
            errors in steps of five years.
        assurances: One per threshold; none where the labels are bands.
        stamp: From :func:`make_stamp`; None: made from the evaluation and its manifest.
        thumbnails: Show the worst cases' images. Off by default: faces are personal.
    Returns:
        The HTML file.
    Raises:
        ManifestError: No ``stamp``, and the manifest of the evaluation cannot be read.
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    if stamp is None:
        stamp = make_stamp(evaluation, read_manifest(evaluation.manifest))
    with plot_style():
        sections = (
            _band_sections(evaluation, out)
            if evaluation.banded
            else [
                _overview(evaluation),
                error_by_age(evaluation, out),
                errors_by_group(evaluation, out),
                calibration(evaluation, out),
                *(assurance_section(assurance, evaluation, out) for assurance in assurances),
                failures(evaluation),
                worst_cases(evaluation, thumbnails),
                *([mistaken_for(evaluation)] if thumbnails else []),
            ]
        )
    write_predictions(evaluation.predictions, out / PREDICTIONS_NAME)
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


def _band_sections(evaluation: Evaluation, out: Path) -> list[Section]:
    return [
        Section("Overview", (*_warnings(evaluation), *band_overview(evaluation))),
        bands_by_group(evaluation, out),
        band_calibration(evaluation, out),
        failures(evaluation),
    ]


def _overview(evaluation: Evaluation) -> Section:
    overall = evaluation.overall
    blocks: list[Block] = list(_warnings(evaluation))
    shown = [name for name in _OVERVIEW if name in overall and math.isfinite(overall[name].value)]
    entries = []
    for name in shown:
        entries.append((name, *headline(name, evaluation.results[0])))
    blocks.append(Headlines(tuple(entries)))
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
