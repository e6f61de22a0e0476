"""Batches, and the bounded queue."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from starlette.testclient import TestClient

from agelens.inference.estimator import AgeEstimator
from agelens.serve.batching import BatchingEstimator, QueueFullError, StoppingError
from agelens.serve.settings import Limits, ServeSettings

JPEG = {"Content-Type": "image/jpeg"}
SERVICE = "http://localhost"


def png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def grey(level: int, width: int = 32, height: int = 32) -> bytes:
    return png(np.full((height, width, 3), level, np.uint8))


@pytest.fixture
def batching(held: Any, small_model: Path) -> Iterator[BatchingEstimator]:
    """One worker, a queue of four, whose detector is held back."""
    settings = ServeSettings(limits=Limits(queue=4, images=4), batch_seconds=10)
    made = BatchingEstimator({"small": AgeEstimator(small_model)}, settings)
    made.start()
    held.open.clear()
    while held.entered.acquire(blocking=False):
        pass
    yield made
    held.open.set()
    made.close()


def test_crops_of_several_calls_share_a_batch(
    batching: BatchingEstimator, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    estimate = AgeEstimator.estimate_aligned

    def counted(self: AgeEstimator, crops: NDArray[np.uint8]) -> Any:
        sizes.append(len(crops))
        return estimate(self, crops)

    monkeypatch.setattr(AgeEstimator, "estimate_aligned", counted)
    answers = [batching.submit("small", [grey(51 * number)])[0] for number in range(1, 5)]
    held.open.set()
    ages = [round(answer.result(20).faces[0].age) for answer in answers]
    assert ages == [20, 40, 60, 80]
    assert sizes == [4]


def test_a_full_queue_refuses_whole_calls(batching: BatchingEstimator, held: Any) -> None:
    first = batching.submit("small", [grey(51)])[0]
    assert held.entered.acquire(timeout=20)
    waiting = batching.submit("small", [grey(51)] * 3)
    with pytest.raises(QueueFullError) as caught:
        batching.submit("small", [grey(51)] * 2)
    assert caught.value.seconds > 0
    assert batching.waiting == 3
    assert waiting[1].cancel()
    others = batching.submit("small", [grey(51)] * 2)  # the place of the one that nobody waits for
    held.open.set()
    for answer in (first, waiting[0], waiting[2], *others):
        assert len(answer.result(20).faces) == 1


def test_closing_finishes_what_was_taken(batching: BatchingEstimator, held: Any) -> None:
    answers = batching.submit("small", [grey(51)] * 3)
    closing = threading.Thread(target=batching.close)
    closing.start()
    while batching.ready:
        time.sleep(0.01)
    with pytest.raises(StoppingError):
        batching.submit("small", [grey(1)])
    held.open.set()
    closing.join(20)
    assert [len(answer.result(0).faces) for answer in answers] == [1, 1, 1]


def test_busy_service(
    held: Any,
    make_service: Callable[..., TestClient],
    problem: Callable[..., dict[str, Any]],
    until: Callable[..., None],
) -> None:
    service = make_service(limits=Limits(queue=1, images=1, requests=3, seconds=20))
    batching = service.app.state.batching  # type: ignore[attr-defined]
    held.open.clear()
    while held.entered.acquire(blocking=False):
        pass
    answers: list[Any] = []

    def post() -> None:
        answers.append(service.post("/v1/estimate", content=grey(1), headers=JPEG))

    threads = [threading.Thread(target=post) for _ in range(2)]
    threads[0].start()
    assert held.entered.acquire(timeout=20)  # one is worked on, the other fills the queue
    threads[1].start()
    until(lambda: batching.waiting == 1)
    refused = service.post("/v1/estimate", content=grey(1), headers=JPEG)
    assert "queue" in problem(refused, 503, "busy")["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    held.open.set()
    for thread in threads:
        thread.join(20)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_calls_beyond_the_limit_and_late_answers(
    held: Any, make_service: Callable[..., TestClient], problem: Callable[..., dict[str, Any]]
) -> None:
    service = make_service(limits=Limits(requests=1, seconds=0.5))
    held.open.clear()
    late = service.post("/v1/estimate", content=grey(1), headers=JPEG)
    problem(late, 503, "too-slow")
    assert int(late.headers["retry-after"]) >= 1
    held.open.set()
    with service.app.state.service.admitted():  # type: ignore[attr-defined]
        refused = service.post("/v1/estimate", content=grey(1), headers=JPEG)
    assert "too many calls" in problem(refused, 503, "busy")["detail"]
    assert service.post("/v1/estimate", content=grey(1), headers=JPEG).status_code == 200
