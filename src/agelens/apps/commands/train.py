"""agelens train, agelens export, agelens generations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table

__all__ = ["export", "generations", "train"]


@command("run the command again with --resume to go on", extra="train")
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


@command("nothing was written", extra="train")
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


@command("", extra="train")
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
    print_table(header, lines)
