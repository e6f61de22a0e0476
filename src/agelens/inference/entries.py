"""Entries of predictions from files of photos, in this process or in several."""

from __future__ import annotations

import itertools
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agelens.cores import bounded_threads
from agelens.errors import InputError
from agelens.faces.image import Source
from agelens.inference.estimator import AgeEstimator
from agelens.inference.pictures import save_annotated, save_faces
from agelens.inference.tally import Tally
from agelens.inference.writers import PredictionFormat, source_name

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Entry", "PredictionTask"]

_CHUNK = 16  # photos that a worker takes at once


class Entry(NamedTuple):
    """Predictions of one photo as text.

    Attributes:
        name: Path of the photo.
        text: By the format.
        tally: Its counts.
    """

    name: str
    text: str
    tally: Tally


@dataclass(frozen=True)
class PredictionTask:
    """Photos to entries: estimator, format, and the pictures that are saved on the way.

    Attributes:
        estimator: The estimator.
        form: Format of the entries.
        crops: The images are face chips.
        aligned: The images are crops in the model's geometry.
        faces: Folder for the crop of each face; None saves none.
        annotated: Folder for the photos with boxes and ages; None saves none.
        level: Coverage of the intervals in them.
    """

    estimator: AgeEstimator
    form: PredictionFormat
    crops: bool = False
    aligned: bool = False
    faces: Path | None = None
    annotated: Path | None = None
    level: float = 0.9

    def entries(self, sources: Iterable[Source], workers: int = 1) -> Iterator[Entry]:
        """Estimate photos, in order.

        Args:
            sources: The photos.
            workers: Processes, at most the usable cores; 1 works in this one.
        Raises:
            InputError: ``workers`` cannot be used, or a worker ended unexpectedly.
        """
        if bounded_threads(workers, "workers") == 1:
            yield from self._entries(sources)
        else:
            yield from self._parallel(sources, bounded_threads(workers, "workers"))

    def _entries(self, sources: Iterable[Source]) -> Iterator[Entry]:
        for photo in self.estimator.estimate_many(sources, crops=self.crops, aligned=self.aligned):
            if self.faces is not None:
                save_faces(photo, self.faces)
            if self.annotated is not None and photo.error is None:
                save_annotated(photo, self.annotated, self.level)
            yield Entry(source_name(photo), self.form.entry(photo), Tally.of(photo))

    def _parallel(self, sources: Iterable[Source], workers: int) -> Iterator[Entry]:
        """Chunks go to workers as they become free; at most a few wait, and the order is kept."""
        import multiprocessing  # loading it takes long, and one worker needs none of it
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        waiting = iter(sources)
        executor = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(pickle.dumps(self),)
        )
        running: deque[Future[list[Entry]]] = deque()
        try:
            while True:
                while len(running) < 3 * workers and (chunk := list(itertools.islice(waiting, _CHUNK))):
                    running.append(executor.submit(_work, chunk))
                if not running:
                    return
                yield from running.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process ended unexpectedly (out of memory?); with --resume the rest can be done, "
                "perhaps with fewer workers"
            ) from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


_task: PredictionTask


def _begin(task: bytes) -> None:
    global _task
    from agelens.workers import follow_parent

    follow_parent()
    _task = pickle.loads(task)


def _work(sources: list[Source]) -> list[Entry]:
    return list(_task._entries(sources))
