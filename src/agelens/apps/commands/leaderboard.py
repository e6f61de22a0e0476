"""agelens leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table
from agelens.apps.options import Engine, Jobs, RayAddress, TrainingEngine

__all__ = ["leaderboard"]


@command("run the command again to continue", extra="train")
def leaderboard(
    suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or a TOML file.")],
    data: Annotated[Path, typer.Option(help="Manifest that prepare wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")],
    split: Annotated[str, typer.Option(help="Rows that are evaluated.")] = "test",
    start: Annotated[
        str, typer.Option(help="Weights that every system starts from, as for train: a run or a file.")
    ] = "",
    jobs: Jobs = None,
    engine: TrainingEngine = Engine.local,
    ray_address: RayAddress = None,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Time the models.")] = True,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no accelerator.")] = False,
) -> None:
    """Train a suite of systems on equal terms and compare them; run again after a kill, it continues."""
    from agelens.apps.training_progress import RichReporter
    from agelens.experiments.leaderboard import Suite
    from agelens.experiments.leaderboard import leaderboard as train_suite
    from agelens.reports.leaderboard import leaderboard_rows, write_leaderboard

    def announce(number: int, total: int, name: str, left: float | None) -> None:
        remaining = "" if left is None else f", about {left / 60:.0f} min left"
        typer.echo(f"training {number} of {total}: {name}{remaining}", err=True)

    selected = Suite.load(suite)
    if start:
        selected = selected.model_copy(update={"start": start})
    with RichReporter() as reporter:
        table = train_suite(
            selected,
            data,
            out,
            split=split,
            latency=latency,
            reporter=reporter,
            announce=announce,
            cpu=cpu,
            jobs=jobs,
            engine=engine.value,
            ray_address=ray_address,
        )
    write_leaderboard(table, out)
    shown = ("system", "MAE", "CA(5)", "difference of MAE", "verdict", "parameters", "latency [ms]")
    print_table(shown, [tuple(row[name] for name in shown) for row in leaderboard_rows(table)])
    for name, error in table.failed:
        typer.echo(f"{name} could not be trained: {error}", err=True)
    typer.echo(f"wrote {out / 'leaderboard.csv'}, and the same as .md, .json and .html")
