"""Images a second of the whole epoch loop against the same optimiser step on a batch that is already there.

The loop fetches crops from memory, augments, steps and averages the weights; the bare step does forward,
backward and the optimiser's step on one fixed batch. Both run in turn, a few times; the ratio is the median
of their pairs. On the CPU both are also timed by the processor time that they take, which neighbours on the
machine change little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
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
    parser.add_argument("--backbone", default="resnet10-tiny")
    parser.add_argument("--size", type=int, default=112, help="side of the network's input, pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16, help="steps of one measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--randaugment", type=int, default=0, help="operations an image")
    parser.add_argument("--compile", action="store_true", help="torch.compile, in the loop and the bare step")
    parser.add_argument("--accelerator", action="store_true", help="use the one there is; else the CPU")
    arguments = parser.parse_args()

    recipe = Recipe.load(
        "lrn-utkface",
        [
            f"network.backbone={arguments.backbone!r}",
            f"network.input_size={arguments.size}",
            "train.sizes=[]",
            f"train.precision={arguments.precision!r}",
            f"train.batch_size={arguments.batch}",
            "train.epochs=1000",
            f"augment.randaugment={arguments.randaugment}",
            *(["train.compile=true"] if arguments.compile else []),
        ],
    )
    random = np.random.default_rng(0)
    count, side = arguments.steps * arguments.batch, round(arguments.size * 8 / 7)
    pixels = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    crops = CropSet(pixels, random.integers(0, 101, count).astype(np.float32), np.arange(count))
    stage = LabelRefinery(recipe, AgeBins(0, 100)).stages()[0]
    accelerator = Accelerator(mixed_precision=arguments.precision, cpu=not arguments.accelerator)
    device = accelerator.device
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", recipe, {})
        trainer = _Trainer(run, stage, accelerator, crops, crops, None, seed=0)
        images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(crops.labels()[: arguments.batch])
        batch = Batch(images, labels.to(device), known=labels)

        def bare() -> None:
            for _ in range(arguments.steps):
                with accelerator.autocast():
                    loss = stage.loss(trainer.runs(images), batch)["loss"]
                trainer.optimizer.zero_grad(set_to_none=True)
                accelerator.backward(loss)
                trainer.optimizer.step()
            loss.item()  # waits for a device

        def loop() -> None:
            trainer._epoch(0)

        def timed(run: Callable[[], None]) -> tuple[float, float]:
            started = time.perf_counter(), time.process_time()
            run()
            return time.perf_counter() - started[0], time.process_time() - started[1]

        trainer.network.train()
        bare(), loop()
        pairs = [(timed(loop), timed(bare)) for _ in range(arguments.repeats)]
    with_what = f", randaugment {arguments.randaugment}" if arguments.randaugment else ""
    with_what += ", compiled" if arguments.compile else ""
    print(
        f"{arguments.backbone}, {arguments.size} px, batch {arguments.batch}, precision {arguments.precision}"
        f"{with_what}, {device}, {torch.get_num_threads()} threads"
    )
    clocks = ("wall clock",) if arguments.accelerator else ("wall clock", "processor time")
    for index, name in enumerate(clocks):
        rates = [[count / times[index] for times in pair] for pair in pairs]
        loops, steps = (statistics.median(column) for column in zip(*rates, strict=True))
        ratios = sorted(loop_rate / bare_rate for loop_rate, bare_rate in rates)
        middle = statistics.median(ratios)
        print(f"{name}: loop {loops:.0f} images/s, bare step {steps:.0f}, ratio {middle:.3f}", end=" ")
        print(f"({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
