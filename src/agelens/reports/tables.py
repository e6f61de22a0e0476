"""Evaluations and comparisons as rows of text: for the terminal, CSV files and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agelens.errors import InputError
from agelens.evaluation.compare import NOT_SHOWN, Comparison, PairedDifference, SystemResult
from agelens.evaluation.cost import Cost
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.results import SMALL_GROUP, TOO_FEW, is_rate
from agelens.metrics import BootstrapInterval
from agelens.reports.formats import metric_text

__all__ = ["BRIEF", "QUOTED", "SHOWN", "difference_rows", "evaluation_rows", "group_rows", "system_rows"]

BRIEF = (
    *("MAE", "bias", "CA(5)", "AAR", "ε-error"),
    *("band accuracy", "band distance", "band bias", "coverage(90%)"),
)
"""The metrics of an evaluation that are printed unless all are asked for."""

QUOTED = "quoted"
"""The kind of a row that others printed."""

SHOWN = (
    *("MAE", "RMSE", "bias", "CA(3)", "CA(5)", "CA(7)", "AAR", "CRPS"),
    *("band distance", "band bias", "band accuracy", "band accuracy(estimate)"),
    *("NLL", "coverage(90%)", "ε-error"),
)
"""The metrics of a comparison's table, where there are any."""

_HITS = ("CA", "band accuracy")  # metrics of which more is better


def evaluation_rows(evaluation: Evaluation, names: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Lay out the results as text.

    A small group's number of images bears a star, and its rates read ``too few``. Any other cell reads
    ``5.02 [4.90, 5.14]``, the value and its bootstrap interval.

    Args:
        evaluation: The evaluation.
        names: Metrics to show; by default those of all images.
    Returns:
        A row a group: ``grouping``, ``group``, ``images``, then a cell a metric.
    Raises:
        InputError: A metric does not exist in this evaluation.
    """
    shown = list(evaluation.overall) if names is None else list(names)
    for name in shown:
        if name not in evaluation.overall:
            raise InputError(f"no metric {name!r} here; there are: {', '.join(evaluation.overall)}")
    return [
        {
            "grouping": result.grouping,
            "group": result.group,
            "images": f"{result.count}*" if result.small else str(result.count),
            **{name: metric_text(name, result, brief=False) for name in shown},
        }
        for result in evaluation.results
    ]


def system_rows(comparison: Comparison, shown: Sequence[str] = SHOWN) -> list[dict[str, str]]:
    """Lay out systems, then quoted rows, as text.

    Args:
        comparison: The comparison.
        shown: Metrics to show, where there are any.
    """
    names = [name for name in shown if any(name in system.metrics for system in comparison.systems)]
    by_seed = f"{comparison.error} by seed"
    repeated = any(system.error_by_seed for system in comparison.systems)
    rows = [
        {
            "system": system.name,
            "kind": system.kind,
            **({by_seed: _by_seed(system)} if repeated else {}),
            **{
                name: TOO_FEW
                if is_rate(name) and comparison.people < SMALL_GROUP
                else _two_digits(system.metrics.get(name))
                for name in names
            },
            "latency [ms]": _latency(system.cost),
            "processor [ms]": _processor(system.cost),
            "size [MB]": "" if system.cost is None else f"{system.cost.size / 1e6:.2f}",
            "weights": _millions(None if system.cost is None else system.cost.weights),
            "not answered": str(len(system.failed) + len(system.missing)),
            "source": system.source,
            "note": "",
        }
        for system in comparison.systems
    ]
    for quoted in comparison.quoted:
        rows.append(
            {
                "system": quoted.name,
                "kind": QUOTED,
                **({by_seed: ""} if repeated else {}),
                **{name: quoted.metrics.get(name, "") for name in names},
                "latency [ms]": "",
                "processor [ms]": "",
                "size [MB]": "" if quoted.size is None else f"{quoted.size / 1e6:.2f}",
                "weights": _millions(quoted.parameters),
                "not answered": "",
                "source": f"{quoted.source}: {quoted.data_set}, {quoted.protocol}",
                "note": quoted.note,
            }
        )
    return rows


def difference_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Lay out the paired differences as text."""
    rows = []
    for row in comparison.differences:
        digits = 2 if row.metric.startswith(_HITS) else 3
        paired = row.paired
        rows.append(
            {
                "metric": row.metric,
                "first": row.a,
                "second": row.b,
                "difference": TOO_FEW
                if row.rate_hidden
                else "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(
                    paired.difference, paired.low, paired.high, d=digits
                ),
                "p": "" if row.rate_hidden else f"{paired.p:.4f}",
                "verdict": TOO_FEW if row.people < SMALL_GROUP else _better(row) if row.shown else NOT_SHOWN,
            }
        )
    return rows


def group_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Lay out the groups as text: the error of each system and the best one."""
    return [
        {
            "grouping": verdict.grouping,
            "group": verdict.group,
            "images": str(verdict.count),
            "people": str(verdict.people),
            **{
                f"{comparison.error} of {system.name}": f"{verdict.errors[system.name]:.2f}"
                if verdict.errors
                else TOO_FEW
                for system in comparison.systems
            },
            f"best by {comparison.error}": verdict.verdict,
        }
        for verdict in comparison.groups
    ]


def _better(row: PairedDifference) -> str:
    smaller_is_better = not row.metric.startswith(_HITS)
    return f"{row.a if (row.paired.difference < 0) == smaller_is_better else row.b} is better"


def _by_seed(system: SystemResult) -> str:
    """``5.95, 5.96, 5.96 (sd 0.004)``; empty for a single training."""
    errors = system.error_by_seed
    return (
        f"{', '.join(f'{error:.2f}' for error in errors)} (sd {np.std(errors, ddof=1):.3f})" if errors else ""
    )


def _two_digits(interval: BootstrapInterval | None) -> str:
    if interval is None or not math.isfinite(interval.value):
        return ""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _latency(cost: Cost | None) -> str:
    if cost is None or cost.latency is None:
        return ""
    return f"{cost.latency.median:.2f} [{cost.latency.low:.2f}, {cost.latency.high:.2f}]"


def _processor(cost: Cost | None) -> str:
    return "" if cost is None or cost.latency is None else f"{cost.latency.processor:.2f}"


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f}M"
