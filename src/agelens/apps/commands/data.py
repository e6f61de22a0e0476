"""agelens audit, agelens prepare, agelens datasets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, output, print_table
from agelens.errors import InputError

__all__ = ["audit", "datasets", "prepare"]


@command("nothing was written", extra="report")
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
    print_table(
        ("finding", "number", "meaning"),
        [(kind, str(number), KINDS[kind]) for kind, number in found.counts.items()],
    )
    for name, counts in {"age": found.ages, **found.groups}.items():
        if not counts:
            continue
        typer.echo(f"{name}: " + ", ".join(f"{value or 'none'} {number}" for value, number in counts.items()))
    if out is not None:
        with output(out) as handle:
            found.to_frame().to_csv(handle, index=False, lineterminator="\n")
    if json_ is not None:
        with output(json_) as handle:
            json.dump(found.to_dict(), handle, indent=2)


@command("what is finished is kept: run again to go on", extra="report")
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


@command("", extra="report")
def datasets() -> None:
    """List the public data sets that audit and prepare read."""
    from agelens.data.datasets import DATASETS

    for name, adapter in DATASETS.items():
        typer.echo(f"{name}: {(sys.modules[adapter.__module__].__doc__ or '').splitlines()[0]}")
