"""agelens explain."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, fail

__all__ = ["explain"]


class Maps(StrEnum):
    """Kinds of maps."""

    cam = "cam"
    gradcam = "gradcam"
    integrated_gradients = "integrated-gradients"
    occlusion = "occlusion"


@command("figures that are written are kept", extra="report")
def explain(
    system: Annotated[str, typer.Argument(help="Run (all its generations) or model.")],
    images: Annotated[list[str], typer.Argument(help="Photos, folders (with all below them) or patterns.")],
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
    detector: Annotated[str, typer.Option(help="mtcnn, haar, yunet, none, or one of a plug-in.")] = "mtcnn",
    figures: Annotated[int, typer.Option(min=0, help="Most faces with a figure of their own.")] = 24,
) -> None:
    """Show where a system looks and how its distribution evolves over generations (LRN Figs. 3 and 4).

    Several faces also get mean maps by age group.
    """
    from agelens.apps.progress import progress_bar
    from agelens.explanation.explain import explain as explain_faces
    from agelens.explanation.explain import face_crops
    from agelens.explanation.explainers import open_explainer
    from agelens.faces.crops import ImageKind
    from agelens.faces.detectors import make_detector
    from agelens.faces.image_files import find_images
    from agelens.reports.explanation import write_explanation

    kind = ImageKind.of(crops=crops, aligned=aligned)
    paths = list(find_images(images))
    explainer = open_explainer(system, maps.value, age)
    failed: list[tuple[str, str]] = []
    with progress_bar("faces") as report:
        found = explain_faces(
            face_crops(
                paths,
                explainer.geometry,
                lambda: make_detector(detector),
                kind,
                failed,
            ),
            explainer,
            system=explainer.name,
            kind=maps.value,
            shown=figures,
            failed=failed,
            progress=lambda done: report(done, len(paths)),
        )
    pictures = write_explanation(found, out)
    for face in found.faces:
        ages = ", ".join(f"{stage} {years:.1f}" for stage, years in zip(found.stages, face.ages, strict=True))
        typer.echo(f"{face.face.path}, face {face.face.number}: {ages}")
    for group in found.means:
        typer.echo(f"{group.group}: {group.count} faces")
    typer.echo(f"wrote {out / 'explanation.html'} and {len(pictures)} pictures")
    if failed:
        for path, reason in failed[:5]:
            typer.echo(f"{path}: {reason}", err=True)
        fail(f"{len(failed)} of {len(paths)} images could not be used", 1)
