"""agelens compare, agelens published."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, output, print_table
from agelens.apps.commands.evaluate import NAMED, TAKEN_FOR_CROPS, Images, Labels
from agelens.errors import InputError

__all__ = ["compare", "published"]


@command("nothing was written", extra="report")
def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="Two or more models, runs (also over folds) or tables of predictions (.csv); "
            "NAME=SYSTEM names one; one NAME of several is one system trained from several seeds."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Manifest with the true ages, or age bands.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    by: Annotated[
        list[str] | None,
        typer.Option(help="age_band, aar_group or a column; may be repeated. [age_band gender ethnicity]"),
    ] = None,
    images: Annotated[Images, typer.Option(help="Content of the manifest's images.")] = Images.aligned,
    estimate: Annotated[
        str, typer.Option(help="Estimate to judge: age, or argmax, median or mean of the distributions.")
    ] = "age",
    quote: Annotated[
        list[str] | None,
        typer.Option(help="Published results to quote: DATA SET or DATA SET:PROTOCOL; may be repeated."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write page, JSON and tables into this folder.")] = None,
    labels: Annotated[
        Labels | None, typer.Option(help="What the labels are: for the report's stamp.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count images without a prediction instead of refusing.")
    ] = False,
    latency: Annotated[bool, typer.Option(help="Time the models.")] = True,
    threads: Annotated[int, typer.Option(help="Threads while estimating; latency is always of one.")] = 1,
) -> None:
    """Put systems side by side: paired differences with intervals, cost, the best system of each group."""
    from agelens.apps.progress import progress_bar
    from agelens.data.manifest import read_manifest
    from agelens.evaluation.compare import compare as compare_systems
    from agelens.evaluation.groups import check_groupings, split_groupings
    from agelens.evaluation.predict import selected_rows, taken_for_crops
    from agelens.evaluation.published import quoted_systems, read_published
    from agelens.evaluation.systems import open_system, over_seeds, split_name
    from agelens.reports.tables import difference_rows, group_rows, system_rows

    rows, part = read_manifest(data), None if split == "all" else split
    groupings = split_groupings(by or ("age_band", "gender", "ethnicity"))
    check_groupings(groupings, rows)
    results = read_published() if quote else ()
    quoted = [
        row
        for name, _, protocol in map(_quote, quote or ())
        for row in quoted_systems(results, name, protocol)
    ]
    named = [split_name(text) for text in systems]
    names = list(dict.fromkeys(name for name, *_ in named))
    for name in names:
        if len(given := [explicit for other, _, explicit in named if other == name]) > 1 and not all(given):
            raise InputError(f"two systems are called {name!r}: name them, NAME=SYSTEM")
    if len(names) < 2:
        raise InputError(f"a comparison needs two systems or more, not {len(names)}")
    with ExitStack() as opened:
        answers = []
        for name, source, _ in named:
            system = opened.enter_context(open_system(source, name))
            with progress_bar("images", name) as bar:
                answers.append(
                    system.answer(rows, split=part, images=images.value, threads=threads, progress=bar)
                )
        comparison = compare_systems(
            [over_seeds([one for one in answers if one.name == name]) for name in names],
            rows,
            groupings,
            split=part,
            quoted=quoted,
            estimate=estimate,
            allow_missing=allow_missing,
            latency=latency,
            meaning=None if labels is None else labels.value,
        )
    typer.echo(f"{data}, split {split}: {comparison.images} images that every system answered")
    if any(one.kind != "predictions" for one in answers) and taken_for_crops(
        selected_rows(rows, part), images.value
    ):
        typer.echo(TAKEN_FOR_CROPS)
    if comparison.left_out:
        typer.echo(f"left out: {comparison.left_out} images that some system did not answer")
    for result in comparison.systems:
        for what, paths in (
            ("failed", [": ".join(pair) for pair in result.failed]),
            ("missing", result.missing),
            ("unknown", result.unknown),
        ):
            if paths:
                some = ", ".join([*paths[:NAMED], "…"][: len(paths)])
                typer.echo(f"{result.name}, {what}: {len(paths)} images: {some}")
    if comparison.absent:
        typer.echo(f"no values of {', '.join(comparison.absent)} in the manifest")
    shown = ["MAE", "CA(5)", "CRPS", "band distance", "band accuracy"]
    if any(difference.metric == "band accuracy(estimate)" for difference in comparison.differences):
        shown.append("band accuracy(estimate)")
    for table in (
        system_rows(comparison, shown),
        difference_rows(comparison),
        group_rows(comparison),
    ):
        if table:
            typer.echo("")
            print_table(tuple(table[0]), [tuple(row.values()) for row in table])
    if report is not None:
        from agelens.reports.comparison import write_comparison

        write_comparison(comparison, report)
        typer.echo(f"\nwrote {report / 'comparison.html'}")


@command("", extra="report")
def published(
    data_set: Annotated[str | None, typer.Argument(help="Only this data set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a CSV file instead of a table.")] = None,
) -> None:
    """List the published results that agelens can quote."""
    import csv

    from agelens.evaluation.published import quoted_systems, read_published

    results = read_published()
    names = [data_set] if data_set else sorted({row.data_set for row in results if row.data_set})
    quoted = [row for name in names for row in quoted_systems(results, name)]
    header = ("data set", "protocol", "source", "system", "figures", "note")
    lines = [
        (
            row.data_set,
            row.protocol,
            row.source,
            row.name,
            ", ".join(f"{name} {value}" for name, value in row.metrics.items()),
            row.note,
        )
        for row in quoted
    ]
    with output(out) as handle:
        if out is None:
            print_table(header, lines, handle)
        else:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(lines)


def _quote(text: str) -> tuple[str, str, str]:
    """Split ``DATA SET:PROTOCOL``."""
    if not text.partition(":")[0].strip():
        raise InputError(f"--quote {text!r} must name a data set (agelens published lists them)")
    return text.partition(":")
