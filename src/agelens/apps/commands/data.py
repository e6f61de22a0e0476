"""agelens audit, prepare, join, datasets, protocols, split."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agelens.apps.command import command, output, print_table
from agelens.data.columns import SPLITS
from agelens.errors import InputError
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.files import refuse_to_overwrite
from agelens.reading import parse_toml
from agelens.rehearsal import cut_side

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["audit", "datasets", "join", "prepare", "protocols", "split"]


@command("nothing was written", extra="report")
def audit(
    source: Annotated[str, typer.Argument(help="Manifest, folder of images, or name of a data set.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of the data set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write every finding to this CSV file.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Folder for a figure of the ages, also sorted from head to tail (LAE Fig. 1)."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Reading threads. [default: one per processor]")] = None,
) -> None:
    """Report faults of labelled images.

    Unreadable files, impossible ages, copies, copies with different ages, people on both sides of a split.
    """
    from agelens.apps.progress import progress_bar
    from agelens.data.audit import KINDS
    from agelens.data.audit import audit as audit_images

    with progress_bar("images") as report:
        if folder is None:
            audited = audit_images(source, workers=workers, progress=report)
        else:
            audited = audit_images(folder, dataset=source, workers=workers, progress=report)
    typer.echo(f"{audited.source}: {audited.images} images, {len(audited.findings)} findings")
    print_table(
        ("finding", "number", "meaning"),
        [(kind, str(number), KINDS[kind]) for kind, number in audited.counts.items()],
    )
    for name, counts in {"age": audited.ages, "age band": audited.bands, **audited.groups}.items():
        if not counts:
            continue
        typer.echo(f"{name}: " + ", ".join(f"{value or 'none'} {number}" for value, number in counts.items()))
    if out is not None:
        with output(out) as handle:
            audited.to_frame().to_csv(handle, index=False, lineterminator="\n")
    if json_ is not None:
        with output(json_) as handle:
            json.dump(audited.to_dict(), handle, indent=2)
    if plot is not None:
        from agelens.reports.ages import age_histogram
        from agelens.reports.page import plot_style, write_figure

        with plot_style():
            figure = age_histogram(audited.years, f"{audited.source}: {sum(audited.years.values()):,} images")
        write_figure(figure, plot, "ages")
        typer.echo(f"wrote {plot / 'ages.png'} and {plot / 'ages.svg'}")


@command("finished images are kept: run the command again to continue", extra="report")
def prepare(
    source: Annotated[str, typer.Argument(help="Manifest, or name of a data set (agelens datasets).")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of the data set.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for crops and their manifest.")],
    chips: Annotated[
        bool | None,
        typer.Option(
            "--chips/--photos",
            help="Images are cut to one face, or whole photos. [default: as the data set declares]",
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the crops in pixels.")] = 128,
    geometry: Annotated[
        str,
        typer.Option(help="Position of the face in the crop: agelens-v1, or arcface for identity networks."),
    ] = "agelens-v1",
    detector: Annotated[
        str, typer.Option(help="yunet-onet, mtcnn, yunet, haar, none, or one of a plug-in.")
    ] = DEFAULT_DETECTOR,
    detector_model: Annotated[Path | None, typer.Option(help="Another network file for yunet.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the data set: label=apparent. May be repeated."),
    ] = None,
) -> None:
    """Detect, align and crop the faces of a manifest, and write a manifest of the crops.

    Run again after an interruption, it continues where it stopped.
    """
    from agelens.apps.progress import progress_bar
    from agelens.data.adapt import read_dataset
    from agelens.data.datasets import data_set
    from agelens.data.manifest import read_manifest
    from agelens.data.prepare import prepare as prepare_crops
    from agelens.faces.alignment import GEOMETRIES

    if geometry not in GEOMETRIES:
        raise InputError(f"no geometry {geometry!r}; there are {', '.join(GEOMETRIES)}")
    settings = dict(_setting(text) for text in set_ or ())
    if folder is None:
        if settings:
            raise InputError("--set is for a data set's adapter; a manifest needs no setting")
        table = read_manifest(source, ages=False)
    else:
        with progress_bar("images", "labels") as report:
            table = read_dataset(source, folder, settings, workers=workers, progress=report)
        _tell_findings(table, out / "findings.csv")
    with progress_bar("images", "crops") as report:
        summary = prepare_crops(
            table,
            out,
            detector=detector,
            detector_settings={"model": detector_model} if detector_model else None,
            geometry=GEOMETRIES[geometry].with_size(cut_side(size)),
            chips=(folder is not None and data_set(source).chips) if chips is None else chips,
            workers=workers,
            progress=report,
        )
    typer.echo(
        f"{summary.images} images ({summary.resumed} done before): aligned by landmarks {summary.landmarks}, "
        f"by eyes {summary.eyes}, fallback {summary.fallback}; no face {summary.no_face}, "
        f"unreadable {summary.failed}"
    )
    if summary.split is not None:
        parts = ", ".join(f"{summary.split.get(side, 0)} {side}" for side in SPLITS)
        typer.echo(
            f"split by {'person' if summary.by_person else 'content'}, 80/10/10: {parts}, "
            f"{summary.split.get('', 0)} not used (copies; see note); "
            "agelens split --protocol makes another"
        )
    typer.echo(f"wrote {out / 'manifest.csv'} and {out / 'failures.csv'}")


@command("nothing was written", extra="report")
def join(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests that prepare wrote, of one geometry.")],
    out: Annotated[Path, typer.Option(help="Manifest to write (.csv or .parquet).")],
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Manifest whose test images must not be in the union. May be repeated."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Reading threads. [default: one per processor]")] = None,
) -> None:
    """Join prepared data sets into one manifest, without copies and without another set's test images."""
    from agelens.apps.progress import progress_bar
    from agelens.data.join import join as join_manifests
    from agelens.data.manifest import read_manifest, write_manifest

    refuse_to_overwrite(out, [*manifests, *(exclude or ())])
    tables = [read_manifest(path, ages=False) for path in manifests]
    excluded = [read_manifest(path, ages=False) for path in exclude or ()]
    with progress_bar("images", "crops") as report:
        joined = join_manifests(tables, excluded=excluded, workers=workers, progress=report)
    write_manifest(joined.table, out)
    for line in joined.lines():
        typer.echo(line)
    typer.echo(f"wrote {out}")


