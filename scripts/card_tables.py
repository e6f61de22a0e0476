"""Print the tables of a model's card: its figures on FairFace, UTKFace and FG-NET, by group.

    python scripts/card_tables.py MODEL --fairface fairface/manifest.csv --utkface utkface/manifest.csv \
        --fgnet fgnet/manifest.csv > tables.md

The manifests are those of ``agelens prepare``; any of them may be left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import agelens
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.results import GroupResult
from agelens.label_distribution import probability_at_least

_LEAST = 85.0  # per cent of the ages that a 90 % interval must hold, or the group is named


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    for name in ("fairface", "utkface", "fgnet"):
        parser.add_argument(f"--{name}", type=Path)
    arguments = parser.parse_args()
    sets = {
        "FairFace": (arguments.fairface, "test", ("gender", "ethnicity", "age_band")),
        "UTKFace": (arguments.utkface, "test", ("gender", "ethnicity", "age_band")),
        "FG-NET": (arguments.fgnet, None, ("age_band",)),
    }
    low = []
    for name, (manifest, split, by) in sets.items():
        if manifest is None:
            continue
        split = "all" if split is None else split
        evaluation = agelens.evaluate_system(arguments.model, manifest, split, by=by)
        (_bands if evaluation.banded else _ages)(name, evaluation)
        _decided(name, evaluation)
        low += [
            f"{name}: {result.group} {100 * result.metrics['coverage(90%)'].value:.1f} %"
            for result in evaluation.results
            if not result.small and 100 * result.metrics["coverage(90%)"].value < _LEAST
        ]
    print(f"\nCoverage below {_LEAST:.0f} %: {'; '.join(low) or 'none'}")


def _bands(name: str, evaluation: Evaluation) -> None:
    print(f"\n## {name}\n")
    print("| group | images | band accuracy, % | distance, years | bias, years | coverage of 90 % |")
    print("|---|---|---|---|---|---|")
    for result in evaluation.results:
        cells = [_cell(result, metric) for metric in ("band accuracy", "band distance", "band bias")]
        print(f"| {_group(result)} | {result.count} | {' | '.join(cells)} | {_percent(result)} |")
    certain, possible = (evaluation.overall[f"coverage(90%, {way})"].value for way in ("certain", "possible"))
    print(
        f"\nAn interval that cuts a band counts in part; {100 * certain:.1f} % of the 90 % intervals cover "
        f"the labelled band whole, {100 * possible:.1f} % touch it."
    )


def _ages(name: str, evaluation: Evaluation) -> None:
    print(f"\n## {name}\n")
    print("| group | images | MAE | bias | CA(5) | coverage of 90 % | width |")
    print("|---|---|---|---|---|---|---|")
    for result in evaluation.results:
        if "MAE" not in result.metrics:  # a group without images
            continue
        cells = [_cell(result, metric) for metric in ("MAE", "bias")]
        hits = "" if result.small else _cell(result, "CA(5)", 1)
        width = f"{result.metrics['width(90%)'].value:.1f}"
        row = [_group(result), str(result.count), *cells, hits, _percent(result), width]
        print(f"| {' | '.join(row)} |")
    if evaluation.aar is not None:
        print(f"\nAAR {evaluation.aar.aar:.2f}, σ {evaluation.aar.sigma:.2f}.")


def _decided(name: str, evaluation: Evaluation) -> None:
    """Print the shares of adults and minors with P(age >= 18) >= 0.95; of bands those on one side."""
    distribution, bins = evaluation.distribution, evaluation.predictions.bins
    assert distribution is not None
    assert bins is not None
    passed = probability_at_least(distribution, bins, 18) >= 0.95
    labels = evaluation.labels
    ages = labels["age_low"] if evaluation.banded else labels["age"]
    adults = ages.to_numpy(float) >= 20
    told = f"{100 * passed[adults].mean():.0f} % of {adults.sum()} people from 20"
    if not evaluation.banded:
        minors = np.floor(ages.to_numpy(float)) < 18
        told += f", {passed[minors].sum()} of {minors.sum()} minors"
    print(f"\nP(age >= 18) >= 0.95 on {name}: {told}.")


def _group(result: GroupResult) -> str:
    if result.grouping == "all":
        return "**all**"
    name = {"age_band": "age"}.get(result.grouping, result.grouping)
    return f"{name} {result.group}".replace("_", " / ")


def _cell(result: GroupResult, metric: str, digits: int = 2) -> str:
    value = result.metrics[metric]
    digits = 1 if "accuracy" in metric else digits
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _percent(result: GroupResult) -> str:
    value = result.metrics["coverage(90%)"]
    if result.small:
        return "too few"
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


if __name__ == "__main__":
    main()
