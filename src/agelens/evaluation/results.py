"""Results of an evaluation, group by group, and the rule that few people give no rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from agelens.metrics import BootstrapInterval

__all__ = [
    "SMALL_GROUP",
    "TOO_FEW",
    "GroupResult",
    "ReliabilityBin",
    "is_rate",
    "json_value",
    "reported",
]

SMALL_GROUP = 30
"""Groups of fewer people are marked and no rate of theirs is reported: it would mean little."""


TOO_FEW = "too few"
"""Reported in the place of a rate of a small group."""


_RATES = ("CA(", "coverage(", "accuracy(", "band accuracy")


@dataclass(frozen=True)
class GroupResult:
    """The metrics of one group of images.

    Attributes:
        grouping: ``all`` or the name of a grouping (:mod:`agelens.evaluation.groups`).
        group: ``all``, ``18-29``, ``female`` …; ``unknown`` where the manifest has no value.
        count: Number of images.
        people: Number of people; that of the images where the manifest names no subjects.
        small: Fewer people than :data:`SMALL_GROUP`.
        metrics: Name to value and bootstrap interval; empty for a group without images.
    """

    grouping: str
    group: str
    count: int
    people: int
    small: bool
    metrics: dict[str, BootstrapInterval]

    def rate_hidden(self, metric: str) -> bool:
        """Whether a metric is a rate of too few people, which is not printed."""
        return self.small and is_rate(metric)


def is_rate(metric: str) -> bool:
    """Whether a metric is a share of the images, which is not reported for too few people."""
    return metric.startswith(_RATES)


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose P(age >= threshold) lies in a tenth of 0 … 1.

    Attributes:
        low: Lower end, included.
        high: Upper end, excluded but for 1.
        count: Number of images.
        people: Number of people on them.
        predicted: Their mean probability; NaN if there are none.
        observed: Share of them that reach the threshold; NaN if there are none.
    """

    low: float
    high: float
    count: int
    people: int
    predicted: float
    observed: float


def reported(result: GroupResult) -> GroupResult:
    """Replace the rates of too few people by NaN."""
    hidden = BootstrapInterval(math.nan, math.nan, math.nan)
    metrics = {name: hidden if result.rate_hidden(name) else value for name, value in result.metrics.items()}
    return replace(result, metrics=metrics)


def json_value(value: Any) -> Any:
    """Make a value fit for JSON, down into its parts: tuples are lists, what is not a number is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value
