"""The command line: it parses and prints; the work is done elsewhere.

Exit codes: 0 all went well, 1 some images could not be used, 2 the command cannot be carried out,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from agelens import __version__
from agelens.errors import AgelensError, InputError, MissingExtraError, OutputError
from agelens.files import write_atomically

if TYPE_CHECKING:
    from agelens.inference.estimator import Source
    from agelens.inference.face import Photo

__all__ = ["app", "main"]

app = typer.Typer(
    name="agelens",
    help="Facial age estimation: train and refine an estimator, prove how good it is, ship it small.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Images(StrEnum):
    """What the images of a manifest are."""

    aligned = "aligned"
    chips = "chips"
    photos = "photos"


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names need not be valid text
    app()


def _command(
    interrupted: str, extra: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose failures end in one line on stderr.

    Args:
        interrupted: What Ctrl-C leaves behind.
        extra: The extra that brings the packages it imports.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                try:
                    function(*args, **kwargs)
                except ModuleNotFoundError as error:
                    if extra is None or error.name is None or error.name.partition(".")[0] == "agelens":
                        raise
                    raise MissingExtraError(error.name, extra) from error
            except AgelensError as error:
                _fail(f"error: {error}", 2)
            except KeyboardInterrupt:
                _fail("interrupted" + (f"; {interrupted}" if interrupted else ""), 130)

        return app.command()(run)

    return register


def _fail(message: str, code: int) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def _output(out: Path | None) -> Iterator[TextIO]:
    """Yield stdout, or a file that takes its name when it is whole."""
    if out is not None:
        with (
            write_atomically(out) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as handle,
        ):
            yield handle
        return
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # nobody reads on: not worth a word
            raise typer.Exit(1) from error
        raise OutputError("stdout", f"cannot write: {error.strerror}") from error


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"agelens {__version__}")
        raise typer.Exit


@_command("no file was written")
def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders (with all below them), patterns, or - for stdin.")
    ],
    crops: Annotated[bool, typer.Option("--crops", help="The images are face chips.")] = False,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The images are crops in the model's geometry.")
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
    detector: Annotated[str, typer.Option(help="mtcnn, haar, yunet or none.")] = "mtcnn",
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
    from agelens.faces.image import MAX_PIXELS, find_images
    from agelens.inference.estimator import AgeEstimator
    from agelens.inference.predictions import write_csv, write_json

    if crops and aligned:
        raise InputError("--crops and --aligned exclude each other")
    chosen = format or _format_of(out)
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
    write = {Format.csv: write_csv, Format.json: write_json, Format.table: _write_table}[chosen]
    with _output(out) as handle:
        write(photos, handle, level=level, threshold=threshold)
    if failed:
        _fail(f"{failed} of {len(sources)} images could not be used", 1)


def _format_of(out: Path | None) -> Format:
    """The format that a file's name asks for."""
    formats = {".csv": Format.csv, ".json": Format.json, ".txt": Format.table, "": Format.table}
    suffix = "" if out is None else out.suffix.lower()
    if suffix not in formats:
        raise InputError(f"--out {out}: the name tells no format; give --format table, json or csv")
    return formats[suffix]


def _shown(sources: list[Source]) -> Iterator[Source]:
    """Pass images on, with a progress bar if there are several."""
    if len(sources) < 2 or not sys.stderr.isatty():
        yield from sources
        return
    from agelens.apps.progress import progress_bar

    with progress_bar("images") as report:
        for done, source in enumerate(sources):
            report(done, len(sources))
            yield source


