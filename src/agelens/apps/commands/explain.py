"""agelens explain."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, fail
from agelens.faces.default_detector import DEFAULT_DETECTOR

__all__ = ["explain", "gallery"]


class Shown(StrEnum):
    """Selection of the faces that a gallery shows."""

    random = "random"
    best = "best"
    worst = "worst"


class Maps(StrEnum):
    """Kinds of maps."""

    cam = "cam"
    gradcam = "gradcam"
    integrated_gradients = "integrated-gradients"
    occlusion = "occlusion"


@command("figures that are written are kept", extra="report")
def explain(
    system: Annotated[str, typer.Argument(help="Run (all its generations) or model; NAME=SYSTEM names it.")],
    images: Annotated[list[str], typer.Argument(help="Photos, folders (with their subfolders) or patterns.")],
    out: Annotated[Path, typer.Option(help="Folder for page, JSON and pictures.")],
    maps: Annotated[
        Maps, typer.Option(help="gradcam and integrated-gradients need a run and the extra explain.")
    ] = Maps.cam,
    age: Annotated[
        float | None, typer.Option(help="cam: explain this age instead of the estimated one.")
    ] = None,
    crops: Annotated[bool, typer.Option("--crops", help="The images are face chips.")] = False,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The images are crops in the model's geometry.")
    ] = False,
    detector: Annotated[
        str, typer.Option(help="yunet-onet, mtcnn, yunet, haar, none, or one of a plug-in.")
    ] = DEFAULT_DETECTOR,
    figures: Annotated[int, typer.Option(min=0, help="Maximum number of faces with their own figure.")] = 24,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="Another run or model, NAME=SYSTEM: its distributions stand in a column beside the first "
            "one's (LRN Fig. 3). May be repeated."
        ),
    ] = None,
    rows: Annotated[
        bool,
        typer.Option("--rows", help="Draw rows.png: a row of maps for each folder named (LRN Fig. 4)."),
    ] = False,
) -> None:
    """Show where a system looks and how its distribution evolves over generations (LRN Figs. 3 and 4).

    Several faces also get mean maps by age group.
    """
    from agelens.apps.progress import progress_bar
    from agelens.evaluation.systems import split_name
    from agelens.explanation.explain import explain as explain_faces
    from agelens.explanation.explain import face_crops
    from agelens.explanation.explainers import open_explainer
    from agelens.faces.crops import ImageKind
    from agelens.faces.detectors import make_detector
    from agelens.faces.image_files import find_images
    from agelens.reports.explanation import write_explanation

    kind = ImageKind.of(crops=crops, aligned=aligned)
    named = {str(path): Path(text).name or text for text in images for path in find_images([text])}
    paths = [Path(path) for path in named]
    explanations = []
    for name, source, named_so in map(split_name, [system, *(beside or ())]):
        explainer = open_explainer(source, maps.value, age)
        failed: list[tuple[str, str]] = []
        with progress_bar("images", "faces") as report:
            explanations.append(
                explain_faces(
                    face_crops(paths, explainer.geometry, lambda: make_detector(detector), kind, failed),
                    explainer,
                    system=name if named_so or beside else explainer.name,
                    kind=maps.value,
                    shown=figures,
                    failed=failed,
                    progress=lambda done, report=report: report(done, len(paths)),  # type: ignore[misc]
                )
            )
    explanation, *others = explanations
    pictures = write_explanation(explanation, out, beside=others, rows=named if rows else None)
    for face in explanation.faces:
        ages = ", ".join(
            f"{stage} {years:.1f}" for stage, years in zip(explanation.stages, face.ages, strict=True)
        )
        typer.echo(f"{face.face.path}, face {face.face.number}: {ages}")
    for group in explanation.means:
        typer.echo(f"{group.group}: {group.count} faces")
    typer.echo(f"wrote {out / 'explanation.html'} and {len(pictures)} pictures")
    if failed:
        for path, reason in failed[:5]:
            typer.echo(f"{path}: {reason}", err=True)
        fail(f"{len(failed)} of {len(paths)} images could not be used", 1)


@command("nothing was written", extra="report")
def gallery(
    system: Annotated[str, typer.Argument(help="Model, run, or table of predictions (.csv).")],
    data: Annotated[Path, typer.Option(help="Manifest with the true ages.")],
    out: Annotated[Path, typer.Option(help="Folder for the picture, a table, and the faces by group.")],
    by: Annotated[
        str, typer.Option(help="Grouping as of evaluate: age_band, pose-20, a column; all for one row.")
    ] = "age_band",
    each: Annotated[int, typer.Option(min=1, help="Maximum number of faces of a group.")] = 6,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    show: Annotated[
        Shown, typer.Option(help="Random faces, or those with the smallest or largest errors.")
    ] = Shown.random,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random draw.")] = 0,
    originals: Annotated[
        bool, typer.Option("--originals", help="Show above each crop the photo it was cut from (LAE Fig. 2).")
    ] = False,
) -> None:
    """Draw faces of every group with label and estimate (LRN Fig. 5, LAE Fig. 2).

    The faces are also copied, a folder a group, as explain takes them.
    """
    from agelens.apps.progress import progress_bar
    from agelens.evaluation.evaluate import evaluate_system
    from agelens.evaluation.gallery import choose_faces
    from agelens.reports.gallery import write_gallery

    with progress_bar("images") as report:
        evaluation = evaluate_system(system, data, split, by=(), allow_missing=True, progress=report)
    rows = choose_faces(evaluation, by, each, show.value, seed)
    picture = write_gallery(evaluation, rows, out, originals=originals)
    for row in rows:
        typer.echo(f"{row.group}: {len(row.selected)} of {row.count} faces")
    typer.echo(f"wrote {picture}; these are pictures of people: they stay where the data set's terms allow")
