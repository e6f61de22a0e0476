"""Options that commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["Engine", "Jobs", "Level", "Model", "RayAddress", "Threshold", "TrainingEngine"]


class Engine(StrEnum):
    """The engines that run an estimator or trainings."""

    local = "local"
    ray = "ray"


Model = Annotated[str | None, typer.Option(help="Shipped model (agelens models) or model file.")]
Threshold = Annotated[float, typer.Option(help="Years for the probability of being that old.")]
Level = Annotated[float, typer.Option(min=0.01, max=0.99, help="Coverage of the interval low ... high.")]

RayAddress = Annotated[
    str | None, typer.Option(help="HOST:PORT or auto. [a cluster of this machine, for the call]")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trainings at a time, each with its share of the cores and one accelerator. "
        "[1; by the engine ray one for each accelerator, or for each machine]",
    ),
]
TrainingEngine = Annotated[
    Engine,
    typer.Option(
        help="ray: trainings are tasks of a Ray cluster, whose machines share the folders; the same command "
        "goes on where one was stopped."
    ),
]
