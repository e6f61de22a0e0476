"""agelens calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table

__all__ = ["calibrate"]


@command("nothing was written", extra="train")
def calibrate(
    model: Annotated[str, typer.Argument(help="Model file (.onnx), or the name of a shipped model.")],
    data: Annotated[
        Path,
        typer.Option(help="Manifest of aligned crops like your photographs: the intervals hold for these."),
    ],
    out: Annotated[Path, typer.Option(help="Model file to write (.onnx).")],
    other: Annotated[
        list[Path] | None,
        typer.Option(help="Manifest of aligned crops of another kind. May be repeated."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Rows to use, on which the model was not trained; all for every row.")
    ] = "val",
) -> None:
    """Calibrate a model file anew; the age estimates do not change.

    Intervals cover 90 % on the faces of --data. On soft, grey, noisy or dark pictures they grow, as degraded
    copies of all the crops need it, and probabilities P(age >= T) lean less to the ages common in the data.
    """
    from agelens.export.calibrate import calibrate as calibrate_model

    card, groups = calibrate_model(model, data, out, others=other or [], split=split)
    header = ("faces", "images", "coverage(90%) before", "after", "width, years, before", "after")
    rows = [
        (
            group.manifest + (", degraded" if group.degraded else ""),
            str(group.faces),
            f"{100 * group.coverage_before:.1f} %",
            f"{100 * group.coverage_after:.1f} %",
            f"{group.width_before:.1f}",
            f"{group.width_after:.1f}",
        )
        for group in groups
    ]
    print_table(header, rows)
    typer.echo(f"wrote {out}; the figures are of the faces it was fitted on: agelens evaluate tells the rest")
    if use := card.licence.get("use"):
        typer.echo(f"terms: {use}")
