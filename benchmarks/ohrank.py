"""OHRank on the max-pooled features of rankers (Table VIII of Zhao et al. 2020): MAE and CA on a split.

Fitting a machine for each age takes minutes on thousands of faces: ``--images`` takes as many, evenly spaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from agelens.data.crops import load_crops
from agelens.data.manifest import read_manifest
from agelens.methods.ohrank import OrdinalHyperplanes, pooled_features
from agelens.metrics import cumulative_accuracy, mae
from agelens.networks.stored import load_network
from agelens.training.run import locate_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("rankers", nargs="+", type=Path, help="runs with a finished stage 'ranker'")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()

    rows = read_manifest(arguments.manifest)
    training = rows[rows["split"] == "train"]
    chosen = np.unique(np.linspace(0, len(training) - 1, min(arguments.images, len(training))).astype(int))
    train = load_crops(training.iloc[chosen])
    judged = load_crops(rows[rows["split"] == arguments.split])
    for run in arguments.rankers:
        network = load_network(locate_network(run, "ranker")[1])
        machines = OrdinalHyperplanes().fit(pooled_features(network, train), train.ages)
        ages = machines.predict(pooled_features(network, judged)).astype(np.float64)
        accuracies = [cumulative_accuracy(ages, judged.ages, n) for n in (3, 5, 7)]
        figures = " / ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        trunk = network.settings["trunk"]
        print(f"{run.name} ({trunk}): MAE {mae(ages, judged.ages):.3f}, CA(3) / CA(5) / CA(7) {figures}")


if __name__ == "__main__":
    main()
