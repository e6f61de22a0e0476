"""agelens evaluate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table
from agelens.errors import InputError
from agelens.files import refuse_to_overwrite

__all__ = ["NAMED", "TAKEN_FOR_CROPS", "Images", "Labels", "evaluate"]

NAMED = 5
"""Number of images named on the terminal; the report and the JSON name all."""


TAKEN_FOR_CROPS = (
    "nothing says how these images were cut: they are taken for aligned crops "
    "(otherwise: --images photos, or chips)"
)
"""Line about images without a geometry."""


class Images(StrEnum):
    """Content of the images of a manifest."""

    aligned = "aligned"
    chips = "chips"
    photos = "photos"


class Labels(StrEnum):
    """Kinds of labels of a manifest."""

    real = "real"
    apparent = "apparent"
    estimated = "estimated"


@command("what was written is whole", extra="report")
def evaluate(
    system: Annotated[
        str, typer.Argument(help="Model, run (also over folds), or table of predictions (.csv).")
    ],
    data: Annotated[Path, typer.Option(help="Manifest with the true ages.")],
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all. [test, or what the protocol tests]")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="age_band, pose (pose-20: groups from 0 and 20 degrees), eye_distance, aar_group, a column, "
            "or a crossing as gender:ethnicity; "
            "several with commas or by repeating it. [age_band,gender,ethnicity; --report adds pose]"
        ),
    ] = None,
    images: Annotated[Images, typer.Option(help="Content of the manifest's images.")] = Images.aligned,
    estimate: Annotated[
        str, typer.Option(help="Estimate to judge: age, or argmax, median or mean of the distribution.")
    ] = "age",
    report: Annotated[
        Path | None,
        typer.Option(help="Write report.html, report.json, predictions and plots to this folder."),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Age in years that must be reached; repeat it for several assurance pages. [18]"),
    ] = None,
    challenge: Annotated[
        list[float] | None,
        typer.Option(help="Challenge age of each threshold, in years. [the threshold + 7]"),
    ] = None,
    false_positive_rate: Annotated[
        list[float] | None,
        typer.Option(help="Target share of under-age people passed, 0 to 1; may be repeated. [0.01 0.05]"),
    ] = None,
    certainty: Annotated[
        float, typer.Option(help="P(age >= threshold) from which a person is passed, 0.5 to 1.")
    ] = 0.95,
    labels: Annotated[
        Labels | None, typer.Option(help="What the labels are: for the report's stamp.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Judge what this protocol tests, in all of its folds.")
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Show the worst cases' faces in the report.")
    ] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write the model's predictions to this file.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count images without a prediction instead of refusing.")
    ] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Print every metric.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of the network.")] = 1,
) -> None:
    """Measure how good a model, or any system's predictions, are; by group, with bootstrap intervals.

    Printed are MAE, bias, CA(5), AAR, coverage and the accuracy at the threshold, or band accuracy and
    distance where the labels are bands; all metrics with --wide, in the report and in the JSON.
    """
    from agelens.apps.progress import progress_bar
    from agelens.data.manifest import read_manifest
    from agelens.data.predictions import write_predictions
    from agelens.evaluation.evaluate import evaluate_system
    from agelens.evaluation.groups import split_groupings
    from agelens.evaluation.predict import taken_for_crops
    from agelens.reports.tables import BRIEF, evaluation_rows

    thresholds = threshold or [18.0]
    challenges: list[float | None] = [*challenge] if challenge else [None for _ in thresholds]
    if len(challenges) != len(thresholds):
        raise InputError(f"{len(challenges)} challenge ages for {len(thresholds)} thresholds")
    rates = false_positive_rate or [0.01, 0.05]
    asked = split_groupings(by or ["age_band,gender,ethnicity" + (",pose" if report else "")])
    groupings = asked
    if report is not None:
        from agelens.evaluation.assurance import assure, check_settings
        from agelens.reports.report import report_groupings, write_report
        from agelens.reports.stamp import make_stamp

        groupings = report_groupings(asked)
        for age, upper in zip(thresholds, challenges, strict=True):
            check_settings(age, upper, rates, certainty)
    for written in (json_, predictions):
        if written is not None:
            refuse_to_overwrite(written, (system, data))
    manifest = read_manifest(data)
    with progress_bar("images") as show:
        evaluation = evaluate_system(
            system,
            manifest,
            split,
            images.value,
            by=groupings,
            protocol=protocol,
            estimate=estimate,
            threshold=thresholds[0],
            allow_missing=allow_missing,
            threads=threads,
            progress=show,
        )
    said = f"protocol {evaluation.protocol}" if evaluation.protocol else f"split {evaluation.split or 'all'}"
    typer.echo(f"{evaluation.system} on {evaluation.manifest}, {said}: {evaluation.images} images")
    typer.echo(f"intervals: {evaluation.intervals}; * = a group of few people; [95 % bootstrap interval]")
    if evaluation.image_kind and taken_for_crops(evaluation.labels, images.value):
        typer.echo(TAKEN_FOR_CROPS)
    match = evaluation.match
    for way, count in (("the photo a crop was cut from", match.by_source), ("file name", match.by_name)):
        if count:
            typer.echo(f"matched by {way}: {count} images")
    for name, paths in (("failed", match.failed), ("missing", match.missing), ("unknown", match.unknown)):
        if paths:
            named = [path if isinstance(path, str) else ": ".join(path) for path in paths[:NAMED]]
            typer.echo(f"{name}: {len(paths)} images: {', '.join([*named, '…'][: len(paths)])}")
    for name in evaluation.absent:
        if name in asked:
            typer.echo(f"no values of {name} in the manifest")
    shown = [name for name in evaluation.overall if wide or name in BRIEF]
    table = [row for row in evaluation_rows(evaluation, shown) if row["grouping"] in ("all", *asked)]
    print_table(tuple(table[0]), [tuple(row.values()) for row in table])
    if json_ is not None:
        evaluation.write_json(json_)
    if predictions is not None:
        write_predictions(evaluation.predictions, predictions)
    if report is not None:
        pages = [
            assure(evaluation, asked, threshold=age, challenge=upper, wished=rates, certainty=certainty)
            for age, upper in zip(thresholds, challenges, strict=True)
            if not evaluation.banded  # a band lies on both sides of a threshold
        ]
        stamp = make_stamp(evaluation, manifest, labels=None if labels is None else labels.value)
        typer.echo(f"wrote {write_report(report, evaluation, pages, stamp, thumbnails=thumbnails)}")
