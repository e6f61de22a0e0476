"""OHRank on the max-pooled features of rankers (Table VIII of Zhao et al. 2020): MAE and CA on a split.

C is chosen on the validation part among ``--penalties``. ``--synthetic N`` instead times the fit on N drawn
feature vectors as long as PVP's (24,064 values, 70 machines), half of them and all of them, and extrapolates
to ``--faces`` in proportion, which the script says: a pass over the features is most of the time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.methods.ohrank import PENALTIES, OrdinalHyperplanes, pooled_features
from agelens.metrics import cumulative_accuracy, mae
from agelens.networks.stored import load_network
from agelens.training.run import locate_network

PVP_VALUES, MACHINES = 24_064, 70


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("rankers", nargs="*", type=Path, help="runs with a finished stage 'ranker'")
    parser.add_argument("--images", type=int, default=0, help="most training faces, evenly spaced; 0: all")
    parser.add_argument("--split", default="val")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--penalties", type=float, nargs="+", default=PENALTIES)
    parser.add_argument("--synthetic", type=int, metavar="N", help="time the fit on N drawn faces")
    parser.add_argument("--faces", type=int, default=33_000, help="number that the times are extrapolated to")
    arguments = parser.parse_args()
    if arguments.synthetic:
        measure(arguments.synthetic, arguments.faces, arguments.penalties, arguments.device)
        return
    if arguments.manifest is None or not arguments.rankers:
        parser.error("a manifest and runs are needed, or --synthetic")
    rows = read_manifest(arguments.manifest)
    training = rows[rows["split"] == "train"]
    most = min(arguments.images or len(training), len(training))
    chosen = np.unique(np.linspace(0, len(training) - 1, most).astype(int))
    train = load_crops(training.iloc[chosen])
    val, judged = (load_crops(rows[rows["split"] == name]) for name in ("val", arguments.split))
    for run in arguments.rankers:
        network = load_network(locate_network(run, "ranker")[1]).to(arguments.device)
        machines = OrdinalHyperplanes(device=arguments.device)
        began = time.perf_counter()
        found = machines.fit_best(
            *(pooled_features(network, train), train.ages),
            *(pooled_features(network, val), val.ages),
            arguments.penalties,
        )
        seconds = time.perf_counter() - began
        ages = machines.predict(pooled_features(network, judged)).astype(np.float64)
        accuracies = [cumulative_accuracy(ages, judged.ages, n) for n in (3, 5, 7)]
        figures = " / ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        print(
            f"{run.name}: C {machines.penalty:g} of {', '.join(f'{c:g}: {e:.2f}' for c, e in found.items())}"
        )
        print(
            f"{run.name} ({network.settings['trunk']}, {len(train)} faces, {seconds:.0f} s on "
            f"{arguments.device}): MAE {mae(ages, judged.ages):.3f}, CA(3) / CA(5) / CA(7) {figures}"
        )


def measure(count: int, faces: int, penalties: tuple[float, ...], device: str) -> None:
    """Time ``fit_best`` on drawn features, whose directions tell the age through much noise."""
    random = np.random.default_rng(0)
    ages = random.integers(0, MACHINES + 1, count).astype(np.float64)
    direction = random.normal(0, 1, PVP_VALUES).astype(np.float32)
    features = random.normal(0, 1, (count, PVP_VALUES)).astype(np.float32)
    features += 0.02 * np.outer((ages - ages.mean()).astype(np.float32) / 20, direction)
    held = max(1, count // 8)
    for number in (count // 2, count):
        machines = OrdinalHyperplanes(device=device)
        began = time.perf_counter()
        machines.fit_best(features[:number], ages[:number], features[:held], ages[:held], penalties)
        seconds = time.perf_counter() - began
        whole = seconds * faces / number / 60
        print(
            f"{number} faces, {len(penalties)} values of C, {device}: {seconds:.1f} s, "
            f"{machines.passes} passes; in proportion, {faces} faces take {whole:.0f} minutes"
        )


if __name__ == "__main__":
    main()