def _setting(text: str) -> tuple[str, Any]:
    """Split ``key=value``; a value that is not TOML is text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set must read key=value (value: {text!r})")
    try:
        return key, parse_toml(f"value = {value}")["value"]
    except ValueError:
        return key, value


def _tell_findings(table: pd.DataFrame, path: Path) -> None:
    """Print a summary of an adapter's findings, and write all of them to a file."""
    findings = table.attrs.pop("problems", [])
    if not findings:
        return
    with output(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("kind", "images", "paths", "detail"))
        writer.writerows((f.kind, len(f.paths), " | ".join(f.paths), f.detail) for f in findings)
    typer.echo(f"{len(table)} images; {len(findings)} findings, all of them in {path}:")
    first = {finding.kind: finding for finding in reversed(findings)}
    counts = Counter(finding.kind for finding in findings)
    rows = [(kind, str(counts[kind]), f"{f.paths[0]}: {f.detail}") for kind, f in first.items()]
    print_table(("finding", "number", "the first"), sorted(rows))


@command("")
def datasets(
    name: Annotated[
        str | None, typer.Argument(help="A data set to describe: owner, terms, expected layout.")
    ] = None,
) -> None:
    """List the data sets that audit and prepare read, or describe one."""
    from agelens.data.datasets import DATASETS, dataset_guide, dataset_settings
    from agelens.plugins import available

    if name is None:
        for each in available("datasets", DATASETS):
            typer.echo(f"{each}: {dataset_guide(each).splitlines()[0]}")
        return
    typer.echo(dataset_guide(name))
    settings = dataset_settings(name)
    if settings:
        typer.echo("\nSettings of agelens prepare, with their defaults:")
        for key, value in settings.items():
            typer.echo(f"  --set {key}={'' if value is None else json.dumps(value)}")


@command("")
def protocols() -> None:
    """List the evaluation protocols that split and train know."""
    from agelens.data.protocols import load_protocol, protocol_names

    rows = [(name, load_protocol(name).dataset, load_protocol(name).title) for name in protocol_names()]
    rows += [
        ("subject-K-fold", "any", "K folds by person, for any data with subjects (subject-5-fold)"),
        ("image-K-fold", "any", "K folds by content (image-10-fold)"),
    ]
    print_table(("protocol", "data set", "what it does"), rows)


@command("nothing was written", extra="report")
def split(
    manifest: Annotated[Path, typer.Argument(help="Manifest that prepare wrote.")],
    protocol: Annotated[str, typer.Option(help="Name of a protocol (agelens protocols).")],
    out: Annotated[
        Path,
        typer.Option(
            help="Manifest to write, best beside the crops and their geometry.json; several folds: a folder."
        ),
    ],
    fold: Annotated[int | None, typer.Option(min=1, help="Write this fold only, to the file --out.")] = None,
) -> None:
    """Write a protocol's train, val and test into a manifest: one file a fold."""
    from agelens.data.manifest import read_manifest, write_manifest
    from agelens.data.protocol_split import apply_protocol
    from agelens.data.protocols import load_protocol

    applied = apply_protocol(read_manifest(manifest), load_protocol(protocol))
    if fold is not None and fold > len(applied.folds):
        raise InputError(f"--fold {fold}: {protocol} has {len(applied.folds)} folds here")
    selected = applied.folds if fold is None else applied.folds[fold - 1 : fold]
    is_file = out.suffix.lower() in (".csv", ".parquet")
    if is_file and len(selected) > 1:
        raise InputError(f"--out {out}: {len(selected)} folds go to a folder; --fold writes one to a file")
    if not is_file and len(selected) == 1:
        raise InputError(f"--out {out}: one fold goes to a file that ends in .csv or .parquet")
    for line in applied.lines():
        typer.echo(line)
    for each in selected:
        path = out if len(selected) == 1 else out / f"{each.name}.csv"
        write_manifest(applied.fold_manifest(each), path)
        typer.echo(f"wrote {path} ({each.held_out} tests)")
