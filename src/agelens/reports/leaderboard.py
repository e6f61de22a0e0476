"""The table of a leaderboard as CSV, Markdown, JSON and a page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from agelens.evaluation.compare import NOT_SHOWN
from agelens.evaluation.results import SMALL_GROUP, TOO_FEW, json_value
from agelens.experiments.leaderboard import Leaderboard, LeaderboardRow
from agelens.files import write_atomically
from agelens.metrics import BootstrapInterval
from agelens.reports.blocks import Section, Table, Text
from agelens.reports.comparison import pareto_plots
from agelens.reports.page import write_page
from agelens.reports.tables import QUOTED

__all__ = ["leaderboard_rows", "write_leaderboard"]

_RATES = ("CA(3)", "CA(5)", "CA(7)")


def leaderboard_rows(table: Leaderboard) -> list[dict[str, str]]:
    """Lay out the table as text: a row a system, then the quoted ones.

    A cell ``5.02 [4.90, 5.14]`` is a value and its bootstrap interval.
    """
    few = table.comparison.people < SMALL_GROUP
    names = [
        name
        for name in ("AAR", "sigma", "ε-error", "coverage(90%)")
        if any(name in r.means for r in table.rows)
    ]
    rows = [
        {
            "system": row.result.name,
            "seeds": str(max(len(row.result.error_by_seed), 1)),
            "MAE": _interval(row.result.metrics["MAE"]),
            "MAE by seed": ", ".join(f"{mae:.2f}" for mae in row.result.error_by_seed),
            **{name: TOO_FEW if few else _interval(row.result.metrics[name], 1) for name in _RATES},
            **{name: _mean(row, name, few) for name in names},
            "difference of MAE": _difference(row),
            "verdict": _verdict(row, table.suite.compared_with),
            **_cost(row),
            "training [s]": f"{row.seconds:.0f}",
            "rate": f"{row.rate:g}",
        }
        for row in table.rows
    ]
    for quoted in table.comparison.quoted:
        cells = {name: quoted.metrics.get(name, "") for name in rows[0]}
        cells |= {"system": f"{quoted.name} ({QUOTED}: {quoted.source}, {quoted.protocol})"}
        rows.append(cells)
    return rows


def write_leaderboard(table: Leaderboard, folder: str | Path) -> None:
    """Write ``leaderboard.csv``, ``.md``, ``.json`` and ``.html``.

    Each file is written whole or not at all.

    Raises:
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    rows = leaderboard_rows(table)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with write_atomically(out / "leaderboard.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    with write_atomically(out / "leaderboard.md") as temporary:
        temporary.write_text(_markdown(rows), encoding="utf-8")
    values = {
        "suite": table.suite.model_dump(mode="json"),
        "reference": table.suite.compared_with,
        "systems": [
            {
                "system": row.result.name,
                "rate": row.rate,
                "training seconds": row.seconds,
                "means": row.means,
                "verdict": _verdict(row, table.suite.compared_with),
            }
            for row in table.rows
        ],
        "failed": [{"system": name, "error": error} for name, error in table.failed],
        "comparison": table.comparison.to_dict(),
    }
    with write_atomically(out / "leaderboard.json") as temporary:
        dumped = json.dumps(json_value(values), indent=2, allow_nan=False)
        temporary.write_text(dumped + "\n", encoding="utf-8")
    write_page(
        out / "leaderboard.html", f"Leaderboard {table.suite.name}", table.comparison.facts, _sections(table)
    )


def _markdown(rows: list[dict[str, str]]) -> str:
    """The systems as a Markdown table; what others printed below, by the columns that they fill."""
    ours = [row for row in rows if row["rate"]]
    theirs = [row for row in rows if not row["rate"]]
    tables = []
    for part in filter(None, (ours, theirs)):
        names = [name for name in part[0] if any(row[name] for row in part)]
        lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in part)]
        tables.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(tables)


def _sections(table: Leaderboard) -> list[Section]:
    rows = leaderboard_rows(table)
    blocks: list[Text | Table] = [Text(table.suite.terms)] if table.suite.terms else []
    blocks += [Text(f"{name} could not be trained: {error}", warning=True) for name, error in table.failed]
    note = (
        "[bootstrap interval] on the images that every system answered; of several seeds: the mean over "
        f"them. Differences are paired, to {table.suite.compared_with}, and not widened for the number of "
        "comparisons. Rates were selected, like every epoch, on the validation split. Coverage: of the "
        "calibrated 90 % interval."
    )
    shown = tuple(tuple(row.values()) for row in rows)
    blocks.append(Table(table.suite.name, tuple(rows[0]), shown, 1, note))
    plots = pareto_plots(table.comparison)
    return [Section("Systems", tuple(blocks)), *([Section("Accuracy against cost", plots)] if plots else [])]


def _interval(value: BootstrapInterval, digits: int = 2) -> str:
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _mean(row: LeaderboardRow, name: str, few: bool) -> str:
    if name not in row.means:
        return ""
    if name.startswith("coverage"):
        return TOO_FEW if few else f"{100 * row.means[name]:.1f} %"
    return f"{row.means[name]:.3f}" if name == "ε-error" else f"{row.means[name]:.2f}"


def _difference(row: LeaderboardRow) -> str:
    if row.difference is None:
        return ""
    comparison = row.difference.paired
    return f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def _verdict(row: LeaderboardRow, reference: str) -> str:
    if row.difference is None:
        return "reference" if row.result.name == reference else ""
    if row.difference.people < SMALL_GROUP:
        return TOO_FEW
    if not row.difference.shown:
        return NOT_SHOWN
    return "better" if row.difference.paired.difference < 0 else "worse"


def _cost(row: LeaderboardRow) -> dict[str, str]:
    cost = row.result.cost
    return {
        "parameters": "" if cost is None or cost.weights is None else f"{cost.weights:,}",
        "size [MB]": "" if cost is None else f"{cost.size / 1e6:.2f}",
        "latency [ms]": "" if cost is None or cost.latency is None else f"{cost.latency.processor:.2f}",
    }
