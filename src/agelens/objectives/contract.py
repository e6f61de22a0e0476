"""The contract of an objective: a pure function of tensors, and the head whose scores it reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from torch import Tensor

__all__ = ["CONTEXT", "AtLeastZero", "Objective", "Positive", "age_index", "check_scores", "settings_of"]

Positive = Annotated[float, Field(gt=0)]
"""A setting that must be positive."""

AtLeastZero = Annotated[float, Field(ge=0)]
"""A setting that must not be negative."""

CONTEXT = ("counts", "deviations", "features")
"""Arguments that are data, not settings, passed to a loss that has them:

- ``counts`` (K,): number of training images of each age bin;
- ``deviations`` (B,): deviation of each label, years; NaN where the label has none;
- ``features`` (B, C): what the head has read, without a gradient.
"""


@dataclass(frozen=True)
class Objective:
    """A loss and the head it trains.

    ::

        def huber(predicted, ages, bin_ages, *, delta: Positive = 1.0):
            return torch.nn.functional.huber_loss(predicted, ages, delta=delta)

        OBJECTIVES["huber"] = Objective(huber, head="reg")

    Attributes:
        loss: Pure function ``loss(scores, ages, bin_ages, *, ...) -> ()``. ``scores`` are the head's: logits
            (B, K) of ``ldl``, years (B,) of ``reg``, logits (B, K - 1) of the ordinal heads. ``ages`` (B,)
            are years, as labelled; ``bin_ages`` (K,) the ages of the bins, one year apart. Its keywords are
            the settings that a recipe may replace, with the paper's values as defaults, but for those of
            :data:`CONTEXT`, which are data.
        head: A name of ``networks.heads.HEADS``, or a class with that interface. Settings that loss and head
            name alike are one setting. What an objective keeps from step to step is a persistent buffer of
            the head, changed by its ``observe`` after each step; the loss sees it among the scores.
    """

    loss: Callable[..., Tensor]
    head: str | Callable[..., Any] = "ldl"

    def context(self) -> tuple[str, ...]:
        """The data besides scores and ages that the loss takes: names of :data:`CONTEXT`."""
        parameters = inspect.signature(self.loss).parameters
        return tuple(name for name in CONTEXT if name in parameters)


def settings_of(function: Callable[..., Any], without: tuple[str, ...] = ()) -> type[BaseModel]:
    """Make the checked settings of a function: its keyword-only arguments, their types and defaults.

    Args:
        function: Every keyword-only argument needs a type and a default.
        without: Arguments that are no settings.
    Returns:
        A pydantic model that forbids other settings.
    """
    target: Any = function
    if isinstance(function, type):
        target = target.__init__
    hints = get_type_hints(target, include_extras=True)
    fields: Mapping[str, Any] = {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in without
    }
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    model: type[BaseModel] = create_model("Settings", __config__=config, **fields)
    return model


def age_index(ages: Tensor, bin_ages: Tensor) -> Tensor:
    """The bin of each age: completed years, clamped to the range of the bins.

    Args:
        ages: (B,) years.
        bin_ages: (K,) ages of the bins, years, one year apart.
    Returns:
        (B,) int64, 0 … K - 1.
    """
    return (ages.floor() - bin_ages[0]).clamp(0, len(bin_ages) - 1).long()


def check_scores(scores: Tensor, ages: Tensor, bin_ages: Tensor, *, fewer: int = 0) -> None:
    """Check shapes: scores (B, K - fewer), ages (B,), bins (K,).

    Raises:
        ValueError: They disagree (all three are shown).
    """
    wanted = (len(ages), len(bin_ages) - fewer)
    if ages.ndim != 1 or bin_ages.ndim != 1 or tuple(scores.shape) != wanted:
        raise ValueError(
            f"scores {tuple(scores.shape)} for ages {tuple(ages.shape)} and bins {tuple(bin_ages.shape)}: "
            f"they must be {wanted}"
        )
