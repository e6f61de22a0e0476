"""The client: the same faces and the same errors as the estimator, through a service."""

from __future__ import annotations

import io
import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens.client import AgeClient
from agelens.errors import (
    ImageTooLargeError,
    InputError,
    ModelFileError,
    ServiceError,
    UnreadableImageError,
)
from agelens.inference.estimator import AgeEstimator

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def address(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a token and narrow limits: two images and 100 kB a call."""
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    options = [
        "--token-file",
        str(token),
        "--max-images",
        "2",
        "--max-body",
        "0.1",
        "--model",
        str(small_model),
    ]
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--max-pixels", "1000000", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.removeprefix("agelens serves ").strip()
    process.terminate()
    process.wait(20)
    process.stdout.close()


@pytest.fixture
def client(address: str) -> AgeClient:
    return AgeClient(address, token=TOKEN)


@pytest.fixture(scope="module")
def estimator(small_model: Path) -> AgeEstimator:
    return AgeEstimator(small_model)


def test_faces_equal_those_of_the_estimator(
    client: AgeClient, estimator: AgeEstimator, portrait: Path
) -> None:
    (ours,), (theirs,) = estimator.estimate(portrait), client.estimate(portrait)
    assert theirs.to_dict(0.7, 30) == ours.to_dict(0.7, 30)
    assert theirs.calibration == ours.calibration
    assert theirs.distribution.dtype == np.float32
    assert client.model["name"] == "small"


def test_every_source(client: AgeClient, estimator: AgeEstimator, draw_face: Callable[..., Any]) -> None:
    image: NDArray[np.uint8] = draw_face(40)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    content = stream.getvalue()
    expected = estimator.estimate(image, aligned=True)[0].age
    for source in (image, Image.fromarray(image), content, io.BytesIO(content)):
        (face,) = client.estimate(source, aligned=True)
        assert face.age == expected
        assert face.box is None


def test_chips_and_aligned_crops(
    client: AgeClient, estimator: AgeEstimator, draw_face: Callable[..., Any]
) -> None:
    chip = draw_face(30)
    assert client.estimate_chip(chip).to_dict() == estimator.estimate_chip(chip).to_dict()
    crops = np.stack([draw_face(age, 16) for age in (10, 40, 70)])
    for ours, theirs in zip(estimator.estimate_aligned(crops), client.estimate_aligned(crops), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-6)
        assert theirs.dtype == np.float32
    ages, distributions = client.estimate_aligned(crops[:0])
    assert (ages.shape, distributions.shape) == ((0,), (0, 101))
    with pytest.raises(ValueError, match="crops are"):
        client.estimate_aligned(crops.astype(np.float32))


def test_many_images_and_what_is_wrong_with_some(
    client: AgeClient, estimator: AgeEstimator, portrait: Path, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    Image.new("1", (2000, 1000)).save(stream, "PNG")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    sources: list[Any] = [
        portrait,
        b"not an image",
        tmp_path / "missing.jpg",
        np.full((30, 30, 3), 7, np.uint8),
        b"",
        stream.getvalue(),  # too many pixels
        noise,  # too many bytes
        str(portrait),
    ]
    photos = list(client.estimate_many(iter(sources)))
    assert [photo.source for photo in photos] == sources
    kinds = [type(photo.error) for photo in photos]
    none = type(None)
    assert kinds == [
        *(none, UnreadableImageError, UnreadableImageError, none),
        *(UnreadableImageError, ImageTooLargeError, ImageTooLargeError, none),
    ]
    assert [len(photo.faces) for photo in photos] == [1, 0, 0, 0, 0, 0, 0, 1]
    local = [photo.error for photo in estimator.estimate_many(sources[:5])]
    assert [str(photo.error) for photo in (photos[1], photos[4])] == [str(local[1]), str(local[4])]
    assert str(sources[2]) in str(photos[2].error)
    assert "2000 x 1000" in str(photos[5].error)
    assert list(client.estimate_many([])) == []


def test_errors_of_one_image_are_raised(client: AgeClient, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="is not an image"):
        client.estimate(b"not an image")
    with pytest.raises(UnreadableImageError, match="missing"):
        client.estimate(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="square"):
        client.estimate(np.zeros((20, 30, 3), np.uint8), aligned=True)
    with pytest.raises(InputError, match="exclude each other"):
        client.estimate(b"x", crops=True, aligned=True)


def test_unknown_model(address: str) -> None:
    with pytest.raises(ModelFileError, match="which has small"):
        AgeClient(address, token=TOKEN, model="large").estimate(b"x")


def test_wrong_token(address: str) -> None:
    for token in (None, "another-token-entirely"):
        with pytest.raises(ServiceError, match=r"token.*HTTP 401") as caught:
            AgeClient(address, token=token).estimate(b"x")
        assert caught.value.status == 401


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        *(
            (url, {})
            for url in ("file:///etc/passwd", "ftp://x", "127.0.0.1:8000", "http://", "http://x?y=1", "")
        ),
        *(("http://x", settings) for settings in ({"timeout": 0}, {"retries": -1}, {"token": "a\r\nB: c"})),
    ],
)
def test_arguments_that_cannot_be_used(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        AgeClient(url, **settings)


def test_nobody_there() -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        AgeClient("http://127.0.0.1:1").estimate(b"x")


class Scripted(BaseHTTPRequestHandler):
    """Answers with what the test laid ready."""

    server: Any

    def do_GET(self) -> None:
        status, headers, body = self.server.answers.pop(0)
        self.server.asked.append((self.path, dict(self.headers)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Scripted)
    server.answers, server.asked = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url_of(server: socketserver.BaseServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_a_busy_service_is_asked_again(scripted: Any) -> None:
    entry = {"name": "m"}
    busy = json.dumps({"type": "urn:agelens:problem:busy", "detail": "later"}).encode()
    good = json.dumps({"default": "m", "models": [entry], "limits": {}}).encode()
    scripted.answers = [(503, {"Retry-After": "0"}, busy), (503, {"Retry-After": "0"}, busy), (200, {}, good)]
    assert AgeClient(url_of(scripted)).model == entry
    assert len(scripted.asked) == 3
    scripted.answers = [(503, {"Retry-After": "0"}, busy)] * 2
    with pytest.raises(ServiceError, match=r"later \(HTTP 503\)"):
        _ = AgeClient(url_of(scripted), retries=1).model


def test_redirects_are_not_followed(scripted: Any) -> None:
    scripted.answers = [(302, {"Location": "/elsewhere"}, b"")]
    with pytest.raises(ServiceError, match="HTTP 302"):
        _ = AgeClient(url_of(scripted), token=TOKEN).model
    assert [path for path, _ in scripted.asked] == ["/v1/models"]
    assert scripted.asked[0][1]["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"[]"), (200, b"{}"), (404, b"<html>"), (500, b"[]")]
)
def test_another_server_is_told_apart(scripted: Any, status: int, body: bytes) -> None:
    scripted.answers = [(status, {}, body)]
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1"):
        _ = AgeClient(url_of(scripted)).model


@pytest.mark.parametrize("image", [{}, {"error": None}, {"error": None, "faces": [{}]}, {"error": 1}, None])
def test_unknown_forms_of_answers_are_errors_of_the_service(scripted: Any, image: Any) -> None:
    limits = {"images": 1, "body_bytes": 10_000}
    offer = {
        "default": "m",
        "models": [{"name": "m", "calibration": None, "age_bins": "0-1"}],
        "limits": limits,
    }
    answer = json.dumps({"images": [image]}).encode()
    scripted.answers = [(200, {}, json.dumps(offer).encode()), (200, {}, answer)]
    with pytest.raises(ServiceError, match="a form that this client does not know"):
        AgeClient(url_of(scripted)).estimate(b"x")
