"""agelens ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command
from agelens.errors import InputError

__all__ = ["ensemble"]


@command("nothing was written", extra="train")
def ensemble(
    models: Annotated[
        list[str], typer.Argument(help="Two or more model files (.onnx), or names of shipped models.")
    ],
    data: Annotated[
        Path, typer.Option(help="Manifest of aligned crops that no model was trained on, to calibrate on.")
    ],
    out: Annotated[Path, typer.Option(help="Model file to write (.onnx).")],
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over the mirror image, too; one model suffices then.")
    ] = False,
    adjust: Annotated[
        bool,
        typer.Option(
            "--adjust",
            help="Take the prior over the training rows' ages out of the age, as far as it costs nothing.",
        ),
    ] = False,
    shares: Annotated[
        str | None,
        typer.Option(help="Weight of each model's answers, e.g. 2,1. [all alike]"),
    ] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Average the weights, not the answers: of networks fine-tuned from the same weights.",
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the model. [that of the file]")] = None,
    split: Annotated[str, typer.Option(help="Rows to calibrate on; all for every row.")] = "val",
) -> None:
    """Write one model file that answers with the mean of several, or of a face and its mirror image.

    Networks that err differently err less together; the file takes the time of all. It permits what all of
    them permit. With --weights it takes the time of one.
    """
    if weights:
        from agelens.export.weight_average import average_weights

        if mirror or adjust or shares is not None:
            raise InputError(
                "--weights averages weights, all alike: --mirror, --adjust and --shares are for answers"
            )
        written = average_weights(models, data, out, name=name, split=split)
        card = written.card
        answer = f"the mean of the weights of {len(models)} models"
        answer += f"; mean error on {split} {written.error:.3f} years, theirs "
        answer += ", ".join(f"{error:.3f}" for error in written.errors)
        if written.error > max(written.errors):
            answer += "; it errs more than each of them: were they fine-tuned from the same weights?"
    else:
        from agelens.export.ensemble import ensemble as ensemble_models

        card = ensemble_models(
            models,
            data,
            out,
            mirror=mirror,
            adjust=adjust,
            shares=None if shares is None else _numbers(shares),
            name=name,
            split=split,
        )
        answer = str(card.decoding["age"])
    typer.echo(f"wrote {out}: {answer}")
    if use := card.licence.get("use"):
        typer.echo(f"terms: {use}")


def _numbers(shares: str) -> list[float]:
    try:
        return [float(part) for part in shares.split(",")]
    except ValueError as error:
        raise InputError(
            f"--shares must be numbers with commas between them, like 2,1: not {shares!r}"
        ) from error
