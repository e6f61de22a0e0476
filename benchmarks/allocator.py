"""Training steps on the CPU with memory kept by the process against the same with glibc's defaults.

Each measurement is a process of its own (the setting cannot be taken back), in turn; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from agelens.label_distribution import AgeBins
from agelens.losses import age_cross_entropy
from agelens.methods.memory import keep_freed_memory
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone


def measure(backbone: str, size: int, batch: int, seconds: float, kept: bool) -> tuple[float, float]:
    """Images a second of forward, backward and AdamW on one batch, and the peak of memory in MB."""
    if kept and not keep_freed_memory():
        raise SystemExit("this C library has no such setting")
    trunk = make_backbone(backbone)
    network = AgeNetwork(trunk, AgeHead(trunk.num_features, AgeBins(0, 100), ("ldl",), 2.0))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    ages = torch.randint(0, 101, (batch,))

    def step() -> None:
        logits = network(images).logits
        assert logits is not None
        optimizer.zero_grad(set_to_none=True)
        age_cross_entropy(logits, ages, 2.0).backward()
        optimizer.step()

    for _ in range(3):
        step()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step()
        steps += 1
    speed = steps * batch / (time.perf_counter() - started)
    return speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=("kept", "default"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kept = arguments.measure == "kept"
        print(
            json.dumps(measure(arguments.backbone, arguments.size, arguments.batch, arguments.seconds, kept))
        )
        return
    results: dict[str, list[tuple[float, float]]] = {"kept": [], "default": []}
    for _ in range(arguments.repeats):
        for name, measured in results.items():
            done = subprocess.run(
                [sys.executable, *sys.argv, "--measure", name], check=True, capture_output=True, text=True
            )
            measured.append(tuple(json.loads(done.stdout)))
    speeds = {name: statistics.median(speed for speed, _ in measured) for name, measured in results.items()}
    threads = torch.get_num_threads()
    print(f"{arguments.backbone}, {arguments.size} px, batch {arguments.batch}, threads: {threads}")
    for name, measured in results.items():
        print(f"  {name}: {speeds[name]:.1f} images/s, {max(peak for _, peak in measured):.0f} MB at most")
    print(f"  ratio {speeds['kept'] / speeds['default']:.2f}")


if __name__ == "__main__":
    main()
