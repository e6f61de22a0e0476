"""Independent trainings at the same time, each in a process of its own.

A training that is stopped or killed has its checkpoint of the last epoch, and continues from it when it is
asked for again.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from agelens.cores import usable_cores
from agelens.errors import AgelensError, RunError
from agelens.experiments.train import train
from agelens.training.fit import Reporter
from agelens.training.recipe import Recipe
from agelens.workers import follow_parent

__all__ = ["Elsewhere", "Training"]

_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Training:
    """Arguments of :func:`agelens.experiments.train.train`.

    Attributes:
        recipe: See there.
        manifest: See there.
        out: The run folder; a run that is there goes on.
        start: See there.
        cpu: See there.
    """

    recipe: Recipe
    manifest: Path
    out: Path
    start: str | None
    cpu: bool

    def run(self, reporter: Reporter | None = None) -> None:
        """Train in this process."""
        train(
            self.recipe,
            self.manifest,
            self.out,
            resume=True,
            start=self.start,
            reporter=reporter,
            cpu=self.cpu,
        )


class Elsewhere:
    """Trains in other processes; a context manager that leaves none behind."""

    def __init__(self, jobs: int) -> None:
        """Divide the machine.

        Args:
            jobs: Trainings at a time: each has this share of the cores, and one accelerator.
        """
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
        """Train in a process of its own and wait for it; called by as many threads as there are jobs.

        Raises:
            AgelensError: The training's, or it ended without a word (a crash, too little memory), or
                :meth:`stop` was called.
        """
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
        """End the trainings that run, and begin no other."""
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
