"""The driver of a fleet: partitions of a list of photos, each written once by some worker of a Ray cluster.

A partition is a file whose name has the digest of its photos' names and of the settings. It is renamed into
place when it is whole, so one that is there is done: a driver that was killed is started again and goes on,
and a worker that was killed, or two that wrote the same partition, lose and double nothing. Ray's actors are
used directly and not Ray Data's datasets, whose blocks have no names to find again and whose retries cannot
tell which photo killed the worker.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agelens.cores import check_count
from agelens.errors import AgelensError, InputError, OutputError
from agelens.files import write_atomically
from agelens.fleet.cluster import connected
from agelens.fleet.photos import is_address, list_photos, opened_system
from agelens.fleet.worker import FleetWorker, failed_entry
from agelens.inference.estimator import AgeEstimator
from agelens.inference.parquet import RowsFormat, require_pyarrow
from agelens.inference.tally import Tally

__all__ = ["FleetResult", "predict_fleet"]

_PLAN = "fleet.json"
_FORMAT = 1
_DEATHS = 2  # of workers on a partition, until its photos are taken one by one
_TRIES = 2  # of a photo by itself, until it is held to have killed the worker

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class FleetResult:
    """The outcome of a fleet's task.

    Attributes:
        partitions: Files of the whole task.
        done_before: How many of them were there already.
        tally: Counts of the photos of the others.
    """

    partitions: int
    done_before: int
    tally: Tally


@dataclass
class _Part:
    file: str
    names: list[str]
    deaths: int = 0
    refused: int = 0
    entries: dict[int, str] = field(default_factory=dict)  # by place, where photos are taken one by one
    tries: int = 0

    @property
    def next_place(self) -> int:
        return len(self.entries)


def predict_fleet(
    photos: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    estimator: AgeEstimator,
    crops: bool = False,
    aligned: bool = False,
    level: float = 0.9,
    threshold: float = 18,
    partition: int = 256,
    workers: int | None = None,
    address: str | None = None,
    agreed: Mapping[str, str] | None = None,
    report: Report | None = None,
) -> FleetResult:
    """Estimate photos by workers of a Ray cluster, a model each, into a folder of Parquet files.

    Called again with the same photos and settings it does what is missing.

    Args:
        photos: A folder, a list (Parquet with a column ``path``; ``.txt``), an address of fsspec, or names;
            the workers must be able to read them.
        out: Folder or address of the partitions, which all workers share.
        estimator: The estimator that every worker has a copy of.
        crops: The images are face chips.
        aligned: They are crops in the model's geometry.
        level: Coverage of ``low`` … ``high``.
        threshold: Age in years of ``p_at_least``.
        partition: Photos of a partition.
        workers: Number of workers, a core each; None: the cores of the cluster.
        address: Of the cluster (``HOST:PORT``, ``auto``); None: one on this machine, begun and ended here.
        agreed: Further settings (of the detector) that a later call must have too.
        report: Called with photos done and all photos, after each partition.
    Returns:
        The counts.
    Raises:
        InputError: No photos; the cluster does not answer; ``out`` holds another task.
        OutputError: Partitions could not be written; the others were.
        MissingExtraError: Ray or pyarrow is missing.
    """
    check_count(partition, "partition")
    if workers is not None:
        check_count(workers, "workers")
    require_pyarrow()
    names = list_photos(photos)
    settings = {
        "format": _FORMAT,
        "model": estimator.card.digest,
        "agreed": dict(agreed or {}),
        "crops": crops,
        "aligned": aligned,
        "level": level,
        "threshold": threshold,
    }
    parts = _parts(names, str(out), partition, settings)
    _agree(str(out), {"settings": settings, "photos": len(names), "task": _digest([p.file for p in parts])})
    there = _present(str(out))
    waiting = deque(part for part in parts if part.file.rpartition("/")[2] not in there)
    before = len(parts) - len(waiting)
    tally = Tally()
    if waiting:
        form = RowsFormat(level, threshold)
        ray = connected(address)
        try:
            pool = _Pool(ray, estimator, {"crops": crops, "aligned": aligned}, form, workers)
            pool.run(waiting, tally, len(names), report)
        finally:
            ray.shutdown()
    return FleetResult(len(parts), before, tally)


class _Pool:
    """Workers, and what each of them does now."""

    def __init__(
        self,
        ray: Any,
        estimator: AgeEstimator,
        options: dict[str, bool],
        form: RowsFormat,
        workers: int | None,
    ) -> None:
        self._ray, self._form = ray, form
        self._arguments = (ray.put(pickle.dumps(estimator)), options, form)
        self._count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actor = ray.remote(num_cpus=1, max_restarts=0)(FleetWorker)
        self._busy: dict[Any, tuple[Any, _Part]] = {}

    def run(self, waiting: deque[_Part], tally: Tally, photos: int, report: Report | None) -> None:
        ray = self._ray
        idle = [self._actor.remote(*self._arguments) for _ in range(min(self._count, len(waiting)))]
        try:
            ray.get(idle[0].ready.remote())
        except ray.exceptions.RayError as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(f"a worker cannot start on the cluster: {told}") from error
        done = photos - sum(len(part.names) for part in waiting)
        failures: list[tuple[str, str]] = []
        while waiting or self._busy:
            while waiting and idle:
                self._begin(idle.pop(), waiting.popleft())
            (ready, *_), _ = ray.wait(list(self._busy), num_returns=1)
            worker, part = self._busy.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:  # an error of ours: the disk, for one
                if not isinstance(error.cause, AgelensError):
                    raise
                idle.append(worker)
                part.refused += 1
                if part.refused < _TRIES:
                    waiting.append(part)
                else:
                    failures.append((part.file, str(error.cause)))
                continue
            except ray.exceptions.RayError:  # the worker is gone, or its machine
                idle.append(self._actor.remote(*self._arguments))
                self._died(part)
                if part.deaths > _DEATHS + (_TRIES + 1) * len(part.names):
                    failures.append((part.file, "its workers died, again and again"))
                else:
                    waiting.appendleft(part)
                continue
            idle.append(worker)
            if isinstance(result, list):  # of a photo by itself
                part.entries[part.next_place], part.tries = result[0], 0
                waiting.appendleft(part)
                continue
            tally.add(Tally(**result))
            done += len(part.names)
            if report is not None:
                report(done, photos)
        if failures:
            file, why = failures[0]
            why = why.removeprefix(f"{file}: ")
            raise OutputError(file, f"{why}; partitions missing: {len(failures)}; the same call goes on")

    def _begin(self, worker: Any, part: _Part) -> None:
        if part.deaths < _DEATHS:
            task = worker.partition.remote(part.names, part.file)
        elif part.next_place < len(part.names):
            task = worker.entries.remote([part.names[part.next_place]])
        else:
            task = worker.write.remote([part.entries[place] for place in range(len(part.names))], part.file)
        self._busy[task] = worker, part

    def _died(self, part: _Part) -> None:
        part.deaths += 1
        if part.deaths <= _DEATHS or part.next_place == len(part.names):
            return
        part.tries += 1
        if part.tries >= _TRIES:
            name = part.names[part.next_place]
            why = f"the worker that read it died, {_TRIES} times: its decoder crashed, or took all memory"
            part.entries[part.next_place], part.tries = failed_entry(name, why, self._form), 0


def _parts(names: list[str], out: str, size: int, settings: dict[str, Any]) -> list[_Part]:
    parts = []
    for number, start in enumerate(range(0, len(names), size)):
        of_part = names[start : start + size]
        file = f"part-{number:06d}-{_digest([settings, of_part])}.parquet"
        parts.append(_Part(f"{out.rstrip('/')}/{file}", of_part))
    return parts


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()[:16]


def _agree(out: str, plan: dict[str, Any]) -> None:
    """Check that a folder is of this task, or empty of others; keep the task in it.

    Raises:
        InputError: It holds another one.
        OutputError: It cannot be written.
    """
    text = json.dumps(plan, indent=1) + "\n"
    other = InputError(f"{out} holds the partitions of other photos or settings; give another --out")
    if is_address(out):
        try:
            system, path = opened_system(f"{out.rstrip('/')}/{_PLAN}")
            if system.exists(path):
                if system.cat_file(path).decode("utf-8", "replace") != text:
                    raise other
                return
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, text.encode())
        except InputError:
            raise
        except Exception as error:  # of any file system
            raise OutputError(out, f"cannot write: {error or type(error).__name__}") from error
        return
    file = Path(out) / _PLAN
    if file.exists():
        if file.read_text(encoding="utf-8", errors="replace") != text:
            raise other
        return
    with write_atomically(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _present(out: str) -> set[str]:
    """Names of the partitions that are there."""
    if is_address(out):
        system, path = opened_system(out)
        system.invalidate_cache()
        return {str(name).rpartition("/")[2] for name in system.ls(path, detail=False)}
    return {path.name for path in Path(out).iterdir()}
