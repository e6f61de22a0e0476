"""The page of a comparison of systems, its JSON and its tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from agelens.evaluation.compare import Comparison
from agelens.evaluation.cost import pareto_front
from agelens.evaluation.results import SMALL_GROUP
from agelens.files import write_atomically
from agelens.metrics import BootstrapInterval
from agelens.reports.blocks import Drawing, Section, Table, Text
from agelens.reports.page import drawing, plot_style, write_page
from agelens.reports.tables import QUOTED, SHOWN, difference_rows, group_rows, system_rows

__all__ = ["pareto_plots", "write_comparison"]

_COSTS = ("latency [ms]", "processor [ms]", "size [MB]", "weights")


def write_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write ``comparison.html``, ``comparison.json``, ``systems.csv``, ``differences.csv``, ``groups.csv``.

    Each file is written whole or not at all.

    Raises:
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    with write_atomically(out / "comparison.json") as temporary:
        temporary.write_text(
            json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    _write_csv(out / "systems.csv", system_rows(comparison))
    _write_csv(out / "differences.csv", difference_rows(comparison))
    if comparison.groups:
        _write_csv(out / "groups.csv", group_rows(comparison))
    title = " against ".join(system.name for system in comparison.systems)
    write_page(out / "comparison.html", title, _stamp(comparison), _sections(comparison))


def _stamp(comparison: Comparison) -> dict[str, str]:
    stamp = dict(comparison.facts)
    stamp["images"] = f"{comparison.images} that every system answered"
    for system in comparison.systems:
        if system.digest:
            stamp[f"weights of {system.name}"] = system.digest
    return stamp


def _sections(comparison: Comparison) -> list[Section]:
    return [
        Section("Systems", tuple(_system_blocks(comparison))),
        Section("Paired differences", tuple(_difference_blocks(comparison))),
        *([Section("Groups", tuple(_group_blocks(comparison)))] if comparison.groups else []),
        *([Section("Accuracy against cost", plots)] if (plots := pareto_plots(comparison)) else []),
    ]


def _system_blocks(comparison: Comparison) -> list[Text | Table]:
    blocks: list[Text | Table] = []
    if comparison.left_out:
        blocks.append(
            Text(
                f"{comparison.left_out} images that some system answered and another did not are left out "
                "of all figures.",
                warning=True,
            )
        )
    if comparison.absent:
        blocks.append(Text(f"The manifest has no values for: {', '.join(comparison.absent)}.", warning=True))
    rows = system_rows(comparison)
    blocks.append(
        _table(
            "Accuracy",
            [
                _only(row, ("system", "kind", f"{comparison.error} by seed", *SHOWN, "not answered"))
                for row in rows
            ],
            names=2,
            note="[bootstrap interval] on the images that every system answered. Quoted rows are figures "
            "that others printed, under the protocol named below, not measured on these images; they enter "
            "no difference."
            if comparison.quoted
            else "[bootstrap interval] on the images that every system answered.",
        )
    )
    if any(row[name] for row in rows for name in _COSTS):
        blocks.append(
            _table(
                "Cost",
                [
                    _only(row, ("system", "kind", *_COSTS))
                    for row in rows
                    if any(row[name] for name in _COSTS)
                ],
                names=2,
                note="Latency: the network alone on one crop, one thread, median by the clock [central 80 %];"
                " the models took turns; where it is far above the processor's time, the machine was busy. "
                "Weights: numbers stored in the file.",
            )
        )
    if comparison.quoted:
        quoted = [_only(row, ("system", "source", "note")) for row in rows if row["kind"] == QUOTED]
        blocks.append(_table("Quoted from", quoted, names=3))
    for system in comparison.systems:
        for what, paths in (
            ("could not be estimated", [path for path, _ in system.failed]),
            ("have no prediction", list(system.missing)),
            ("are predicted but not in the manifest", list(system.unknown)),
        ):
            if paths:
                named = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
                blocks.append(Text(f"{system.name}: {len(paths)} images {what}: {named}", warning=True))
    return blocks


def _difference_blocks(comparison: Comparison) -> list[Text | Table]:
    return [
        Text(
            "First system minus second, on the same images in every draw. A difference is shown where the "
            f"interval excludes zero; fewer than {SMALL_GROUP} people are too few to tell. The intervals are "
            "not widened for the number of comparisons."
        ),
        _table("Differences", difference_rows(comparison), names=3),
    ]


def _group_blocks(comparison: Comparison) -> list[Text | Table]:
    return [
        Text(
            "A system is best in a group where its paired interval against every other one excludes zero; "
            f"groups of fewer than {SMALL_GROUP} people are too few to tell. With many groups a few such "
            "intervals exclude zero by chance."
        ),
        _table(f"{comparison.error} by group", group_rows(comparison), names=2),
    ]


def pareto_plots(comparison: Comparison) -> tuple[Drawing, ...]:
    """Draw the error against each measured cost, with the systems that no other one beats on both."""
    costs: dict[str, tuple[str, dict[str, float], dict[str, float]]] = {
        "latency": ("processor time on one thread [ms]", {}, {}),
        "size": ("size of the file [MB]", {}, {}),
        "weights": ("weights [millions]", {}, {}),
    }
    for system in comparison.systems:
        if system.cost is None:
            continue
        if system.cost.latency is not None:
            costs["latency"][1][system.name] = system.cost.latency.processor
        costs["size"][1][system.name] = system.cost.size / 1e6
        if system.cost.weights is not None:
            costs["weights"][1][system.name] = system.cost.weights / 1e6
    error = comparison.error
    errors = {system.name: system.metrics[error] for system in comparison.systems}
    quoted_errors: dict[str, float] = {}
    for row in comparison.quoted:
        if error not in row.metrics:
            continue
        label = f"{row.name} ({row.source})"
        quoted_errors[label] = float(row.metrics[error].split(" ")[0])
        if row.size is not None:
            costs["size"][2][label] = row.size / 1e6
        if row.parameters is not None:
            costs["weights"][2][label] = row.parameters / 1e6
    return tuple(
        drawing(
            f"pareto-{name}",
            _pareto_figure(label, error, measured, errors, quoted, quoted_errors),
            f"{error} against {label}: lower left is better. Filled: measured here, with its interval;"
            " the line joins the systems that no other one beats on both."
            + (" Hollow: quoted, under its own protocol." if quoted else ""),
        )
        for name, (label, measured, quoted) in costs.items()
        if measured
    )


def _pareto_figure(
    label: str,
    error: str,
    measured: Mapping[str, float],
    errors: Mapping[str, BootstrapInterval],
    quoted: Mapping[str, float],
    quoted_errors: Mapping[str, float],
) -> Figure:
    with plot_style():
        listed = len(measured) + len(quoted)  # the legend below, a line each, must leave room for the axes
        figure = Figure(figsize=(7, 3 + 0.17 * listed), layout="constrained")
        axes = figure.add_subplot()
        front = pareto_front({name: (cost, errors[name].value) for name, cost in measured.items()})
        axes.plot(
            [measured[name] for name in front], [errors[name].value for name in front], "--", color="0.6"
        )
        for name, cost in measured.items():
            value = errors[name]
            reach = [[value.value - value.low], [value.high - value.value]]
            axes.errorbar(cost, value.value, yerr=reach, fmt="o", capsize=3, label=name)
        for number, (name, cost) in enumerate(quoted.items(), start=1):
            axes.plot(cost, quoted_errors[name], "o", mfc="none", color="0.35", label=f"{number}: {name}")
            axes.annotate(
                str(number),
                (cost, quoted_errors[name]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel(f"{error} [years]")
        figure.legend(loc="outside lower left", fontsize=7)
    return figure


def _table(caption: str, rows: Sequence[Mapping[str, str]], names: int, note: str = "") -> Table:
    return Table(caption, tuple(rows[0]), tuple(tuple(row.values()) for row in rows), names, note)


def _only(row: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: row[name] for name in names if name in row}


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as handle,
    ):
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
