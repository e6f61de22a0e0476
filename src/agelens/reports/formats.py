"""Numbers as text: values with their intervals, rates, names of groups, tables of metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from agelens.evaluation.rates import Rate
from agelens.evaluation.results import TOO_FEW, GroupResult
from agelens.metrics import BootstrapInterval
from agelens.reports.blocks import Table

__all__ = [
    "OfGroup",
    "group_title",
    "grouping_title",
    "headline",
    "metric_table",
    "metric_text",
    "people_text",
    "rate_text",
    "share_text",
    "value_parts",
    "value_text",
]


class OfGroup(Protocol):
    """A row about one group of images."""

    @property
    def grouping(self) -> str:
        """``all`` or the name of a grouping."""

    @property
    def group(self) -> str:
        """Name of the group."""


def value_parts(value: BootstrapInterval, digits: int | None = None) -> tuple[str, str]:
    """Write ``5.02`` and ``[4.90, 5.14]``; three digits below 1, else two, unless ``digits`` is given."""
    if digits is None:
        digits = 3 if abs(value.value) < 1 else 2
    return f"{value.value:.{digits}f}", f"[{value.low:.{digits}f}, {value.high:.{digits}f}]"


def value_text(value: BootstrapInterval, digits: int | None = None) -> str:
    """Write ``5.02 [4.90, 5.14]``, the value and its interval."""
    return " ".join(value_parts(value, digits))


def metric_text(name: str, result: GroupResult, *, brief: bool = True) -> str:
    """Write a metric of a group; empty where there is none, ``too few`` for a rate of few people.

    Args:
        name: Of the metric.
        result: Of the group.
        brief: CA(n) with one decimal.
    """
    value = result.metrics.get(name)
    if value is None or not math.isfinite(value.value):
        return ""
    if result.rate_hidden(name):
        return TOO_FEW
    return value_text(value, 1 if brief and name.startswith("CA(") else None)


def headline(name: str, result: GroupResult) -> tuple[str, str]:
    """Write a metric and its interval apart; ``too few`` for a rate of few people."""
    return (TOO_FEW, "") if result.rate_hidden(name) else value_parts(result.metrics[name])


def rate_text(rate: Rate | None) -> str:
    """Write ``4.2% [1.9, 7.8]``; empty for None, ``too few`` for few people."""
    if rate is None:
        return ""
    if rate.too_few:
        return TOO_FEW
    return f"{rate.value:.1%} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def people_text(rate: Rate) -> str:
    """Write the number of people, with a star for few."""
    return f"{rate.people:,}*" if rate.too_few else f"{rate.people:,}"


def share_text(value: float) -> str:
    """Write a share, 0 … 1, in per cent; ``too few`` for NaN."""
    return TOO_FEW if math.isnan(value) else f"{value:.1%}"


def grouping_title(name: str) -> str:
    """Write ``gender × age band`` for ``gender:age_band``."""
    return name.replace("_", " ").replace(":", " × ")


def group_title(row: OfGroup) -> str:
    """Write ``gender: female``, or ``all``."""
    return row.group if row.grouping == "all" else f"{grouping_title(row.grouping)}: {row.group}"


def metric_table(caption: str, results: Sequence[GroupResult], names: Sequence[str], first: str) -> Table:
    """Lay out metrics of groups as a table, a row a group.

    Args:
        caption: Of the table.
        results: The groups.
        names: Metrics; those that no group has are left out.
        first: Header of the column of groups.
    """
    shown = [name for name in names if any(name in result.metrics for result in results)]
    by_people = any(result.people != result.count for result in results)
    return Table(
        caption,
        (first, "images", *(["people"] if by_people else []), *shown),
        tuple(
            (
                result.group,
                f"{result.count:,}*" if result.small else f"{result.count:,}",
                *([f"{result.people:,}"] if by_people else []),
                *(metric_text(name, result) for name in shown),
            )
            for result in results
        ),
    )
