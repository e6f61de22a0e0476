"""An epoch of the classification stage on kept features against the same epoch with the trunk in the loop.

Both draw the same crops and end in the same FC layer (tests/test_balanced.py); the trunk's one pass over all
crops, which the kept features cost before the first epoch, is measured beside them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from agelens.data.crop_set import CropSet
from agelens.label_distribution import AgeBins
from agelens.methods.balanced import BalancedSettings, BalancedStage
from agelens.methods.lae import LongTailed
from agelens.training.fit import _Trainer
from agelens.training.recipe import Recipe
from agelens.training.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="lae-utkface")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    recipe = Recipe.load(arguments.recipe)
    bins = AgeBins(0, 100)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (arguments.images, 128, 128, 3), dtype=np.uint8)
    ages = random.integers(1, 82, arguments.images).astype(np.float32)
    crops = CropSet(pixels, ages, np.arange(arguments.images))
    accelerator = Accelerator(cpu=True)
    trunk = LongTailed(recipe, bins).stages()[0].network().eval().requires_grad_(False)
    once: list[float] = []
    with tempfile.TemporaryDirectory() as folder:

        def trainer(cache: bool) -> _Trainer:
            stage = BalancedStage(recipe, BalancedSettings(cache=cache), bins, ())
            stage.trunk, stage.mae = trunk, 5.0
            stage.look(crops, crops.select(np.arange(len(crops)) < 1))
            started = time.perf_counter()
            stage.to(accelerator.device)
            once.append(time.perf_counter() - started)
            run = Run.create(Path(folder) / f"cache-{cache}", recipe, {})
            return _Trainer(run, stage, accelerator, crops, crops, None, seed=0)

        kept, looped = trainer(True), trainer(False)

        def seconds(one: _Trainer) -> float:
            started = time.perf_counter()
            one._epoch(0)
            return time.perf_counter() - started

        seconds(kept), seconds(looped)
        pairs = [(seconds(kept), seconds(looped)) for _ in range(arguments.repeats)]
    fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{recipe.network.backbone}, {recipe.network.input_size} px, {arguments.images} crops: an epoch",
        end=" ",
    )
    print(
        f"{fast:.3f} s on kept features (computed once in {once[0]:.1f} s), {slow:.2f} s with the trunk,",
        end=" ",
    )
    print(f"ratio {slow / fast:.0f}; eight epochs all in, ratio {8 * slow / (8 * fast + once[0]):.1f}")


if __name__ == "__main__":
    main()
