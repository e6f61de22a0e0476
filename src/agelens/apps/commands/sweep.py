"""agelens sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agelens.apps.command import command, print_table
from agelens.apps.options import Engine, Jobs, RayAddress, TrainingEngine
from agelens.errors import InputError

if TYPE_CHECKING:
    from agelens.experiments.sweep import Point

__all__ = ["sweep"]


@command("run the command again to continue", extra="train")
def sweep(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a TOML file.")],
    data: Annotated[Path, typer.Option(help="Manifest that prepare wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs and their tables.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting and its values: tau=1,2,3,4; lambda_1+lambda_t=1,2 ties two. May be repeated."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each point: 0,1,2.")] = "0",
    one_at_a_time: Annotated[
        bool,
        typer.Option(
            "--one-at-a-time", help="Vary one setting, the others as the recipe has them (LRN Table 9)."
        ),
    ] = False,
    split: Annotated[str, typer.Option(help="Rows that are evaluated.")] = "val",
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="Pre-trained weights: a finished run, or BACKBONE=PATH for a backbone. May be repeated."
        ),
    ] = None,
    random_start: Annotated[
        bool, typer.Option("--random-start", help="Train without the start that the recipe needs.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value in all runs: train.epochs=3.")
    ] = None,
    stages: Annotated[
        bool,
        typer.Option("--stages", help="Print every stage and head, not only the estimate of the last stage."),
    ] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no accelerator.")] = False,
    jobs: Jobs = None,
    engine: TrainingEngine = Engine.local,
    ray_address: RayAddress = None,
) -> None:
    """Train a recipe over a grid of settings and seeds; run again after an interruption, it continues.

    Figures are means and standard deviations over seeds.
    """
    from agelens.apps.training_progress import RichReporter
    from agelens.experiments.sweep import plan
    from agelens.experiments.sweep import sweep as sweep_points
    from agelens.training.start import starts_by_backbone

    points = plan(recipe, grid or (), _seeds(seeds), set_ or (), one_at_a_time)

    def announce(number: int, point: Point) -> None:
        typer.echo(f"run {number} of {len(points)}: {point.folder}", err=True)

    with RichReporter() as reporter:
        table = sweep_points(
            points,
            data,
            out,
            split=split,
            starts=starts_by_backbone(start or ()),
            random_start=random_start,
            reporter=reporter,
            announce=announce,
            cpu=cpu,
            jobs=jobs,
            engine=engine.value,
            ray_address=ray_address,
        )
    typer.echo(f"{table.recipe}, split {table.split}: mean ± standard deviation over seeds")
    ranked = table.last_stage("permutations")
    for rows in ([row for row in table.rows if row not in ranked] if stages else table.last_stage(), ranked):
        cells = [row.cells() for row in rows]
        header = tuple(dict.fromkeys(name for row in cells for name in row))
        if rows:
            print_table(header, [tuple(row.get(name, "") for name in header) for row in cells])
    typer.echo(f"wrote {out / 'sweep.csv'}, {out / 'runs.csv'} and {out / 'sweep.json'}")


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds must be whole numbers such as 0,1,2, not {text!r}") from error
