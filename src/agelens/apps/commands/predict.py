"""agelens predict, agelens models."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agelens.apps.command import command, fail, output
from agelens.apps.options import Engine, Level, Model, RayAddress, Threshold
from agelens.errors import InputError
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.reading import IMAGE_BYTES, read_at_most

if TYPE_CHECKING:
    from agelens.faces.image import Source
    from agelens.faces.image_files import PassedOver
    from agelens.inference.entries import Entry, PredictionTask
    from agelens.inference.tally import Tally
    from agelens.inference.writers import PredictionFormat

__all__ = ["models", "predict"]

_MANY = 500  # photos from which on starting a process for every core pays
_SHOWN = 10  # passed-over folders that have a line of their own


class Format(StrEnum):
    """Formats of printed predictions."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    spreadsheet = "spreadsheet"


@command("no file was written")
def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders (with their subfolders), patterns, or - for stdin.")
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
    rows_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Default: what --out ends in, else table; spreadsheet: CSV for Excel and others."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; by default, and for -, stdout.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what is done in OUT.partial, and go on from it if it is there."),
    ] = False,
    save_faces: Annotated[
        Path | None, typer.Option(help="Folder for the crop of each face, as the network saw it.")
    ] = None,
    annotate: Annotated[
        Path | None, typer.Option(help="Folder for the photos with boxes and ages drawn in.")
    ] = None,
    model: Model = None,
    threshold: Threshold = 18,
    level: Level = 0.9,
    detector: Annotated[
        str, typer.Option(help="yunet-onet, mtcnn, yunet, haar, none, or one of a plug-in.")
    ] = DEFAULT_DETECTOR,
    detector_model: Annotated[Path | None, typer.Option(help="Another network file for yunet.")] = None,
    min_face: Annotated[
        float | None,
        typer.Option(help="Smallest face in pixels. [40; in more than 5.8 megapixels in proportion]"),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Larger photos are shrunk to this side for the search.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Lowest confidence of a face, 0 to 1. [0.7]")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger images are refused before decoding.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the networks, at most the cores.")] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that share the photos. [all cores from 500 photos on; for fewer, one]"
        ),
    ] = None,
    provider: Annotated[
        str, typer.Option(help="Computes the ages: cpu, or cuda, openvino, coreml of another onnxruntime.")
    ] = "cpu",
    engine: Annotated[
        Engine,
        typer.Option(
            help="ray: workers of a Ray cluster, for one folder, list (.parquet, .txt) or address of photos; "
            "--out is a folder of Parquet files, and the same call goes on where one was stopped."
        ),
    ] = Engine.local,
    ray_address: RayAddress = None,
    partition: Annotated[int, typer.Option(min=1, help="Photos of a file that the engine ray writes.")] = 256,
) -> None:
    """Estimate the age of every face in photos.

    An image that cannot be used is a row with its error, and the exit code is 1 at the end. A photo without a
    face is a row too, and no failure.
    """
    from agelens.cores import usable_cores
    from agelens.faces.image import MAX_PIXELS
    from agelens.inference.entries import PredictionTask
    from agelens.inference.estimator import AgeEstimator
    from agelens.inference.parquet import RowsFormat, require_pyarrow
    from agelens.inference.tally import Tally, endings
    from agelens.inference.writers import FORMATS

    if not math.isfinite(threshold):
        raise InputError(f"a threshold is a number of years, not {threshold}")
    if crops and aligned:
        raise InputError("--crops and --aligned exclude each other")
    if resume and (out is None or str(out) == "-" or "-" in paths):
        raise InputError("--resume needs --out FILE, and photos that are files")
    fleet = engine == Engine.ray
    if fleet and (len(paths) != 1 or out is None or str(out) == "-" or paths == ["-"]):
        raise InputError("--engine ray needs one PATH of photos, and --out FOLDER")
    if fleet and (resume or save_faces or annotate or (rows_format or Format.parquet) != Format.parquet):
        raise InputError(
            "--engine ray writes Parquet and goes on by itself: without --resume, --save-faces, "
            "--annotate and --format"
        )
    selected = Format.parquet.value if fleet else (rows_format or _format_of(out)).value
    if selected == Format.parquet:
        if out is None or str(out) == "-":
            raise InputError("--format parquet needs --out FILE: it is no text to print")
        require_pyarrow()
    sources, passed_over = ([], []) if fleet else _sources(paths)
    if out is not None:
        refuse_to_overwrite(out, [*sources, model])
    searched = {"model": detector_model, "min_face_size": min_face, "max_side": max_side}
    settings = {name: value for name, value in searched.items() if value is not None}
    if min_confidence is not None:
        settings["min_confidence"] = min_confidence
    estimator = AgeEstimator(
        model,
        detector=_detector(detector, threads, settings) if settings else detector,
        threads=threads,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        provider=provider,
    )
    if fleet:
        from agelens.apps.commands.predict_fleet import run_fleet

        named = {"detector": detector, "provider": provider, "max_pixels": str(max_pixels)}
        named |= {name: str(value) for name, value in settings.items()}
        run_fleet(
            paths[0],
            str(out),
            estimator=estimator,
            crops=crops,
            aligned=aligned,
            level=level,
            threshold=threshold,
            partition=partition,
            workers=workers,
            address=ray_address,
            agreed=named,
        )
        return
    if workers is None:
        workers = max(1, usable_cores() // threads) if len(sources) >= _MANY else 1
    made = RowsFormat if selected == Format.parquet else FORMATS[selected]
    form: PredictionFormat = made(level, threshold)
    if selected == Format.table:
        form = FORMATS[selected](level, threshold, [str(source) for source in sources if _is_name(source)])
    tally = Tally()

    task = PredictionTask(estimator, form, crops, aligned, save_faces, annotate, level)
    if resume and out is not None:
        agreed = {"model": estimator.card.digest, "format": selected, "level": level, "threshold": threshold}
        agreed |= {"crops": crops, "aligned": aligned, "detector": detector, "max_pixels": max_pixels}
        agreed["provider"] = provider
        agreed |= {name: str(value) for name, value in settings.items()}
        _resume(sources, task, workers, out, agreed, tally)
    else:
        _write(_texts(task.entries(_shown(sources), workers), tally), form, out)
    failures = [entry for entry in passed_over if entry.failed]
    others = [Path(entry.path) for entry in passed_over if not entry.failed]
    if tally.photos > 1 or others:
        over = f"; passed over: {endings(others)}" if others else ""
        typer.echo(f"{tally}{over}", err=True)
    if tally.failed or failures:
        folders = f", {len(failures)} folders or files could not be searched" if failures else ""
        fail(f"{tally.failed} of {tally.photos} images could not be used{folders}", 1)


def _sources(paths: list[str]) -> tuple[list[Source], list[PassedOver]]:
    """The images that paths, folders and patterns name, and what was passed over, which stderr tells."""
    from agelens.faces.image_files import find_images

    sources: list[Source] = []
    passed_over: list[PassedOver] = []
    for path in paths:
        sources += [_piped()] if path == "-" else find_images([path], passed_over.append)
    failures = [entry for entry in passed_over if entry.failed]
    if not sources and failures:
        raise InputError(f"{failures[0].path}: {failures[0].reason}")
    for entry in failures[:_SHOWN]:
        typer.echo(f"{entry.path}: {entry.reason}", err=True)
    if len(failures) > _SHOWN:
        typer.echo(f"… and {len(failures) - _SHOWN} more", err=True)
    return sources, passed_over


def _piped() -> bytes:
    """The image on stdin."""
    content = read_at_most(sys.stdin.buffer, IMAGE_BYTES + 1)
    if len(content) > IMAGE_BYTES:
        raise InputError(f"-: stdin has more than {IMAGE_BYTES} bytes, no image")
    return content


def _detector(name: str, threads: int, settings: dict[str, Any]) -> Any:
    """A detector with settings, whose errors are in the command line's words."""
    from agelens.faces.detectors import make_detector

    options = {"min_face_size": "--min-face", "max_side": "--max-side", "min_confidence": "--min-confidence"}
    try:
        return make_detector(name, threads=threads, **settings)
    except InputError as error:
        text = str(error)
        for setting, option in options.items():
            text = text.replace(setting, option)
        raise InputError(text) from error


def _is_name(source: Source) -> bool:
    return isinstance(source, str | Path)


def _texts(entries: Iterable[Entry], tally: Tally) -> Iterator[str]:
    for entry in entries:
        tally.add(entry.tally)
        yield entry.text


def _resume(
    sources: list[Source],
    task: PredictionTask,
    workers: int,
    out: Path,
    agreed: dict[str, Any],
    tally: Tally,
) -> None:
    """Go on where the journal beside ``out`` ends, then write ``out`` from it."""
    from agelens.inference.journal import PredictionJournal

    journal = PredictionJournal(out, agreed)
    try:
        pending = [source for source in sources if str(source) not in journal.done]
        for entry in task.entries(_shown(pending), workers):
            journal.add(entry)
    except KeyboardInterrupt:
        journal.close(remove=False)
        fail(f"interrupted; {len(journal.done)} photos are kept in {journal.path}: --resume goes on", 130)
    _write(_texts(journal.entries([str(s) for s in sources]), tally), task.form, out)
    journal.close(remove=True)


def _write(entries: Iterator[str], form: PredictionFormat, out: Path | None) -> None:
    """Write entries to ``out`` or stdout, each as it comes."""
    from agelens.inference.journal import write_entries
    from agelens.inference.parquet import RowsFormat, write_rows

    if isinstance(form, RowsFormat) and out is not None:
        with write_atomically(out) as temporary, open(temporary, "wb") as handle:
            write_rows(entries, handle)
        return
    with output(out) as text:
        write_entries(entries, form, text)


def _format_of(out: Path | None) -> Format:
    """Format of a file by its suffix."""
    formats = {
        ".csv": Format.csv,
        ".json": Format.json,
        ".jsonl": Format.jsonl,
        ".parquet": Format.parquet,
        ".txt": Format.table,
        "": Format.table,
    }
    suffix = "" if out is None else out.suffix.lower()
    if suffix not in formats:
        if suffix in {".xlsx", ".xls", ".ods"}:
            csv = out and out.with_suffix(".csv")
            raise InputError(f"--out {out}: spreadsheets open CSV: --format spreadsheet --out {csv}")
        known = ", ".join(form.value for form in Format)
        raise InputError(f"--out {out}: the suffix is no known format; add --format {known}")
    return formats[suffix]


def _shown(sources: list[Source]) -> Iterator[Source]:
    """Yield the images, with a progress bar if there are several."""
    if len(sources) < 2 or not sys.stderr.isatty():
        yield from sources
        return
    from agelens.apps.progress import progress_bar

    with progress_bar("photos") as report:
        for done, source in enumerate(sources):
            report(done, len(sources))
            yield source


@command("")
def models() -> None:
    """List the shipped models with their use and their terms."""
    from agelens.inference.shipped_models import DEFAULT_MODEL, list_models, model_path

    for name, model in list_models().items():
        size = model_path(name).stat().st_size / 1e6
        role = ", the default" if name == DEFAULT_MODEL else ""
        typer.echo(f"{name} ({size:.2f} MB){role}\n  {model.use}\n  {model.terms}")
