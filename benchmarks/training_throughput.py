"""Images a second of the whole epoch loop against the same optimiser step on a batch that is already there.

The loop fetches crops from memory, augments, steps and averages the weights; the bare step does forward,
backward and AdamW on one fixed batch. Both run in turn, a few times; the ratio is of their medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from agelens.data.crop_set import CropSet
from agelens.label_distribution import AgeBins
from agelens.methods.lrn import LabelRefinery
from agelens.training.fit import _Trainer
from agelens.training.recipe import Recipe
from agelens.training.run import Run
from agelens.training.stage import Batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16, help="steps of one measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    arguments = parser.parse_args()

    recipe = Recipe.load(
        "lrn-utkface",
        [
            f"network.input_size={arguments.size}",
            "train.sizes=[]",
            f"train.precision={arguments.precision!r}",
            f"train.batch_size={arguments.batch}",
            "train.epochs=1000",
        ],
    )
    random = np.random.default_rng(0)
    count = arguments.steps * arguments.batch
    pixels = random.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)
    crops = CropSet(pixels, random.integers(0, 101, count).astype(np.float32), np.arange(count))
    stage = LabelRefinery(recipe, AgeBins(0, 100)).stages()[0]
    accelerator = Accelerator(mixed_precision=arguments.precision, cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", recipe, {})
        trainer = _Trainer(run, stage, accelerator, crops, crops, None, seed=0)
        images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
        images = images.contiguous(memory_format=torch.channels_last)
        batch = Batch(images, torch.from_numpy(crops.labels()[: arguments.batch]))

        def bare() -> float:
            started = time.perf_counter()
            for _ in range(arguments.steps):
                with accelerator.autocast():
                    loss = stage.loss(trainer.network(images), batch)["loss"]
                trainer.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                trainer.optimizer.step()
            return count / (time.perf_counter() - started)

        def loop() -> float:
            return trainer._epoch(0)["images/s"]

        bare(), loop()
        pairs = [(loop(), bare()) for _ in range(arguments.repeats)]
    whole, step = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"resnet10-tiny, {arguments.size} px, batch {arguments.batch}, precision {arguments.precision},")
    print(f"{torch.get_num_threads()} threads: loop {whole:.0f} images/s, bare step {step:.0f}, ", end="")
    print(f"ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
