"""LAE's Table 2: a baseline, each trick alone on it, all tricks together, and the classification stage.

The tricks are those a recipe offers (``[trick.<name>]``); every rung is an ordinary run folder, so an
interrupted ladder goes on where it stopped.

[1] Bao et al., LAE: long-tailed age estimation, CAIP 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import InputError
from agelens.evaluation.band_measures import require_ages
from agelens.experiments.generations import estimate_stage
from agelens.experiments.train import train
from agelens.metrics import AAR, AAR_GROUPS, aar
from agelens.training.fit import Reporter
from agelens.training.recipe import Recipe, recipe_tricks
from agelens.training.run import Run

__all__ = ["LadderRow", "climb", "judge_rungs", "rungs"]


@dataclass(frozen=True)
class LadderRow:
    """One row of the table.

    Attributes:
        model: ``baseline``, ``+<trick>``, ``all tricks``, ``classification``.
        run: Its run folder's name.
        stage: The stage judged.
        figures: MAE, MAE of the groups, σ and AAR.
    """

    model: str
    run: str
    stage: str
    figures: AAR

    def cells(self) -> dict[str, str]:
        """Give the row as text, with the columns of Table 2 (MAE¹, MAE³ and MAE⁸ are groups)."""
        groups = {
            f"{low}-{high}": value
            for (low, high), value in zip(AAR_GROUPS, self.figures.group_mae, strict=True)
        }
        return {
            "model": self.model,
            "MAE": f"{self.figures.mae:.3f}",
            **{f"MAE {name}": f"{groups[name]:.2f}" for name in ("1-10", "21-30", "71-81")},
            "σ": f"{self.figures.sigma:.3f}",
            "AAR": f"{self.figures.aar:.3f}",
        }


def rungs(tricks: Sequence[str], alone: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The runs of a ladder: folder name to the tricks that are on. The ladder is not cumulative.

    Args:
        tricks: All that the recipe offers, which the last rung has.
        alone: Those with a rung of their own.
    """
    return {"baseline": (), **{trick: (trick,) for trick in alone}, "all": tuple(tricks)}


def climb(
    recipe: str | Path,
    manifest: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    starts: Mapping[str, str | Path] | None = None,
    reporter: Reporter | None = None,
    note: Callable[[str], None] | None = None,
    cpu: bool = False,
) -> list[Run]:
    """Train every rung, the last one with the classification stage; what is finished is kept.

    Args:
        recipe: A recipe that offers tricks.
        manifest: Prepared manifest.
        out: Folder of the runs.
        overrides: As in :meth:`Recipe.load`, for every rung.
        starts: Pre-trained weights by backbone (``""``: any other backbone). They are used where the trick
            ``pre-training`` is on.
        reporter: Receives steps and epochs.
        note: Called with a line a rung.
        cpu: Keep to the CPU.
    Returns:
        The runs, in order.
    Raises:
        InputError: The recipe offers no tricks, a rung has no weights to start from, or labels are age bands.
    """
    require_ages(read_manifest(manifest), "a ladder")
    tricks = recipe_tricks(recipe)
    if not tricks:
        raise InputError(f"the recipe {recipe} offers no tricks ([trick.<name>] tables)")
    plans: list[tuple[str, Recipe, str | Path | None]] = []
    for name, used in rungs(tricks, recipe_tricks(recipe, alone=True)).items():
        listed = ", ".join(f'"{trick}"' for trick in used)
        last = ["finish.name=balanced"] if name == "all" else []
        settings = Recipe.load(recipe, [f"tricks=[{listed}]", *last, *overrides])
        start = None
        if "pre-training" in used:
            start = (starts or {}).get(settings.network.backbone, (starts or {}).get(""))
            if start is None:
                raise InputError(
                    f"rung {name!r} needs pre-trained weights of {settings.network.backbone!r}: "
                    f"--start {settings.network.backbone}=PATH"
                )
        plans.append((name, settings, start))
    runs = []
    for name, settings, start in plans:
        if note is not None:
            note(f"rung {name}")
        folder = Path(out) / name
        runs.append(train(settings, manifest, folder, resume=True, start=start, reporter=reporter, cpu=cpu))
    return runs


def judge_rungs(runs: Sequence[Run], manifest: str | Path, split: str = "val") -> list[LadderRow]:
    """Judge the rungs on one split.

    Args:
        runs: Of :func:`climb`.
        manifest: Prepared manifest.
        split: Its rows to judge on.
    Returns:
        A row a rung, and one of the classification stage.
    Raises:
        SplitError: The manifest has no such rows.
    """
    selected = required_rows(read_manifest(manifest), split, manifest)
    ages = selected["age"].to_numpy(dtype=np.float64)
    table = []
    for run in runs:
        for stage in run.finished_stages():
            name = {"baseline": "baseline", "all": "all tricks"}.get(run.path.name, f"+{run.path.name}")
            model = "classification" if stage == "balanced" else name
            table.append(
                LadderRow(model, run.path.name, stage, aar(estimate_stage(run, stage, selected).age, ages))
            )
    return table
