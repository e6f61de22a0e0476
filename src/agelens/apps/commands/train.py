"""agelens train, export, generations, ladder, tradeoff, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table

__all__ = ["export", "generations", "ladder", "tradeoff", "train", "verify"]


@command("run the command again with --resume to continue", extra="train")
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a TOML file.")],
    data: Annotated[Path, typer.Option(help="Manifest that prepare wrote.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="Pre-trained weights: a run, a model (a name), or a backbone's safetensors file."),
    ] = None,
    random_start: Annotated[
        bool, typer.Option("--random-start", help="Train without the start that the recipe needs.")
    ] = False,
    select: Annotated[
        str | None,
        typer.Option(help="Criterion of the best epoch and stage on the validation split: mae, aar or band."),
    ] = None,
    finish: Annotated[
        str | None,
        typer.Option(
            help="Stage after the method's own: balanced or logit-adjusted; with --resume also on a finished "
            "run."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value: train.epochs=3. May be repeated.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no accelerator.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the decoded crops; default: .crops beside the manifest.")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Finished run, shipped model or model file that teaches. May be repeated."),
    ] = None,
    teacher_weight: Annotated[
        list[float] | None, typer.Option(help="Weight of each teacher, in their order; default: equal.")
    ] = None,
    ranker: Annotated[Path | None, typer.Option(help="Finished run whose ranker provides the hints.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Backbone of the student, e.g. student-strided.")
    ] = None,
    allow_restricted: Annotated[
        bool,
        typer.Option(
            "--allow-restricted",
            help="Accept a start or teacher for research only although the images permit any use.",
        ),
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(help="Train and test all folds of a protocol (agelens protocols) and pool them."),
    ] = None,
) -> None:
    """Train by a recipe. Over several devices: torchrun --nproc-per-node N -m agelens train ..."""
    from agelens.apps.training_progress import RichReporter
    from agelens.experiments.teaching import teacher_path
    from agelens.experiments.train import train as train_recipe
    from agelens.methods.ordinal_dark import distillation_settings
    from agelens.training.recipe import Recipe
    from agelens.training.run import warning_of

    options = {
        "select": select,
        "finish.name": finish,
        "card.allow_restricted": "true" if allow_restricted else None,
    }
    selected = [f"{key}={value}" for key, value in options.items() if value is not None]
    named = distillation_settings(
        [teacher_path(name) for name in teacher or ()], teacher_weight or (), ranker, student
    )
    settings = Recipe.load(recipe, [*(set_ or ()), *selected, *named])
    if protocol is not None:
        from agelens.experiments.folds import train_folds

        with RichReporter() as reporter:
            result = train_folds(
                settings,
                data,
                out,
                protocol,
                resume=resume,
                start=start,
                random_start=random_start,
                reporter=reporter,
                note=typer.echo,
                cache=cache,
                cpu=cpu,
            )
        typer.echo(result.line())
        typer.echo(f"wrote {out / 'predictions.csv'}, {out / 'folds.csv'} and {out / 'pooled.json'}")
        return
    with RichReporter() as reporter:
        run = train_recipe(
            settings,
            data,
            out,
            resume=resume,
            start=start,
            random_start=random_start,
            reporter=reporter,
            cache=cache,
            cpu=cpu,
        )
    typer.echo(f"finished {', '.join(run.finished_stages())} in {run.path}")
    for stage in run.finished_stages():
        if warning := warning_of(run, stage):
            typer.echo(f"warning: {stage} is of no use: {warning}", err=True)


@command("nothing was written", extra="train")
def export(
    run: Annotated[Path, typer.Argument(help="Finished run.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.onnx).")],
    stage: Annotated[
        str | None, typer.Option(help="Stage to export; default: the best on the validation split.")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help="Criterion of the best stage: mae, aar or band. [default: as the run was trained]"),
    ] = None,
    regression: Annotated[
        Path | None, typer.Option(help="Run whose regressed age is averaged with this run's distribution.")
    ] = None,
    mirror: Annotated[
        Path | None,
        typer.Option(
            help="The run's manifest: export the form that also sees the mirror image, at twice the time."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the recipe's.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights in 16 bits.")] = False,
) -> None:
    """Write a trained network as one self-describing model file, calibrated on the validation split."""
    from agelens.export.from_run import export_run

    card = export_run(
        run, out, stage=stage, select=select, regression=regression, mirror=mirror, name=name, half=half
    )
    typer.echo(f"wrote {out}: {card.name}, {out.stat().st_size / 1e6:.2f} MB")
    if warning := card.provenance.get("warning"):
        typer.echo(f"warning: the model is of no use: {warning}", err=True)


@command("", extra="train")
def generations(
    runs: Annotated[list[Path], typer.Argument(help="Runs; the first one's first stage is the reference.")],
    data: Annotated[Path, typer.Option(help="Manifest of aligned crops.")],
    split: Annotated[str, typer.Option(help="Rows to evaluate on.")] = "test",
) -> None:
    """Compare all stages of runs, head by head, with paired intervals (LRN Tables 7 and 8)."""
    from agelens.experiments.generations import generation_table

    table = generation_table(runs, data, split)
    header = ("run", "stage", "estimate", *table[0].figures, "difference of MAE [95 %]")
    lines = []
    for row in table:
        figures = (f"{value:.3f}" if "MAE" in name else f"{value:.1f}" for name, value in row.figures.items())
        difference = "" if row.difference is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row.difference)
        lines.append((row.run, row.stage, row.estimate, *figures, difference))
    print_table(header, lines)


@command("run the command again to continue", extra="train")
def ladder(
    recipe: Annotated[str, typer.Argument(help="Recipe that offers tricks, such as lae-baseline-s.")],
    data: Annotated[Path, typer.Option(help="Manifest that prepare wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs.")],
    start: Annotated[
        list[str] | None,
        typer.Option(help="Pre-trained weights for a backbone, BACKBONE=PATH. May be repeated."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value in every run: train.epochs=3.")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to evaluate on.")] = "val",
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no accelerator.")] = False,
) -> None:
    """Train a baseline, each trick alone on it, all of them, and the balanced stage (LAE Table 2)."""
    from agelens.apps.training_progress import RichReporter
    from agelens.experiments.ladder import climb, judge_rungs
    from agelens.training.start import starts_by_backbone

    with RichReporter() as reporter:
        runs = climb(
            recipe,
            data,
            out,
            overrides=set_ or (),
            starts=starts_by_backbone(start or ()),
            reporter=reporter,
            note=typer.echo,
            cpu=cpu,
        )
    rows = [row.cells() for row in judge_rungs(runs, data, split)]
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])


@command("nothing was written", extra="train")
def tradeoff(
    run: Annotated[Path, typer.Argument(help="Run with a balanced stage.")],
    out: Annotated[Path | None, typer.Option(help="Write the plot to this file (.svg, .png, .pdf).")] = None,
) -> None:
    """Show the trade-off of the balanced stage by epoch: MAE against the deviation of the groups' MAE."""
    from agelens.experiments.tradeoff import plot_tradeoff
    from agelens.experiments.tradeoff import tradeoff as points_of
    from agelens.training.run import Run

    opened = Run.open(run)
    points = points_of(opened)
    print_table(
        ("epoch", "val MAE", "val σ", "val AAR"),
        [
            ("before" if p.epoch == 0 else str(p.epoch), f"{p.mae:.3f}", f"{p.sigma:.3f}", f"{p.aar:.3f}")
            for p in points
        ],
    )
    if out is not None:
        plot_tradeoff(opened, out)
        typer.echo(f"wrote {out}")


@command("", extra="train")
def verify(
    weights: Annotated[
        Path, typer.Argument(help="Run of identity pre-training, or a safetensors file of a backbone.")
    ],
    data: Annotated[Path, typer.Option(help="Manifest of aligned crops with the column subject.")],
    backbone: Annotated[str, typer.Option(help="Name of the backbone in a bare file.")] = "mobilefacenet",
    split: Annotated[str, typer.Option(help="Rows to evaluate on; all for every row.")] = "val",
    size: Annotated[int, typer.Option(min=32, help="Side of the network's input, pixels.")] = 112,
    folds: Annotated[int, typer.Option(min=2, help="Parts the people are divided into.")] = 10,
) -> None:
    """Verify identity on pairs of faces, with thresholds fitted on other people."""
    from agelens.experiments.verify import verify_weights

    result = verify_weights(weights, data, backbone=backbone, split=split, size=size, folds=folds)
    typer.echo(
        f"accuracy {100 * result.accuracy:.2f} % (deviation over folds {100 * result.deviation:.2f}), "
        f"AUC {result.auc:.4f}, {result.pairs} pairs"
    )
