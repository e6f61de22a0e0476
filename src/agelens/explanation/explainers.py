"""The explainer of a system: of every stage of a run, or of a model file."""

from __future__ import annotations

from pathlib import Path

from agelens.errors import InputError, MissingExtraError
from agelens.evaluation.systems import open_system
from agelens.explanation.maps import Explainer, MapKind
from agelens.explanation.model_maps import ModelExplainer

__all__ = ["open_explainer"]


def open_explainer(system: str | Path, kind: MapKind = "cam", age: float | None = None) -> Explainer:
    """Open what explains the estimates of a system.

    Args:
        system: A run (all its stages; occlusion: the best one, exported for the occasion) or a model.
        kind: Of the maps; ``gradcam`` and ``integrated-gradients`` need a run.
        age: ``cam`` only: explain this age instead of the estimated one, years.
    Raises:
        InputError: A system without a network, maps that need a run, or an age that cannot be explained.
        ModelFileError: The model file cannot be used.
        RunError: The run cannot be used.
        MissingExtraError: A run without torch, or maps without the package that makes them.
    """
    with open_system(system) as opened:
        if opened.kind == "run" and kind != "occlusion":
            try:
                from agelens.explanation.network_maps import RunExplainer
            except ModuleNotFoundError as error:
                raise MissingExtraError(error.name or "torch", "train") from error
            return RunExplainer(system, kind, age)
        if opened.kind in ("predictions", "folds"):
            raise InputError(f"{system}: a table of predictions has no network to explain")
        if kind not in ("cam", "occlusion"):
            raise InputError(f"--maps {kind} needs the run: a model file holds no gradients")
        explainer = ModelExplainer(opened.model_file(), kind, age)
        if opened.kind == "run":
            explainer.name = f"{Path(system).absolute().name}, best stage"
        return explainer
