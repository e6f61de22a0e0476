"""Training in several processes: batch norms of a process each, and a run of which processes are killed."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agelens.experiments.train import train
from agelens.training.recipe import Recipe
from agelens.training.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # processes of PyTorch start slowly on a busy machine
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc"),
]

BATCH = 16


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [float(generator.integers(0, 81)) for _ in range(80)]
    return make_crops(ages, 48, split=["train"] * 64 + ["val"] * 16)


def recipe(**train_settings: object) -> Recipe:
    table = {
        "name": "test",
        "seed": 3,
        "age_bins": "0-80",
        "method": {"name": "baseline", "settings": {"objective": "dldl"}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32, "heads": ["ldl"]},
        "train": {
            "epochs": 2,
            "batch_size": BATCH,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            **train_settings,
        },
        # The whole crop: otherwise each process draws views of its own
        "augment": {"scale": [1.0, 1.0], "aspect": [1.0, 1.0], "flip": 0.0},
    }
    return Recipe.validate(table, "test")


def launch(count: int, settled: Recipe, manifest: Path, out: Path) -> subprocess.Popen[str]:
    """Begin ``agelens train --resume`` in several processes."""
    file = out.with_suffix(".toml")
    file.write_text(settled.to_toml())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    words = ["-m", "agelens", "train", file, "--data", manifest, "--out", out, "--cpu", "--resume"]
    return subprocess.Popen(
        [*torchrun, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(running: subprocess.Popen[str]) -> None:
    _, told = running.communicate()
    assert running.returncode == 0, told[-2000:]


def epochs(out: Path) -> int:
    """Epochs that a run has logged."""
    try:
        with open(out / "baseline" / "log.csv", newline="") as handle:
            return len(list(csv.DictReader(handle)))
    except OSError:
        return 0


def until(out: Path, epoch: int, running: subprocess.Popen[str]) -> None:
    """Wait for an epoch of a run."""
    while epochs(out) < epoch:
        assert running.poll() is None, running.communicate()[1][-2000:]
        time.sleep(0.01)


def processes(out: Path) -> dict[int, int]:
    """The processes that train a run, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            entries = (folder / "environ").read_bytes().split(b"\0")
            settings = dict(entry.partition(b"=")[::2] for entry in entries)
        except OSError:  # it has ended, or is another user's
            continue
        if str(out).encode() in words and b"RANK" in settings:
            found[int(settings[b"RANK"])] = int(folder.name)
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_what_one_does_in_parts_of_a_batch(
    count: int, manifest: Path, tmp_path: Path
) -> None:
    """Without synchronised norms each process sees its share alone, as by ``ghost_batch`` in one process."""
    finish(launch(count, recipe(epochs=1), manifest, tmp_path / "several"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes: sums in the same order
    try:
        train(recipe(epochs=1, ghost_batch=BATCH // count), manifest, tmp_path / "parts", cpu=True)
        train(recipe(epochs=1), manifest, tmp_path / "whole", cpu=True)
    finally:
        torch.set_num_threads(threads)
    several, parts, whole = (
        load_file(Run.open(tmp_path / name).network_file("baseline"))
        for name in ("several", "parts", "whole")
    )
    weights = [name for name in several if "running_" not in name and "num_batches" not in name]
    assert len(weights) > 20

    def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return sum(float((a[name] - b[name]).square().sum()) for name in weights) ** 0.5

    # Gradients are summed in another order, and norms over few images enlarge what that rounds off.
    assert apart(several, parts) < 0.05 * apart(several, whole)


def test_killed_processes_resume_to_the_same_bytes(manifest: Path, tmp_path: Path) -> None:
    settled = recipe(epochs=24, average=0.9, optimizer="adamw", learning_rate=0.003)
    finish(launch(2, settled, manifest, tmp_path / "whole"))
    out = tmp_path / "killed"

    running = launch(2, settled, manifest, out)
    until(out, 2, running)
    os.kill(processes(out)[1], signal.SIGKILL)  # one of them
    running.communicate()
    assert running.returncode != 0
    assert not Run.open(out).finished("baseline")

    running = launch(2, settled, manifest, out)
    until(out, epochs(out) + 2, running)
    for process in (running.pid, *processes(out).values()):  # all of them, torchrun first
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    running.communicate()
    assert not Run.open(out).finished("baseline")

    finish(launch(2, settled, manifest, out))
    assert epochs(out) == 24
    written = [Run.open(path).network_file("baseline").read_bytes() for path in (out, tmp_path / "whole")]
    assert written[0] == written[1]
