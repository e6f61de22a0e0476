"""Trade-off of the balanced stage by epoch: MAE against σ on the validation split."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from agelens.errors import RunError
from agelens.files import write_atomically
from agelens.reading import open_table, reason
from agelens.training.run import Run

__all__ = ["TradeoffPoint", "plot_tradeoff", "tradeoff"]

_STAGE = "balanced"


@dataclass(frozen=True)
class TradeoffPoint:
    """One network on the validation split.

    Attributes:
        epoch: Of the balanced stage; 0 is the network it finishes.
        mae: Years.
        sigma: Deviation σ of the groups' MAE from the MAE (LAE Eq. 7), years.
        aar: AAR (LAE Eq. 6).
    """

    epoch: int
    mae: float
    sigma: float
    aar: float


def tradeoff(run: Run) -> list[TradeoffPoint]:
    """Read the points of a run.

    Args:
        run: With a balanced stage, begun or finished.
    Returns:
        The network before the stage if the stage is finished, then one point an epoch.
    Raises:
        RunError: No balanced stage, or no AAR in its log (no validation image aged 1 to 81).
    """
    path = run.stage(_STAGE) / "log.csv"
    points = []
    if run.finished(_STAGE):
        validation = run.read_json(_STAGE, "validation.json")
        source, before = validation.get("finishes", _STAGE), validation.get("before", {})
        if not {"MAE", "AAR", "sigma"} <= before.keys():
            raise RunError(run.stage(source), "has no AAR on the validation split")
        points.append(TradeoffPoint(0, before["MAE"], before["sigma"], before["AAR"]))
    try:
        with open_table(path) as handle:
            for row in csv.DictReader(handle):
                figures = (float(row[f"val {name}"]) for name in ("MAE age", "sigma", "AAR"))
                points.append(TradeoffPoint(int(row["epoch"]), *figures))
    except FileNotFoundError as error:
        raise RunError(run.path, "has no balanced stage; train with --finish balanced") from error
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(path, f"has no MAE, σ and AAR: {reason(error)}") from error
    return points


def plot_tradeoff(run: Run, out: str | Path) -> None:
    """Draw MAE against σ along the epochs, over lines of equal AAR.

    Args:
        run: With a balanced stage.
        out: Image file; its suffix says the format (.svg, .png, .pdf).
    Raises:
        RunError: As :func:`tradeoff`.
        OutputError: It cannot be written.
    """
    from matplotlib.figure import Figure

    points = tradeoff(run)
    maes, sigmas = [point.mae for point in points], [point.sigma for point in points]
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(maes, sigmas, color="0.4", linewidth=1)
    marks = axes.scatter(maes, sigmas, c=[point.aar for point in points], cmap="viridis", zorder=3)
    for point in points:
        name = "before" if point.epoch == 0 else str(point.epoch)
        axes.annotate(name, (point.mae, point.sigma), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.margins(0.12)
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    # Where neither term of Eq. 6 is cut off, AAR = 10 - MAE - σ: a line of slope -1.
    for total in range(math.floor(low + bottom), math.ceil(high + top) + 1):
        axes.plot([low, high], [total - low, total - high], color="0.88", linewidth=0.8, zorder=0)
    axes.set(
        xlim=(low, high),
        ylim=(bottom, top),
        xlabel="MAE on the validation split, years",
        ylabel="σ of the groups' MAE, years",
        title=f"{run.recipe.name}: epochs of the balanced stage",
    )
    figure.colorbar(marks, label="AAR")
    with write_atomically(out) as temporary:
        figure.savefig(temporary, format=Path(out).suffix.removeprefix(".") or "svg")
