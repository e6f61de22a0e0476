"""agelens video, agelens video-report."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from agelens.apps.command import command, fail, output, print_table
from agelens.apps.options import Level, Model, Threshold
from agelens.errors import InputError
from agelens.faces.default_detector import DEFAULT_DETECTOR

if TYPE_CHECKING:
    from agelens.video.clips import ClipTask
    from agelens.video.rows import Clip, RowFormat
    from agelens.video.steadiness import YawBin

__all__ = ["video", "video_report"]


class Rows(StrEnum):
    """Formats of the rows."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"


@command("files that were finished are whole", extra="video")
def video(
    clips: Annotated[
        list[str], typer.Argument(help="Clips of any form that FFmpeg reads, /dev/video0, or - for stdin.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for people.csv and the files below.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Look only at every such frame.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(help="Leave each clip, or a camera, after this time.")
    ] = None,
    frames: Annotated[
        bool,
        typer.Option(
            "--frames",
            help="Write a row a person and frame; without --out these rows, as they come, and no others.",
        ),
    ] = False,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Write a copy of each clip with boxes and ages, without sound.")
    ] = False,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Draw the ages of each clip over time (SVG).")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the clips that are done, and go on after them.")
    ] = False,
    rows_format: Annotated[
        Rows | None, typer.Option("--format", help="Form of the rows. [csv with --out, else table]")
    ] = None,
    model: Model = None,
    threshold: Threshold = 18,
    level: Level = 0.9,
    detector: Annotated[
        str, typer.Option(help="yunet-onet, mtcnn, yunet, haar, or one of a plug-in.")
    ] = DEFAULT_DETECTOR,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the networks, at most the cores.")] = 1,
) -> None:
    """Estimate one steady age for every person in clips, over all their frames.

    A clip that cannot be read is a row with its error, and the exit code is 1 at the end; so it is for a clip
    that breaks off, whose people up to there are kept. A clip without a face is a row too, and no failure.
    """
    from agelens.inference.estimator import AgeEstimator
    from agelens.video.clips import ClipTask
    from agelens.video.rows import FRAME_COLUMNS, PERSON_COLUMNS, RowFormat

    if not math.isfinite(threshold):
        raise InputError(f"a threshold is a number of years, not {threshold}")
    if out is None and (annotate or timeline or resume):
        raise InputError("--annotate, --timeline and --resume need --out FOLDER")
    if resume and "-" in clips:
        raise InputError("--resume needs clips that are files")
    selected = (rows_format or (Rows.table if out is None else Rows.csv)).value
    if out is not None and selected == Rows.table:
        raise InputError("--out writes csv or jsonl; a table is printed without it")
    task = ClipTask(
        AgeEstimator(model, detector=detector, threads=threads),
        every,
        seconds,
        level,
        threshold,
        out,
        selected if frames and out is not None else None,
        annotate=annotate,
        timeline=timeline,
    )
    form = RowFormat(selected, FRAME_COLUMNS if frames and out is None else PERSON_COLUMNS)
    if out is None:
        with output(None) as handle:

            def write(text: str) -> None:
                handle.write(text)
                handle.flush()

            write(form.head)
            if frames:
                task = replace(task, show=lambda rows: write(form.text(rows)))
            failed = 0
            for clip in _clips(clips, task):
                if not frames:
                    write(_text(clip, task, form))
                failed += bool(clip.error or clip.broken)
    else:
        failed = _to_folder(clips, task, form, out / f"people.{selected}", resume=resume)
    if failed:
        fail(f"{failed} of {len(clips)} clips could not be read, or not to their end", 1)


def _clips(sources: list[str], task: ClipTask) -> Iterator[Clip]:
    """Estimate clip after clip, with a line on stderr for each."""
    from agelens.apps.progress import progress_bar
    from agelens.inference.writers import visible

    for source in sources:
        stream: str | IO[bytes] = sys.stdin.buffer if source == "-" else source
        started = time.monotonic()
        with progress_bar("frames", visible(Path(source).name)) as report:
            clip = task.run(stream, report)
        speed = clip.frames / max(time.monotonic() - started, 1e-6)
        told = [f"{clip.frames} frames, {len(clip.people)} people, {speed:.1f} frames/s", *clip.remarks]
        typer.echo(f"{visible(source)}: {clip.error or '; '.join(told)}", err=True)
        yield clip


