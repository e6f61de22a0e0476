"""Seconds and memory an item as the work grows: photos to Parquet, training crops through an epoch's input.

Each size runs in a process of its own, which tells its processor time and its largest resident memory; the
ratios are to the smallest size. The photos are a hundred generated crops, named again and again; the training
crops are generated into a file that is mapped, drawn in the order of an epoch and augmented.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_MODEL = "resnet10-tiny-lrn-utkface"


def photos(count: int, folder: Path) -> dict[str, float]:
    """Estimate aligned crops into one Parquet file."""
    from PIL import Image

    from agelens.inference.estimator import AgeEstimator
    from agelens.inference.parquet import write_parquet

    random, names = np.random.default_rng(0), []
    for number in range(100):
        names.append(folder / f"{number}.png")
        pixels = np.kron(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
        Image.fromarray(pixels).save(names[-1])
    estimator, out = AgeEstimator(_MODEL), folder / "ages.parquet"
    write_parquet(estimator.estimate_many(names, aligned=True), out)
    started = time.process_time()
    write_parquet(estimator.estimate_many(itertools.islice(itertools.cycle(names), count), aligned=True), out)
    return {"seconds": time.process_time() - started, "file": out.stat().st_size}


def crops(count: int, folder: Path) -> dict[str, float]:
    """Make every view of an epoch of ``count`` training crops of 64 px."""
    import torch

    from agelens.data.crop_set import CropSet
    from agelens.training.crop_source import crop_tensor
    from agelens.training.transforms import Augmentation, augment

    random = np.random.default_rng(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 64, 64, 3)}
    with open(folder / "crops.npy", "wb") as handle:  # not through a map, whose pages would count as resident
        np.lib.format.write_array_header_1_0(handle, header)
        for start in range(0, count, 1000):
            of_block = (min(1000, count - start), 64, 64, 3)
            handle.write(random.integers(0, 256, of_block, dtype=np.uint8).data)
    mapped = np.load(folder / "crops.npy", mmap_mode="r")
    of_set = CropSet(mapped, np.zeros(count, np.float32), np.arange(count))
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    settings = Augmentation(rotation=8, brightness=0.2, erase=0.1)
    started = time.process_time()
    rows = torch.randperm(count, generator=generator).numpy()
    for start in range(0, count - 127, 128):
        augment(crop_tensor(of_set, rows[start : start + 128], cpu), settings, 56, generator)
    return {"seconds": time.process_time() - started, "file": (folder / "crops.npy").stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--crops", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, count = arguments.one
        with tempfile.TemporaryDirectory() as folder:
            found = {"photos": photos, "crops": crops}[kind](int(count), Path(folder))
        found["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(found))
        return
    for kind, counts in (("photos", arguments.photos), ("crops", arguments.crops)):
        first = None
        for count in counts:
            command = [sys.executable, __file__, "--one", kind, str(count)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            each = found["seconds"] / count
            first = first or (each, found["resident"])
            print(
                f"{kind} {count:>7,}: {1000 * each:.3f} ms each ({each / first[0]:.2f} x), "
                f"{found['file'] / count:.0f} bytes each on disk, {found['resident'] / 1e6:.0f} MB resident "
                f"({found['resident'] / first[1]:.2f} x)"
            )


if __name__ == "__main__":
    main()
