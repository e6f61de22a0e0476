"""Is the age of a face in a picture the age of its chip?

Each UTKFace test chip is pasted, at a seeded place, into a larger picture of seeded smooth noise, and
estimated as a photograph (detect, align, estimate); the same chip is estimated as ``--crops`` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from agelens import AgeEstimator
from agelens.faces.image import read_image
from agelens.metrics import mae, paired_bootstrap


def inside_a_picture(chip: np.ndarray, random: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3): the chip somewhere in smooth noise."""
    coarse = random.integers(40, 216, (6, 6, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    y, x = random.integers(0, side - chip.shape[0]), random.integers(0, side - chip.shape[1])
    picture[y : y + chip.shape[0], x : x + chip.shape[1]] = chip
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chips", type=Path, help="folder of UTKFace chips")
    parser.add_argument("--model")
    parser.add_argument("--side", type=int, default=480)
    arguments = parser.parse_args()

    from agelens.data.adapt import read_dataset

    rows = read_dataset("utkface", arguments.chips)
    rows = rows[rows["split"] == "test"]
    estimator = AgeEstimator(arguments.model)
    random = np.random.default_rng(0)
    ages, chip_ages, picture_ages, missed = [], [], [], 0
    for path, age in zip(rows["path"], rows["age"], strict=True):
        chip = read_image(Path(rows.attrs["root"]) / path)
        as_chip = estimator.estimate_chip(chip)
        faces = estimator.estimate(inside_a_picture(chip, random, arguments.side))
        if not faces:
            missed += 1
            continue
        ages.append(age), chip_ages.append(as_chip.age), picture_ages.append(faces[0].age)
    truth = np.array(ages)
    chips, pictures = np.abs(np.array(chip_ages) - truth), np.abs(np.array(picture_ages) - truth)
    found = paired_bootstrap(pictures, chips)
    print(f"{len(ages)} chips found in the picture, {missed} not ({missed / len(rows):.2%})")
    print(
        f"MAE by --crops {mae(chip_ages, truth):.3f}, in a picture {mae(picture_ages, truth):.3f}, ", end=""
    )
    print(f"difference {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")


if __name__ == "__main__":
    main()
