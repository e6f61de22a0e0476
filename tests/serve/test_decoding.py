"""Costly images are decoded in a process that can be killed, and is killed when nobody waits any more."""

from __future__ import annotations

import io
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agelens.errors import ImageTooLargeError, UnreadableImageError
from agelens.faces.image import MAX_PIXELS, decoding_cost, load_image
from agelens.serve import decoding
from agelens.serve.decoding import decode
from agelens.serve.settings import Limits


def encoded(form: str, size: tuple[int, int] = (48, 40), **options: Any) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def large() -> bytes:
    """A JPEG of 51 megapixels."""
    stream = io.BytesIO()
    Image.new("L", (7200, 7100), 128).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were started, all of whom everything is decoded in."""
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(decoding.subprocess, "Popen", Recorded)
    monkeypatch.setattr(decoding, "_IN_PLACE", 0.0)
    return started


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch, children: list[Any]) -> list[subprocess.Popen[bytes]]:
    """The children never end: as a decoder in a file that was made for it."""
    code = "import sys, time; sys.stdin.buffer.read(); time.sleep(600)"
    monkeypatch.setattr(decoding, "_CHILD", (sys.executable, "-S", "-c", code))
    return children


def test_what_decoding_costs() -> None:
    small, megapixels = encoded("PNG"), 48 * 40 / 1e6
    assert decoding_cost(small) == pytest.approx(2 * megapixels)
    assert decoding_cost(encoded("JPEG")) == pytest.approx(megapixels)
    assert decoding_cost(encoded("JPEG", progressive=True)) == pytest.approx(10 * megapixels)
    assert decoding_cost(b"no image") == 0
    assert decoding_cost(large()) < decoding._IN_PLACE  # photographs of cameras need no process


def test_ordinary_images_are_decoded_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.subprocess, "Popen", None)
    image = decode(encoded("PNG"), MAX_PIXELS, -math.inf)
    assert image.pixels.shape == (40, 48, 3)


def test_large_photos_are_reduced_while_they_are_decoded() -> None:
    image = decode(large(), MAX_PIXELS, math.inf)
    assert image.pixels.shape == (3550, 3600, 3)
    assert image.full_size == (7200, 7100)


def test_a_process_decodes_to_the_same(children: list[subprocess.Popen[bytes]]) -> None:
    cut = encoded("JPEG", (200, 160))[:-2]
    until = time.monotonic() + 60
    for content in (encoded("PNG", (300, 200)), cut):
        expected, got = load_image(content), decode(content, MAX_PIXELS, until)
        np.testing.assert_array_equal(got.pixels, expected.pixels)
        assert (got.full_size, got.remarks) == (expected.full_size, expected.remarks)
    assert got.remarks
    with pytest.raises(ImageTooLargeError, match="48 x 40 pixels; the limit is 1000"):
        decode(encoded("PNG"), 1000, until)
    with pytest.raises(UnreadableImageError, match="is damaged"):
        decode(encoded("PNG")[:2000], MAX_PIXELS, until)
    assert len(children) == 4


def test_a_process_that_is_late_is_killed(endless: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(UnreadableImageError, match="takes too long to decode"):
        decode(encoded("PNG"), MAX_PIXELS, time.monotonic() + 0.2)
    assert [child.returncode for child in endless] == [-signal.SIGKILL]


def test_a_process_that_breaks_down_is_a_damaged_image(
    monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    told = '{"shape": [9, 9, 3], "full_size": [9, 9], "remarks": []}'
    code = f"import os; os.write(1, {told.encode()!r} + b'\\n' + bytes(9)); os.abort()"
    monkeypatch.setattr(decoding, "_CHILD", (sys.executable, "-S", "-c", code))
    with pytest.raises(UnreadableImageError, match="is damaged"):
        decode(encoded("PNG"), MAX_PIXELS, time.monotonic() + 60)


def test_after_the_timeout_the_work_stops_and_the_next_caller_is_served(
    make_service: Callable[..., Any],
    problem: Callable[..., dict[str, Any]],
    until: Callable[..., None],
    endless: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = make_service(limits=Limits(seconds=0.5), workers=1)
    headers = {"Content-Type": "image/png"}
    answer = service.post("/v1/estimate?aligned=true", content=encoded("PNG", (16, 16)), headers=headers)
    problem(answer, 503, "too-slow")
    until(lambda: [child.returncode for child in endless] == [-signal.SIGKILL])
    monkeypatch.setattr(decoding, "_IN_PLACE", math.inf)
    answer = service.post("/v1/estimate?aligned=true", content=encoded("PNG", (16, 16)), headers=headers)
    assert answer.status_code == 200, answer.text
    assert service.app.state.batching.stuck == 0


def test_a_reduced_photo_keeps_its_size(make_service: Callable[..., Any]) -> None:
    service = make_service(limits=Limits(pixels=MAX_PIXELS))
    headers = {"Content-Type": "image/jpeg"}
    crop = io.BytesIO()
    Image.new("L", (7200, 7200), 128).save(crop, "JPEG")
    answer = service.post("/v1/estimate?aligned=true", content=crop.getvalue(), headers=headers)
    (image,) = answer.json()["images"]
    assert (image["width"], image["height"]) == (7200, 7200)
    assert image["faces"][0]["age"] == pytest.approx(100 * 128 / 255, abs=0.5)
