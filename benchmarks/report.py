"""The report of 100,000 predictions with distributions: seconds, processor seconds and memory of the command.

Drawn labels (age, gender, ethnicity, pose, landmarks) and drawn predictions with 101 age bins are written to
a folder; then ``agelens evaluate predictions.csv --report`` runs on them in a process of its own, with all
default groupings, their crossings and 2,000 bootstrap replicates. Wanted: under 20 s and 1 GB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from agelens.data.manifest import write_manifest
from agelens.data.predictions import Predictions, check_predictions, write_predictions
from agelens.label_distribution import AgeBins, gaussian


def draw(folder: Path, images: int) -> None:
    random = np.random.default_rng(0)
    ages = np.minimum(random.gamma(3.0, 12.0, images), 100).round()
    paths = [f"faces/{number:06d}.png" for number in range(images)]
    eyes = random.uniform(10, 150, images)
    labels = pd.DataFrame(
        {
            "path": paths,
            "age": ages,
            "gender": random.choice(["male", "female"], images),
            "ethnicity": random.choice(["White", "Black", "Asian", "Indian", "Other"], images),
            "pose": random.normal(0, 20, images).round(1),
            "landmarks": [f"0 0 {distance:.1f} 0 5 5 0 9 9 9" for distance in eyes],
            "split": "test",
        }
    )
    write_manifest(labels, folder / "manifest.csv")
    estimates = np.clip(ages + random.normal(0, 5, images), 0, 100)
    table = check_predictions(pd.DataFrame({"path": paths, "age": estimates}), "drawn")
    bins = AgeBins(0, 100)
    predictions = Predictions(table, gaussian(estimates, bins, 5.0), bins, "drawn")
    write_predictions(predictions, folder / "predictions.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, arguments.images)
        command = [
            *(sys.executable, "-m", "agelens", "evaluate", folder / "predictions.csv"),
            *("--data", folder / "manifest.csv", "--report", folder / "report"),
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit("the report failed")
        size = (folder / "report" / "report.html").stat().st_size
    kilobyte = 1 if sys.platform == "darwin" else 1024
    print(
        f"{arguments.images:,} predictions: {seconds:.1f} s "
        f"({used.ru_utime + used.ru_stime:.1f} s of processor), "
        f"{used.ru_maxrss * kilobyte / 1e6:.0f} MB at most, report.html {size / 1e6:.2f} MB; "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
