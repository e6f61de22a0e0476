"""A stage in a thread gives the same items in order, tells errors, and ends when it is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from agelens.video.ahead import ahead


def test_order_and_end() -> None:
    assert list(ahead(range(100), 3)) == list(range(100))
    assert list(ahead([], 1)) == []


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken")

    found = ahead(items(), 4)
    assert next(found) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(found)


def test_no_more_than_the_depth_is_computed_and_leaving_closes_the_source() -> None:
    closed, started = threading.Event(), threading.Semaphore(0)
    made = []

    def items() -> Iterator[int]:
        try:
            for number in range(1000):
                made.append(number)
                started.release()
                yield number
        finally:
            closed.set()

    found = ahead(items(), 2)
    assert next(found) == 0
    for _ in range(3):
        assert started.acquire(timeout=60)
    found.close()
    assert closed.wait(60)
    assert len(made) <= 5
