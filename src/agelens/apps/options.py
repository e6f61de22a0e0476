"""Options that estimating commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Level", "Model", "Threshold"]

Model = Annotated[str | None, typer.Option(help="Shipped model (agelens models) or model file.")]
Threshold = Annotated[float, typer.Option(help="Years for the probability of being that old.")]
Level = Annotated[float, typer.Option(min=0.01, max=0.99, help="Coverage of the interval low ... high.")]
