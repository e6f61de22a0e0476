"""Stages that work ahead of each other: each in its thread, a few results before the one that asks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
_PATIENCE = 0.2  # seconds between two looks at whether anyone still asks


def ahead(items: Iterable[T], depth: int, leave: Callable[[], object] = lambda: None) -> Generator[T]:
    """Compute the items of an iterable in a thread, at most ``depth`` of them before they are asked for.

    Args:
        items: What is computed; it is closed in the thread, if it can be, when the generator is.
        depth: Results that wait, at least 1.
        leave: Called when the generator is closed: it lets go of what the thread may wait for.
    Yields:
        The items, in order; an error is raised where it happened.
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)  # None: the end
    left = threading.Event()

    def put(what: tuple[T] | BaseException | None) -> None:
        while not left.is_set():
            try:
                waiting.put(what, timeout=_PATIENCE)
                return
            except queue.Full:
                continue

    def work() -> None:
        source: Iterator[T] = iter(items)
        try:
            for item in source:
                put((item,))
                if left.is_set():
                    break
        except BaseException as error:  # it is raised where the items are asked for
            put(error)
        else:
            put(None)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            what = waiting.get()
            if what is None:
                return
            if isinstance(what, BaseException):
                raise what
            yield what[0]
    finally:
        left.set()
        leave()
        worker.join()
