"""Methods and finishers by name: from a recipe to its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from agelens.errors import PluginError, RecipeError
from agelens.label_distribution import AgeBins
from agelens.methods.balanced import BalancedStage
from agelens.methods.baseline import Baseline
from agelens.methods.fixed_features import FixedFeatures
from agelens.methods.identity import IdentityPretraining
from agelens.methods.lae import LongTailed
from agelens.methods.logit_adjusted import LogitAdjustedStage
from agelens.methods.lrn import LabelRefinery
from agelens.methods.ordinal_dark import OrdinalDark
from agelens.plugins import resolve
from agelens.training.method import Method
from agelens.training.recipe import Recipe
from agelens.training.stage import Stage

__all__ = ["FINISHERS", "METHODS", "make_stages", "method_named"]

METHODS: dict[str, type[Method]] = {
    "baseline": Baseline,
    "fixed-features": FixedFeatures,
    "identity": IdentityPretraining,
    "lae": LongTailed,
    "lrn": LabelRefinery,
    "ordinal-dark": OrdinalDark,
}
"""Method names of recipes: a method is one file and one line here, or an entry point ``agelens.methods``."""

FINISHERS: dict[str, Callable[[Sequence[Stage], Recipe, AgeBins], Stage]] = {
    "balanced": BalancedStage.after,
    "logit-adjusted": LogitAdjustedStage.after,
}
"""Stages that follow any method's own, by the name of ``finish`` in a recipe; the stage has that name."""


def method_named(name: str) -> type[Method]:
    """Look up a method by the name that recipes give it.

    Raises:
        PluginError: An unknown method, its package cannot be imported, or it is no subclass of ``Method``.
    """
    method: object = resolve("methods", name, METHODS)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise PluginError(
            f"method {name!r} is a {type(method).__name__}: it must be a subclass of Method "
            "(agelens.training.method)"
        )
    return method


def make_stages(
    recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None
) -> Sequence[Stage]:
    """Make the stages of a recipe: those of its method, then its finisher, if it names one.

    Args:
        recipe: What to train.
        age_bins: The K ages.
        start: Weights to start from, or None.
    Raises:
        RecipeError: The method or the finisher refuses its settings, there is no such finisher, or nothing
            that it could finish.
        PluginError: An unknown method, or its package cannot be imported.
    """
    stages = method_named(recipe.method.name)(recipe, age_bins, start).stages()
    name = recipe.finish.name
    if name == "none":
        return stages
    if name not in FINISHERS:
        known = ", ".join(("none", *FINISHERS))
        raise RecipeError(recipe.name, "finish.name", f"no such finisher; there are {known}", name)
    if not any(stage.finishable for stage in stages):
        message = "a finisher needs an FC layer over the ages (head 'ldl'), and this recipe trains none"
        raise RecipeError(recipe.name, "finish.name", message, name)
    return [*stages, FINISHERS[name](stages, recipe, age_bins)]
