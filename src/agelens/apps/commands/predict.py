"""agelens predict, agelens models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from agelens.apps.command import command, fail, output, print_table
from agelens.errors import InputError

if TYPE_CHECKING:
    from agelens.inference.estimator import Source
    from agelens.inference.face import Photo

__all__ = ["models", "predict"]


class Format(StrEnum):
    """Formats of printed predictions."""

    table = "table"
    json = "json"
    csv = "csv"


@command("no file was written")
def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders (with all below them), patterns, or - for stdin.")
    ],
    crops: Annotated[
        bool,
        typer.Option(
            "--crops",
            help="Each image is cut to one face (a chip); a usual layout if none is detected.",
        ),
    ] = False,
    aligned: Annotated[
        bool,
        typer.Option(
            "--aligned",
            help="Each image is a crop of prepare, in the model's geometry: only the network runs.",
        ),
    ] = False,
    format: Annotated[  # noqa: A002
        Format | None, typer.Option(help="Default: what --out ends in, else table.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; by default stdout.")] = None,
    model: Annotated[str | None, typer.Option(help="Shipped model (agelens models) or model file.")] = None,
    threshold: Annotated[float, typer.Option(help="Years for the probability of being that old.")] = 18,
    level: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Coverage of the interval low ... high.")
    ] = 0.9,
    detector: Annotated[str, typer.Option(help="mtcnn, haar, yunet, none, or one of a plug-in.")] = "mtcnn",
    detector_model: Annotated[Path | None, typer.Option(help="Network file of yunet.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger images are refused before decoding.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the networks.")] = 1,
) -> None:
    """Estimate the age of every face in photos.

    An image that cannot be used is a row with its error, and the exit code is 1 at the end.
    """
    from agelens.faces.detectors import make_detector
    from agelens.faces.image import MAX_PIXELS
    from agelens.faces.image_files import find_images
    from agelens.inference.estimator import AgeEstimator
    from agelens.inference.writers import write_csv, write_json

    if crops and aligned:
        raise InputError("--crops and --aligned exclude each other")
    selected = format or _format_of(out)
    sources: list[Source] = []
    for path in paths:
        sources += [sys.stdin.buffer.read()] if path == "-" else find_images([path])
    estimator = AgeEstimator(
        model,
        detector=make_detector(detector, threads=threads, model=detector_model)
        if detector_model
        else detector,
        threads=threads,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
    )
    failed = 0

    def count(photos: Iterable[Photo]) -> Iterator[Photo]:
        nonlocal failed
        for photo in photos:
            failed += photo.error is not None
            yield photo

    photos = count(estimator.estimate_many(_shown(sources), crops=crops, aligned=aligned))
    write = {Format.csv: write_csv, Format.json: write_json, Format.table: _write_table}[selected]
    with output(out) as handle:
        write(photos, handle, level=level, threshold=threshold)
    if failed:
        fail(f"{failed} of {len(sources)} images could not be used", 1)


def _format_of(out: Path | None) -> Format:
    """Format of a file by its suffix."""
    formats = {".csv": Format.csv, ".json": Format.json, ".txt": Format.table, "": Format.table}
    suffix = "" if out is None else out.suffix.lower()
    if suffix not in formats:
        raise InputError(f"--out {out}: the suffix is no known format; add --format table, json or csv")
    return formats[suffix]


def _shown(sources: list[Source]) -> Iterator[Source]:
    """Yield the images, with a progress bar if there are several."""
    if len(sources) < 2 or not sys.stderr.isatty():
        yield from sources
        return
    from agelens.apps.progress import progress_bar

    with progress_bar("images") as report:
        for done, source in enumerate(sources):
            report(done, len(sources))
            yield source


def _write_table(photos: Iterable[Photo], out: TextIO, *, level: float, threshold: float) -> None:
    from agelens.inference.writers import prediction_rows

    rows = []
    for photo in photos:
        for row in prediction_rows(photo, level=level, threshold=threshold):
            box = " ".join(row[side].partition(".")[0] for side in ("x1", "y1", "x2", "y2")).strip()
            between = f"{float(row['low']):.0f} to {float(row['high']):.0f}" if row["low"] else ""
            years = f"{float(row['age']):.1f}" if row["age"] else ""
            rows.append((row["path"], row["face"], years, between, row["p_at_least"], box, row["error"]))
    header = ("photo", "face", "age", f"{level:.0%} interval", f"P(age >= {threshold:g})", "box", "")
    print_table(header, rows, out)


@command("")
def models() -> None:
    """List the shipped models with their use and their terms."""
    from agelens.inference.shipped_models import list_models, model_path

    for name, model in list_models().items():
        size = model_path(name).stat().st_size / 1e6
        typer.echo(f"{name} ({size:.2f} MB)\n  {model.use}\n  {model.terms}")
