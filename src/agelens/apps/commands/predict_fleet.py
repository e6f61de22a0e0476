"""agelens predict --engine ray."""

from __future__ import annotations

from typing import Any

import typer

from agelens.apps.command import fail
from agelens.apps.progress import progress_bar

__all__ = ["run_fleet"]


def run_fleet(photos: str, out: str, **options: Any) -> None:
    """Run `agelens.fleet.predict_fleet` with a progress bar, and tell its counts."""
    from agelens.fleet.run import predict_fleet

    scheme, colon, rest = out.partition(":/")
    if colon and len(scheme) > 1 and not rest.startswith("/"):  # a path keeps one slash of an address
        out = f"{scheme}://{rest}"
    with progress_bar("photos") as report:
        result = predict_fleet(photos, out, report=report, **options)
    before = f"; {result.done_before} partitions were done before" if result.done_before else ""
    typer.echo(f"{result.tally}, in {result.partitions} partitions{before}", err=True)
    if result.tally.failed:
        fail(f"{result.tally.failed} of {result.tally.photos} images could not be used", 1)
