"""Resident memory while many crops are decoded and drawn: it must not grow with their number.

    python benchmarks/large_crops.py FOLDER --crops 100000 --side 64

Writes the crops (one drawing, linked under many names), decodes them into the cache, then draws random
batches as an epoch does. Prints the resident memory of this process before, at most while decoding, and at
most while drawing; Linux only (/proc).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest


def resident() -> float:
    """Resident memory of this process, pages of mapped files included, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    raise SystemExit("/proc/self/status has no VmRSS")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an empty folder with room for the crops")
    parser.add_argument("--crops", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    random = np.random.default_rng(0)
    for number in range(arguments.crops):
        path = folder / f"{number // 1000:03d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 1000 == 0:
            pixels = random.integers(0, 256, (arguments.side, arguments.side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            first = path
        else:
            path.hardlink_to(first)
    names = [f"{number // 1000:03d}/{number}.png" for number in range(arguments.crops)]
    pd.DataFrame({"path": names, "age": 30.0}).to_csv(folder / "manifest.csv", index=False)
    rows = read_manifest(folder / "manifest.csv")
    load_crops(rows.iloc[:512], cache=False)
    before, seen = resident(), [0.0]
    start = time.perf_counter()
    crops = load_crops(rows, progress=lambda *_: seen.append(resident()))
    decoded, decoding = time.perf_counter() - start, max(seen)
    seen = []
    start = time.perf_counter()
    for batch in np.array_split(random.permutation(len(crops)), len(crops) // 128):
        crops.crops(batch)
        seen.append(resident())
    size = len(crops) * arguments.side**2 * 3 / 1e6
    print(f"{len(crops):,} crops of {arguments.side} px, {size:,.0f} MB decoded")
    print(f"resident before: {before:.0f} MB")
    print(f"resident while decoding, at most: {decoding:.0f} MB ({decoded:.0f} s)")
    print(
        f"resident while an epoch is drawn, at most: {max(seen):.0f} MB ({time.perf_counter() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
