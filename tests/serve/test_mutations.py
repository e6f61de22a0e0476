"""Damaged images of every format get one answer each: a sample of ``scripts/check_mutations.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

TYPE = "application/problem+json"


def test_the_service_answers_each(
    mutations: ModuleType, make_service: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(detector="none")
    outcomes: Counter[str] = Counter()
    for image in mutations.Images(2, 0, 40):
        headers = {"Content-Type": "application/octet-stream"}
        answer = service.post("/v1/estimate", content=image.content, headers=headers)
        outcomes[
            mutations.response_outcome(answer.status_code, answer.headers["content-type"], answer.content)
        ] += 1
    assert outcomes.keys() <= {
        *("200, ages", "200, no face", "422, unreadable-image", "422, image-too-large"),
    }
    assert 0.2 < outcomes["422, unreadable-image"] / 40 < 0.9
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (500, TYPE, b'{"status": 500, "type": "urn:agelens:problem:internal"}'),
        (422, "application/json", b'{"status": 422, "type": "urn:agelens:problem:unreadable-image"}'),
        (422, TYPE, b'{"status": 400, "type": "urn:agelens:problem:unreadable-image"}'),
        (422, TYPE, b"Traceback"),
    ],
)
def test_other_answers_count_as_problems(mutations: ModuleType, status: int, kind: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"status|Expecting"):
        mutations.response_outcome(status, kind, body)


def test_failures_in_a_log_count_as_problems(mutations: ModuleType) -> None:
    assert mutations.log_wrong("Bad code word at line 3")
    assert mutations.log_wrong('{"level": "error", "event": "a worker failed"}')
    assert not mutations.log_wrong('{"level": "info", "event": "request", "status": 422}')