def _text(clip: Clip, task: ClipTask, form: RowFormat) -> str:
    from agelens.video.rows import person_rows

    return form.text(person_rows(clip, level=task.level, threshold=task.threshold))


def _to_folder(clips: list[str], task: ClipTask, form: RowFormat, path: Path, *, resume: bool) -> int:
    """Write the rows of all clips; with ``resume`` from a journal beside them. Returns how many failed."""
    from agelens.inference.entries import Entry
    from agelens.inference.journal import PredictionJournal
    from agelens.inference.tally import Tally

    if not resume:
        with output(path) as handle:
            handle.write(form.head)
            failed = 0
            for clip in _clips(clips, task):
                handle.write(_text(clip, task, form))
                failed += bool(clip.error or clip.broken)
        return failed
    journal = PredictionJournal(path, _agreed(task))
    try:
        for clip in _clips([name for name in clips if name not in journal.done], task):
            tally = Tally(1, len(clip.people), int(not clip.people), int(bool(clip.error or clip.broken)))
            journal.add(Entry(clip.path, _text(clip, task, form), tally))
    except KeyboardInterrupt:
        journal.close(remove=False)
        fail(f"interrupted; {len(journal.done)} clips are kept in {journal.path}: --resume goes on", 130)
    tally = Tally()
    with output(path) as handle:
        handle.write(form.head)
        for entry in journal.entries(clips):
            handle.write(entry.text)
            tally.add(entry.tally)
    journal.close(remove=True)
    return tally.failed


def _agreed(task: ClipTask) -> dict[str, Any]:
    """Settings that a resumed run must agree with."""
    return {
        "model": task.estimator.card.digest,
        "detector": task.estimator.detector.name,
        **{name: getattr(task, name) for name in ("every", "seconds", "level", "threshold", "frames")},
        **{name: getattr(task, name) for name in ("annotate", "timeline")},
    }


@command("")
def video_report(
    tables: Annotated[
        list[Path],
        typer.Argument(
            help="A system each: the folder of agelens video --frames, or a table of its frames, or another "
            "system's path,age."
        ),
    ],
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print how steady ages are from frame to frame, and how they change as faces turn.

    Frame noise is the mean absolute deviation of a person's ages over a clip, as in NIST's evaluations, its
    mean over people. The columns of the yaw are the change of the age against the same people's frames that
    look ahead (below 10 degrees), years, with its 95 % interval and the number of people.
    """
    from agelens.files import write_atomically
    from agelens.video.steadiness import read_frames, steadiness

    found = steadiness([read_frames(path) for path in tables])
    limits = next((system.yaw for system in found if system.yaw), ())
    header = (
        *("table", "people", "frames", "frame noise", "as shown"),
        *(f"yaw {group.low:.0f}-{group.high:.0f}" for group in limits[1:]),
    )
    rows = []
    for system in found:
        shown = "" if system.shown_deviation is None else f"{system.shown_deviation:.2f}"
        turned = [_change(group) for group in system.yaw[1:]]
        turned += [""] * (len(header) - 5 - len(turned))
        cells = (system.name, str(system.people), str(system.frames), f"{system.deviation:.2f}", shown)
        rows.append((*cells, *turned))
    print_table(header, rows)
    if json_ is not None:
        with write_atomically(json_) as temporary:
            told = [{name: _finite(value) for name, value in system.to_dict().items()} for system in found]
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _change(group: YawBin) -> str:
    """The change of a range of the yaw, as a cell."""
    if not group.people:
        return ""
    margin = f" ± {group.margin:.2f}" if math.isfinite(group.margin) else ""
    return f"{group.change:+.2f}{margin} ({group.people})"


def _finite(value: Any) -> Any:
    """A value of JSON, with null for a figure of nobody."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return value
