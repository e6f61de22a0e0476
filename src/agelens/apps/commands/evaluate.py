"""agelens evaluate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table
from agelens.errors import MissingExtraError

__all__ = ["evaluate", "model_of"]


class Images(StrEnum):
    """What the images of a manifest are."""

    aligned = "aligned"
    chips = "chips"
    photos = "photos"


@command("nothing was written", extra="report")
def evaluate(
    system: Annotated[str, typer.Argument(help="Model, run, or table of predictions (.csv).")],
    data: Annotated[Path, typer.Option(help="Manifest with the true ages.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    by: Annotated[
        list[str] | None,
        typer.Option(help="age_band, aar_group or a column; may be repeated. [age_band gender ethnicity]"),
    ] = None,
    images: Annotated[Images, typer.Option(help="What the manifest's images are.")] = Images.aligned,
    threshold: Annotated[float, typer.Option(help="Years for the accuracy of P(age >= threshold).")] = 18,
    json_: Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write the model's predictions to this file.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count images without a prediction instead of refusing.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads of the network.")] = 1,
) -> None:
    """Measure how good a model, or any system's predictions, are; by group, with bootstrap intervals."""
    from agelens.apps.progress import progress_bar
    from agelens.data.manifest import read_manifest
    from agelens.evaluation.evaluate import evaluate as compare
    from agelens.evaluation.evaluate import evaluate_model
    from agelens.evaluation.predictions import read_predictions, write_predictions

    groupings = tuple(by) if by else ("age_band", "gender", "ethnicity")
    rows, part = read_manifest(data), None if split == "all" else split
    count = len(rows) if part is None or "split" not in rows else int((rows["split"] == part).sum())
    with progress_bar("images") as report, model_of(system) as model:
        if system.lower().endswith(".csv"):
            found = compare(
                read_predictions(system),
                rows,
                groupings,
                split=part,
                threshold=threshold,
                allow_missing=allow_missing,
            )
        else:
            found = evaluate_model(
                model,
                rows,
                part,
                images.value,
                by=groupings,
                threshold=threshold,
                threads=threads,
                progress=lambda done: report(done, count),
            )
    typer.echo(f"{found.system} on {found.manifest}, split {split}: {found.images} images")
    typer.echo(f"intervals: {found.intervals}; * = a group of few images; [95 % bootstrap interval]")
    match = found.match
    for name, paths in (("failed", match.failed), ("missing", match.missing), ("unknown", match.unknown)):
        if paths:
            typer.echo(f"{name}: {len(paths)} images")
    shown = [name for name in found.overall if not name.startswith("width")]
    table = found.rows(shown)
    print_table(tuple(table[0]), [tuple(row.values()) for row in table])
    if json_ is not None:
        found.write_json(json_)
    if predictions is not None:
        write_predictions(found.predictions, predictions)


@contextlib.contextmanager
def model_of(system: str) -> Iterator[str]:
    """Yield a model: the one named, or a temporary one that a run is exported to."""
    if not (Path(system) / "run.json").is_file():
        yield system
        return
    from tempfile import TemporaryDirectory

    try:
        from agelens.methods.train import export_run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        export_run(system, model)
        yield str(model)
