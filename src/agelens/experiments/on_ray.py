"""Independent trainings as tasks of a Ray cluster.

A task whose worker dies is done again, and its training continues from its last checkpoint; so does one whose
driver died, when the same command is given again. Run folders, manifest and crops are on a file system that
all machines of the cluster share.
"""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType
from typing import Any, Self

import torch

from agelens.cores import bounded_threads, check_count
from agelens.errors import AgelensError, InputError, RunError
from agelens.experiments.at_once import Elsewhere, Place, Training
from agelens.fleet.cluster import connected

__all__ = ["ENGINES", "OnRay", "place_of"]

ENGINES = ("local", "ray")
"""Engines of trainings at the same time: processes of this machine, or tasks of a Ray cluster."""

_RETRIES = 3  # of a task whose worker died


class OnRay:
    """Trains on a cluster of Ray: a `Place`.

    Args:
        jobs: Trainings at a time; None: one for each accelerator of the cluster, or one for each machine.
            Each has its share of the cores.
        address: Of the cluster, ``HOST:PORT`` or ``auto``; None: one on this machine, begun and ended here.
        cpu: Ask for no accelerator.
    Raises:
        InputError: A number of jobs that cannot be used; on entering, an address that does not answer.
        MissingExtraError: Ray is missing; on entering.
    """

    def __init__(self, jobs: int | None = None, address: str | None = None, cpu: bool = False) -> None:
        self._asked = None if jobs is None else check_count(jobs, "jobs")
        self._address, self._cpu = address, cpu
        self._running: set[Any] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._ray = connected(self._address)
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]
        accelerators = 0 if self._cpu else int(sum(machine.get("GPU", 0) for machine in machines))
        self.jobs = self._asked or accelerators or len(cores)
        self._cores = min(max(1, sum(cores) // self.jobs), max(cores))
        options: dict[str, Any] = {"num_cpus": self._cores, "max_retries": _RETRIES}
        if accelerators:
            options["num_gpus"] = min(1.0, accelerators / self.jobs)
        self._task = self._ray.remote(**options)(_work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._ray.shutdown()

    def train(self, training: Training) -> None:
        """Train in a task of the cluster; see `Place`."""
        with self._lock:
            if self._stopped:
                raise RunError(training.out, "was stopped before it began")
            task = self._task.remote(training, os.getcwd(), self._cores)
            self._running.add(task)
        try:
            error = self._ray.get(task)
        except self._ray.exceptions.RayTaskError:  # an error of Python that is none of ours
            raise
        except self._ray.exceptions.RayError as gone:
            if self._stopped:
                raise RunError(training.out, "was stopped; the same command continues") from gone
            told = (str(gone).strip().splitlines() or [type(gone).__name__])[0]
            raise RunError(
                training.out,
                f"its worker on the cluster ended, {_RETRIES + 1} times: {told}; the same command continues",
            ) from gone
        finally:
            self._running.discard(task)
        if error is not None:
            raise error

    def stop(self) -> None:
        """Cancel the tasks, whose workers end at once; see `Place`."""
        with self._lock:
            self._stopped = True
            for task in list(self._running):
                self._ray.cancel(task, force=True)


def place_of(engine: str, jobs: int | None, address: str | None, cpu: bool) -> Place | None:
    """The place of trainings; None: one at a time, in this process.

    Args:
        engine: One of `ENGINES`.
        jobs: Trainings at a time; None: as many as the engine takes by itself, locally one.
        address: Of Ray's cluster; see `OnRay`.
        cpu: Keep to the CPU.
    Raises:
        InputError: No such engine, or a number of jobs that cannot be used.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is one of {', '.join(ENGINES)}, not {engine!r}")
    if engine == "ray":
        return OnRay(jobs, address, cpu)
    number = 1 if jobs is None else bounded_threads(jobs, "jobs")
    return None if number == 1 else Elsewhere(number)


def _work(training: Training, folder: str, threads: int) -> AgelensError | None:
    """Train on a worker; the training's error, which the driver raises."""
    try:
        os.chdir(folder)  # relative paths are the driver's
    except OSError:
        machine = socket.gethostname()
        return RunError(training.out, f"{machine} has no folder {folder}: the machines must share it")
    torch.set_num_threads(threads)
    try:
        training.run()
    except AgelensError as error:
        return error
    return None
