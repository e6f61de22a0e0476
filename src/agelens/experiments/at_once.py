"""Independent trainings at the same time, each in a process of its own, here or where another place has room.

A training that is stopped or killed has its checkpoint of the last epoch, and continues from it when it is
asked for again.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import torch

from agelens.cores import usable_cores
from agelens.errors import AgelensError, RunError
from agelens.experiments.train import train
from agelens.training.fit import Reporter
from agelens.training.recipe import Recipe
from agelens.training.run import Run
from agelens.workers import follow_parent

__all__ = ["Elsewhere", "Place", "Training", "each"]

_DEVICES = "CUDA_VISIBLE_DEVICES"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Training:
    """Arguments of :func:`agelens.experiments.train.train`.

    Attributes:
        recipe: See there.
        manifest: See there.
        out: The run folder; a run that is there goes on.
        start: See there.
        cpu: See there.
        random_start: See there.
    """

    recipe: Recipe
    manifest: Path
    out: Path
    start: str | None
    cpu: bool
    random_start: bool = False

    def run(self, reporter: Reporter | None = None, loading: Callable[[int, int], None] | None = None) -> Run:
        """Train in this process."""
        return train(
            self.recipe,
            self.manifest,
            self.out,
            resume=True,
            start=self.start,
            random_start=self.random_start,
            reporter=reporter,
            loading=loading,
            cpu=self.cpu,
        )


class Place(Protocol):
    """A place of trainings that run at the same time; a context manager that leaves none behind."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def jobs(self) -> int:
        """Trainings at a time; known once it is entered."""

    def train(self, training: Training) -> None:
        """Train, and wait for it; called by as many threads as there are jobs.

        Raises:
            AgelensError: The training's, or it ended without a word, or was stopped.
        """

    def stop(self) -> None:
        """End the trainings that run, and begin no other."""


def each(place: Place, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Work on items that train in a place, as many at a time as it has jobs.

    Args:
        place: Not entered yet.
        work: Called in threads; it trains by the place's ``train``.
        items: What to work on.
    Yields:
        Results in the order of the items. An error of one ends the trainings of all.
    """
    with place, ThreadPoolExecutor(place.jobs) as threads:
        try:
            yield from threads.map(work, items)
        except BaseException:
            place.stop()
            threads.shutdown(cancel_futures=True)
            raise


class Elsewhere:
    """Trains in other processes of this machine: a `Place`.

    Args:
        jobs: Trainings at a time: each has this share of the cores, and one accelerator.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._threads = max(1, usable_cores() // jobs)
        self._devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for device in _dealt(jobs, os.environ.get(_DEVICES), torch.cuda.device_count()):
            self._devices.put(device)
        self._running: set[multiprocessing.process.BaseProcess] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def train(self, training: Training) -> None:
        """Train in a process of its own; see `Place`."""
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        device = self._devices.get()
        process = context.Process(target=_work, args=(training, self._threads, device, sender))
        try:
            with self._lock:
                if self._stopped:
                    raise RunError(training.out, "was stopped before it began")
                process.start()
                self._running.add(process)
            sender.close()  # so that the end of the process is the end of the pipe
            try:
                error = receiver.recv()
            except EOFError:
                process.join()
                error = RunError(
                    training.out,
                    f"its process ended with exit code {process.exitcode} (out of memory?); "
                    "the same command continues, perhaps with fewer jobs",
                )
            process.join()
        finally:
            receiver.close()
            self._running.discard(process)
            self._devices.put(device)
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the processes; see `Place`."""
        with self._lock:
            self._stopped = True
            for process in list(self._running):
                process.terminate()


def _dealt(jobs: int, visible: str | None, number: int) -> list[str | None]:
    """The CUDA device of each job, dealt in turn; None where there is none."""
    if number == 0:
        return [None] * jobs
    names = visible.split(",") if visible else [str(index) for index in range(number)]
    return [names[job % len(names)] for job in range(jobs)]


def _work(training: Training, threads: int, device: str | None, sender: Connection) -> None:
    follow_parent()
    if device is not None:
        os.environ[_DEVICES] = device
    torch.set_num_threads(threads)
    try:
        training.run()
    except AgelensError as error:
        sender.send(error)
    else:
        sender.send(None)
