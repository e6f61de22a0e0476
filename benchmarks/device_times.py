"""Size and time per face of networks by name in PyTorch, on any device: Tables I and IV of Zhao et al. 2020.

The weights are random: neither size nor time depends on them. A megabyte is 2^20 bytes of float32, as in the
paper. The time is that of a forward pass of ``--batch`` faces, divided by their number: the median over
``--repeats``, the device waited for. The paper's times are of a GTX 1080 Ti, its batch is not said.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone
from agelens.rehearsal import cut_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", help="backbone:side, such as zca5:student-normal:112")
    parser.add_argument("--ages", type=int, default=62, help="k, the number of ages")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    for text in arguments.networks:
        name, _, side = text.rpartition(":")
        backbone = make_backbone(name)
        head = AgeHead(backbone.num_features, AgeBins(0, arguments.ages - 1), ("ldl",))
        network = AgeNetwork(backbone, head).eval().to(device)
        size = cut_side(int(side))
        images = torch.rand(arguments.batch, 3, size, size, device=device)
        times = []
        with torch.inference_mode():
            for number in range(arguments.repeats + 5):
                wait()
                began = time.perf_counter()
                network(images)
                wait()
                if number >= 5:
                    times.append((time.perf_counter() - began) / arguments.batch)
        megabytes = sum(4 * weight.numel() for weight in network.parameters()) / 2**20
        print(
            f"{text}: {megabytes:.2f} MB, {1e3 * statistics.median(times):.3f} ms a face "
            f"({arguments.device}, batch {arguments.batch}, fastest {1e3 * min(times):.3f})"
        )


if __name__ == "__main__":
    main()