def _write_table(photos: Iterable[Photo], out: TextIO, *, level: float, threshold: float) -> None:
    from agelens.inference.predictions import prediction_rows

    rows = []
    for photo in photos:
        for row in prediction_rows(photo, level=level, threshold=threshold):
            box = " ".join(row[side].partition(".")[0] for side in ("x1", "y1", "x2", "y2")).strip()
            between = f"{float(row['low']):.0f} to {float(row['high']):.0f}" if row["low"] else ""
            years = f"{float(row['age']):.1f}" if row["age"] else ""
            rows.append((row["path"], row["face"], years, between, row["p_at_least"], box, row["error"]))
    header = ("photo", "face", "age", f"{level:.0%} interval", f"P(age >= {threshold:g})", "box", "")
    _print_table(header, rows, out)


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], out: TextIO | None = None) -> None:
    """Print columns of text, as wide as they need to be."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), file=out or sys.stdout)


@_command("nothing was written", extra="report")
def audit(
    source: Annotated[str, typer.Argument(help="Manifest, folder of images, or name of a data set.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of the data set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write every finding to this CSV file.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that read; default one a processor.")] = None,
) -> None:
    """Find what is wrong with labelled images.

    Unreadable files, impossible ages, copies, copies with different ages, people on both sides of a split.
    """
    from agelens.apps.progress import progress_bar
    from agelens.data.audit import KINDS
    from agelens.data.audit import audit as audit_images

    with progress_bar("images") as report:
        if folder is None:
            found = audit_images(source, workers=workers, progress=report)
        else:
            found = audit_images(folder, dataset=source, workers=workers, progress=report)
    typer.echo(f"{found.source}: {found.images} images, {len(found.findings)} findings")
    _print_table(
        ("finding", "number", "meaning"),
        [(kind, str(number), KINDS[kind]) for kind, number in found.counts.items()],
    )
    for name, counts in {"age": found.ages, **found.groups}.items():
        if not counts:
            continue
        typer.echo(f"{name}: " + ", ".join(f"{value or 'none'} {number}" for value, number in counts.items()))
    if out is not None:
        with _output(out) as handle:
            found.to_frame().to_csv(handle, index=False, lineterminator="\n")
    if json_ is not None:
        with _output(json_) as handle:
            json.dump(found.to_dict(), handle, indent=2)


@_command("what is finished is kept: run again to go on", extra="report")
def prepare(
    source: Annotated[str, typer.Argument(help="Manifest, or name of a data set (agelens datasets).")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of the data set.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for crops and their manifest.")],
    chips: Annotated[
        bool | None,
        typer.Option(
            "--chips/--photos", help="Images are cut to a face already; default: as the data set is."
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of the crops in pixels.")] = 128,
    detector: Annotated[str, typer.Option(help="mtcnn, haar, yunet or none.")] = "mtcnn",
    detector_model: Annotated[Path | None, typer.Option(help="Network file of yunet.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Detect, align and crop the faces of a manifest, and write a manifest of the crops.

    Run again after an interruption, it goes on where it stopped.
    """
    from agelens.apps.progress import progress_bar
    from agelens.data.datasets import CHIP_DATASETS, DATASETS
    from agelens.data.manifest import read_manifest
    from agelens.data.prepare import prepare as prepare_crops
    from agelens.faces.alignment import DEFAULT_GEOMETRY

    if folder is not None and source not in DATASETS:
        raise InputError(f"unknown data set {source!r}; known: {', '.join(DATASETS)}")
    if folder is None:
        table = read_manifest(source)
    else:
        with progress_bar("labels") as report:
            table = DATASETS[source](folder, workers=workers, progress=report)
    with progress_bar("crops") as report:
        summary = prepare_crops(
            table,
            out,
            detector=detector,
            detector_settings={"model": detector_model} if detector_model else None,
            geometry=DEFAULT_GEOMETRY.with_size(size),
            chips=source in CHIP_DATASETS if chips is None else chips,
            workers=workers,
            progress=report,
        )
    typer.echo(
        f"{summary.images} images ({summary.resumed} done before): aligned by landmarks {summary.landmarks}, "
        f"by eyes {summary.eyes}, fallback {summary.fallback}; no face {summary.no_face}, "
        f"unreadable {summary.failed}"
    )
    typer.echo(f"wrote {out / 'manifest.csv'} and {out / 'failures.csv'}")


@_command("run the command again with --resume to go on", extra="train")
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a TOML file.")],
    data: Annotated[Path, typer.Option(help="Manifest that prepare wrote.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    start: Annotated[Path | None, typer.Option(help="Finished run to start from (pre-training).")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value: train.epochs=3. May be repeated.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no accelerator.")] = False,
) -> None:
    """Train by a recipe. Over several devices: accelerate launch -m agelens train ..."""
    from agelens.methods.progress import RichReporter
    from agelens.methods.recipe import Recipe
    from agelens.methods.train import train as train_recipe

    settings = Recipe.load(recipe, set_ or ())
    with RichReporter() as reporter:
        run = train_recipe(settings, data, out, resume=resume, start=start, reporter=reporter, cpu=cpu)
    typer.echo(f"finished {', '.join(run.finished_stages())} in {run.path}")


@_command("nothing was written", extra="train")
def export(
    run: Annotated[Path, typer.Argument(help="Finished run.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.onnx).")],
    stage: Annotated[
        str | None, typer.Option(help="Stage to export; default: the best on the validation split.")
    ] = None,
    regression: Annotated[
        Path | None, typer.Option(help="Run whose regressed age is averaged with this run's distribution.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights in 16 bits.")] = False,
) -> None:
    """Write a trained network as one self-describing model file, calibrated on the validation split."""
    from agelens.methods.train import export_run

    card = export_run(run, out, stage=stage, regression=regression, half=half)
    typer.echo(f"wrote {out}: {card.name}, {out.stat().st_size / 1e6:.1f} MB")


@_command("", extra="train")
def generations(
    runs: Annotated[list[Path], typer.Argument(help="Runs; the first one's first stage is the reference.")],
    data: Annotated[Path, typer.Option(help="Manifest of aligned crops.")],
    split: Annotated[str, typer.Option(help="Rows to judge on.")] = "test",
) -> None:
    """Compare all stages of runs, head by head, with paired intervals (LRN Tables 7 and 8)."""
    from agelens.methods.generations import generation_table

    table = generation_table(runs, data, split)
    header = ("run", "stage", "estimate", *table[0].figures, "difference of MAE [95 %]")
    lines = []
    for row in table:
        figures = (f"{value:.3f}" if "MAE" in name else f"{value:.1f}" for name, value in row.figures.items())
        difference = "" if row.difference is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row.difference)
        lines.append((row.run, row.stage, row.estimate, *figures, difference))
    _print_table(header, lines)


@_command("nothing was written", extra="report")
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
    with progress_bar("images") as report, _model_of(system) as model:
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
    _print_table(tuple(table[0]), [tuple(row.values()) for row in table])
    if json_ is not None:
        found.write_json(json_)
    if predictions is not None:
        write_predictions(found.predictions, predictions)


@contextlib.contextmanager
def _model_of(system: str) -> Iterator[str]:
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


@_command("")
def models() -> None:
    """List the shipped models: what they are for, and who may use them."""
    from agelens.inference.models import list_models, model_path

    for name, model in list_models().items():
        size = model_path(name).stat().st_size / 1e6
        typer.echo(f"{name} ({size:.1f} MB)\n  {model.use}\n  {model.terms}")


@_command("", extra="report")
def datasets() -> None:
    """List the public data sets that audit and prepare read."""
    from agelens.data.datasets import DATASETS

    for name, adapter in DATASETS.items():
        typer.echo(f"{name}: {(sys.modules[adapter.__module__].__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
