#!/usr/bin/env python3
"""Kill workers and drivers of a fleet on a local cluster of two nodes: every photo has exactly one row.

Needs the extra fleet. The photos are face chips, one row each: ordinary ones, one that kills the process
that searches it for a face (as a decoder that crashes would), a damaged and a missing one. While the driver
works, a worker is killed with SIGKILL, then the driver itself, which is started again. With --measure N,
photos a second of one and two workers of the fleet and of ``predict --workers``, in turn; two workers are
only faster than one where two cores are free.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from agelens.fleet import predict_fleet
from agelens.inference.entries import PredictionTask
from agelens.inference.estimator import AgeEstimator
from agelens.inference.parquet import RowsFormat, write_rows

_DETECTOR = '''
import os, signal, time

class Deadly:
    """Finds no face; ends the process at a photo that is all red."""

    name = "deadly"

    def __init__(self, threads=1):
        pass

    def detect(self, image):
        time.sleep(0.02)
        if image.reshape(-1, 3).mean(0)[0] > 240 > 20 > image.reshape(-1, 3).mean(0)[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return []
'''
_MODEL = "resnet10-tiny-lrn-utkface"
_PARTITION = 32  # photos of a file, where the time is taken
_SECONDS = 600  # that a check waits for something to happen


def main() -> int:
    """Run the check; 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--measure", type=int, default=0, metavar="N", help="time N photos, too")
    arguments = parser.parse_args()
    if arguments.photos < 80:
        parser.error("--photos: fewer than 80 are done before the driver is killed")
    with tempfile.TemporaryDirectory(prefix="fleet") as temporary:
        folder = Path(temporary)
        (folder / "fleet_parts.py").write_text(_DETECTOR)
        paths = [str(Path(__file__).parents[1] / "src"), str(folder), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ.setdefault("RAY_worker_niceness", "0")  # as the local path, also on a busy machine
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        try:
            problems = check(folder, cluster.address, arguments.photos)
            if arguments.measure:
                measure(folder, cluster.address, arguments.measure)
        finally:
            cluster.shutdown()
    print(f"{problems} problems")
    return int(problems > 0)


def check(folder: Path, address: str, count: int) -> int:
    """Kill a worker and the driver in one task; the number of things that went wrong."""
    names = [*_photos(folder / "photos", count), str(folder / "photos" / "missing.png")]
    Image.new("RGB", (64, 64), (255, 0, 0)).save(names[count // 2])
    Path(names[3]).write_bytes(b"no image")
    listed, out = folder / "list.txt", folder / "ages"
    listed.write_text("\n".join(names) + "\n")
    options = ["--crops", "--detector", "fleet_parts:Deadly", "--partition", "10"]
    driver = _driver(listed, out, address, options)
    _wait(lambda: len(_parts(out)) >= 2, driver)
    killed = _kill_a_worker()
    _wait(lambda: len(_parts(out)) >= 5, driver)
    driver.kill()
    driver.wait()
    kept = len(_parts(out))
    driver = _driver(listed, out, address, options)
    driver.wait(_SECONDS)
    rows = [row for file in _parts(out) for row in pq.read_table(file).to_pylist()]
    found = Counter(row["path"] for row in rows)
    without = {row["path"]: row["error"] for row in rows if row["age"] is None}
    problems = [f"{name}: {found[name]} rows" for name in names if found[name] != 1]
    problems += [f"{name}: not asked for" for name in found if name not in set(names)]
    expected = {names[3], names[count // 2], names[-1]}
    problems += [f"{name}: {without.get(name)}" for name in expected ^ set(without)]
    if "died" not in str(without.get(names[count // 2])):
        problems.append(f"the photo that kills: {without.get(names[count // 2])}")
    if driver.returncode != 1:
        problems.append(f"the driver's exit code is {driver.returncode}")
    print(
        f"{len(names)} photos, {len(_parts(out))} partitions; a worker (process {killed}) and the driver "
        f"killed, the driver started again after {kept}; {len(rows)} rows, {len(without)} with an error"
    )
    for problem in problems[:20]:
        print(problem)
    return len(problems)


def measure(folder: Path, address: str, count: int) -> None:
    """Photos a second of the fleet and of the local path, in turn, once all workers are at work.

    By the clock, and by the processor: seconds of this process, its workers and all of Ray, which other work
    on the machine changes less. The first quarter, in which workers start, is left out: thousands of photos.
    """
    names, estimator = _photos(folder / "timed", count), AgeEstimator(_MODEL)
    rates: dict[str, list[_Mark]] = {"local 1": [], "fleet 1": [], "local 2": [], "fleet 2": []}
    for repeat in range(3):
        for name, of_name in rates.items():
            where, workers = name.split()
            out = folder / f"timed-{repeat}-{where}-{workers}"
            made = _local_marks if where == "local" else _fleet_marks
            marks = made(names, out, estimator, int(workers), address)
            marks = marks[len(marks) // 4 :]
            spent = [last - first for first, last in zip(marks[0], marks[-1], strict=True)]
            of_name.append((spent[2] / spent[0], spent[2] / spent[1], spent[2]))
    for index, by in enumerate(("clock", "processor")):
        shown = {name: [marks[index] for marks in of_name] for name, of_name in rates.items()}
        for name, column in shown.items():
            print(f"{name}, by the {by}: {statistics.median(column):.1f} photos/s", end=" ")
            print(f"({min(column):.1f} to {max(column):.1f})")
        for over, under in (("fleet 1", "local 1"), ("fleet 2", "local 2"), ("fleet 2", "fleet 1")):
            ratios = [first / second for first, second in zip(shown[over], shown[under], strict=True)]
            print(f"{over} to {under}, by the {by}: {statistics.median(ratios):.3f}", end=" ")
            print(f"({min(ratios):.3f} to {max(ratios):.3f})")


_Mark = tuple[float, float, float]
"""Seconds of the clock, seconds of the processor, and photos done."""


def _mark(done: int) -> _Mark:
    return time.perf_counter(), _processor_seconds(), float(done)


def _processor_seconds() -> float:
    """Of this process and of all that it started, with those that have ended."""
    found: dict[int, tuple[int, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found[int(folder.name)] = int(words[1]), sum(map(int, words[11:15]))
    ours = {os.getpid()}
    while more := {number for number, (parent, _) in found.items() if parent in ours} - ours:
        ours |= more
    return sum(found[number][1] for number in ours) / os.sysconf("SC_CLK_TCK")


def _fleet_marks(
    names: list[str], out: Path, estimator: AgeEstimator, workers: int, address: str
) -> list[_Mark]:
    marks: list[_Mark] = []
    predict_fleet(
        *(names, out),
        estimator=estimator,
        crops=True,
        partition=_PARTITION,
        workers=workers,
        address=address,
        report=lambda done, _: marks.append(_mark(done)),
    )
    return marks


def _local_marks(names: list[str], out: Path, estimator: AgeEstimator, workers: int, _: str) -> list[_Mark]:
    marks: list[_Mark] = []
    form = RowsFormat(0.9, 18)

    def texts() -> Iterator[str]:
        entries = PredictionTask(estimator, form, crops=True).entries(names, workers)
        for done, entry in enumerate(entries, start=1):
            if done % _PARTITION == 0:
                marks.append(_mark(done))
            yield entry.text

    with open(out, "wb") as handle:
        write_rows(texts(), handle)
    return marks


def _photos(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    random = np.random.default_rng(0)
    names = [str(folder / f"{number:05d}.png") for number in range(count)]
    for name in names:
        pixels = np.kron(random.integers(60, 200, (8, 8, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
        Image.fromarray(pixels).save(name)
    return names


def _driver(listed: Path, out: Path, address: str, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agelens", "predict", listed, "--engine", "ray", "--out", out]
    command += ["--ray-address", address, "--model", _MODEL, *options]
    return subprocess.Popen([str(part) for part in command])


def _parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


def _wait(happened: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not happened():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the driver ended too early, or hangs (exit code {driver.poll()})")
        time.sleep(0.05)


def _kill_a_worker() -> int:
    """End one of the processes that Ray runs workers in; its number."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::FleetWorker"):
            os.kill(int(folder.name), signal.SIGKILL)
            return int(folder.name)
    raise SystemExit("no process of a worker was found")


if __name__ == "__main__":
    sys.exit(main())
