"""Requests that cannot be used, and what the service says to them."""

from __future__ import annotations

import base64
import io
import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from fastapi import FastAPI
from starlette.testclient import TestClient

from agelens.serve.app import create_app
from agelens.serve.body import _Form
from agelens.serve.logs import JsonLines
from agelens.serve.settings import Limits, ServeSettings

JPEG = {"Content-Type": "image/jpeg"}
SERVICE = "http://localhost"


def png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def grey(level: int, width: int = 32, height: int = 32) -> bytes:
    return png(np.full((height, width, 3), level, np.uint8))


@pytest.fixture(scope="module")
def app(small_model: Path) -> FastAPI:
    return create_app(ServeSettings(models=(str(small_model),), limits=Limits(images=4, body_bytes=300_000)))


@pytest.fixture(scope="module")
def service(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, SERVICE, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "query",
    [
        *("threshold=-1", "threshold=131", "threshold=nan", "threshold=inf", "threshold=abc", "threshold="),
        *("level=0", "level=1", "level=-0.5", "level=nan", "distribution=perhaps", "crops=2"),
        *("treshold=21", "crops=true&aligned=true", "threshold=18&threshold=21", "model=small&model=x"),
    ],
)
def test_bad_options(service: TestClient, query: str, problem: Callable[..., dict[str, Any]]) -> None:
    response = service.post(f"/v1/estimate?{query}", content=grey(1), headers=JPEG)
    detail = problem(response, 422, "invalid-option")["detail"]
    assert query.partition("=")[0] in detail


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "nonsense", "a" * 5000]
)
def test_wrong_content_types(service: TestClient, kind: str, problem: Callable[..., dict[str, Any]]) -> None:
    headers = {"Content-Type": kind} if kind else {}
    detail = problem(service.post("/v1/estimate", content=grey(1), headers=headers), 415, "content-type")[
        "detail"
    ]
    assert "multipart/form-data" in detail
    assert len(detail) < 400


def test_compressed_bodies_are_refused(service: TestClient, problem: Callable[..., dict[str, Any]]) -> None:
    response = service.post("/v1/estimate", content=grey(1), headers=JPEG | {"Content-Encoding": "gzip"})
    problem(response, 415, "content-type")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff\xfe", b"[]", b"1", b"null", b'{"images": "x"}', b'{"images": [1]}', b"{}"),
        *(b'{"images": ["%%%"]}', b'{"images": [null]}', b'{"images": [""], "model": "small"}'),
        b'{"images": ["/9j/"], "images": []}',
        *(b"[" * 100_000, b'{"images": [' + b"[" * 50_000, b'{"images": [' + b"9" * 5_000 + b"]}"),
    ],
)
def test_malformed_json(service: TestClient, body: bytes, problem: Callable[..., dict[str, Any]]) -> None:
    response = service.post("/v1/estimate", content=body, headers={"Content-Type": "application/json"})
    problem(response, 400, "malformed-body")


def test_a_data_url_is_told_what_to_leave_out(
    service: TestClient, problem: Callable[..., dict[str, Any]]
) -> None:
    url = "data:image/png;base64," + base64.b64encode(grey(1)).decode()
    response = service.post("/v1/estimate", json={"images": [url]})
    assert "its comma" in problem(response, 400, "malformed-body")["detail"]


@pytest.mark.parametrize(
    ("entry", "status", "kind"),
    [(b"{},", 422, "too-many-images"), (b"1,", 422, "too-many-images"), (b"[", 400, "malformed-body")],
)
def test_json_of_many_values_is_refused_unparsed(
    service: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    entry: bytes,
    status: int,
    kind: str,
    problem: Callable[..., dict[str, Any]],
) -> None:
    """Parsed, the first of these would take twenty times its own memory."""
    monkeypatch.setattr("agelens.serve.body.json", None)
    body = b'{"images": [' + entry * 90_000 + b"1]}"
    response = service.post("/v1/estimate", content=body, headers={"Content-Type": "application/json"})
    problem(response, status, kind)


def test_a_file_in_many_pieces_takes_no_more_memory_than_it_has() -> None:
    """The parser hands over what looks like the beginning of a boundary piece by piece."""
    limits = Limits(body_bytes=2**20)
    body = PART + b"\r\n--" * 100_000 + b"\r\n--b--\r\n"
    tracemalloc.start()
    try:
        form = _Form(b"b", limits)
        form.feed(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert form.files() == [b"\r\n--" * 100_000]
    assert peak < 3 * len(body)


def multipart(body: bytes, boundary: str = "b") -> dict[str, Any]:
    return {"content": body, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        PART,
        PART + b"abc",
        PART + b"abc\r\n--b",
        b"--b\r\n" + b"x" * 10_000,
        b"--b\r\n\xff: 1\r\n\r\n",
    ],
)
def test_malformed_multipart(
    service: TestClient, body: bytes, problem: Callable[..., dict[str, Any]]
) -> None:
    problem(service.post("/v1/estimate", **multipart(body)), 400, "malformed-body")


@pytest.mark.parametrize("kind", ["multipart/form-data", f"multipart/form-data; boundary={'x' * 300}"])
def test_boundary_missing_or_too_long(
    service: TestClient, kind: str, problem: Callable[..., dict[str, Any]]
) -> None:
    response = service.post("/v1/estimate", content=PART, headers={"Content-Type": kind})
    problem(response, 400, "malformed-body")


def test_options_in_the_form_are_told_their_place(
    service: TestClient, problem: Callable[..., dict[str, Any]]
) -> None:
    response = service.post("/v1/estimate", data={"threshold": "21"}, files={"images": ("a", grey(1))})
    detail = problem(response, 422, "invalid-option")["detail"]
    assert "'threshold'" in detail
    assert "query" in detail


def test_no_images(service: TestClient, problem: Callable[..., dict[str, Any]]) -> None:
    problem(service.post("/v1/estimate", json={"images": []}), 422, "no-images")
    problem(service.post("/v1/estimate", content=b"", headers=JPEG), 422, "no-images")
    problem(service.post("/v1/estimate", **multipart(b"--b--\r\n")), 422, "no-images")


def test_ten_thousand_images(
    make_service: Callable[..., TestClient], problem: Callable[..., dict[str, Any]]
) -> None:
    service = make_service()
    for response in (
        service.post("/v1/estimate", json={"images": ["/9j/"] * 10_000}),
        service.post("/v1/estimate", **multipart((PART + b"abc\r\n") * 10_000 + b"--b--\r\n")),
    ):
        assert problem(response, 422, "too-many-images")["limit"] == 16


def broken_images() -> dict[str, bytes]:
    whole = grey(100, 300, 200)
    stream = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(stream, "JPEG")
    jpeg = stream.getvalue()
    huge = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
    return {
        "truncated PNG": whole[: len(whole) // 2],
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "header alone": jpeg[:20],
        "text": b"not an image",
        "zeros": bytes(1000),
        "HTML": b"<!doctype html><p>" * 20,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "PDF": b"%PDF-1.7\n",
        "damaged PNG": whole[:40] + bytes(40) + whole[80:],
        "a false checksum of the header": huge,
    }


@pytest.mark.parametrize("image", broken_images().values(), ids=broken_images().keys())
def test_broken_images(service: TestClient, image: bytes, problem: Callable[..., dict[str, Any]]) -> None:
    document = problem(service.post("/v1/estimate", content=image, headers=JPEG), 422, "unreadable-image")
    assert "traceback" not in document["detail"].lower()


def test_too_many_pixels_are_refused_before_decoding(
    service: TestClient, monkeypatch: pytest.MonkeyPatch, problem: Callable[..., dict[str, Any]]
) -> None:
    stream = io.BytesIO()
    Image.new("1", (8000, 8000)).save(stream, "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)  # decoding would fail otherwise
    response = service.post("/v1/estimate", content=stream.getvalue(), headers=JPEG)
    assert "8000 x 8000" in problem(response, 422, "image-too-large")["detail"]


def test_all_images_broken(service: TestClient, problem: Callable[..., dict[str, Any]]) -> None:
    files = [("images", ("a", b"x")), ("images", ("b", b""))]
    document = problem(service.post("/v1/estimate", files=files), 422, "unusable-images")
    assert [entry["index"] for entry in document["images"]] == [0, 1]
    assert "empty" in document["images"][1]["detail"]


def test_aligned_images_are_square(service: TestClient, problem: Callable[..., dict[str, Any]]) -> None:
    response = service.post("/v1/estimate?aligned=1", content=grey(1, 32, 16), headers=JPEG)
    problem(response, 422, "unusable-image")


def test_unknown_paths_and_methods(service: TestClient, problem: Callable[..., dict[str, Any]]) -> None:
    for path in (
        "/nope",
        "/v1",
        "/v1/estimate/",
        "/v1/estimate/../../etc/passwd",
        "/docs",
        "/page/models/x.onnx",
    ):
        problem(service.get(path), 404, "not-found")
    response = service.put("/v1/models")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET"
    problem(service.get("/v1/estimate"), 405, "method-not-allowed")


@pytest.mark.parametrize(
    "name", ["../../../etc/cron.d/x", "/etc/passwd", "a\u202e.png", "\\\\host\\x", "x" * 2000]
)
def test_names_of_files_reach_nothing(
    service: TestClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "agelens.serve")
    response = service.post("/v1/estimate?aligned=1", files={"images": (name, grey(51))})
    assert response.status_code == 200
    assert name not in response.text
    assert all(name not in JsonLines().format(record) for record in caplog.records)


def test_request_ids_are_taken_only_if_harmless(service: TestClient) -> None:
    given = service.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"})
    assert given.headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 65, '"}', "é", "a\\nb"):
        answered = service.get("/healthz", headers={"X-Request-ID": bad.encode()})
        assert answered.headers["x-request-id"] != bad
        assert len(answered.headers["x-request-id"]) == 16


def test_security_headers(service: TestClient) -> None:
    for response in (service.get("/healthz"), service.get("/nope"), service.post("/v1/estimate")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in response.headers


def test_an_unforeseen_error_is_a_problem_and_the_service_lives_on(
    app: FastAPI,
    service: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    problem: Callable[..., dict[str, Any]],
) -> None:
    caplog.set_level(logging.INFO, "agelens.serve")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the sky falls")

    with monkeypatch.context() as patched:
        patched.setattr("agelens.serve.batching.decode", fail)
        failed = service.post("/v1/estimate", content=grey(1), headers=JPEG)
        document = problem(failed, 500, "internal")
        assert "sky" not in failed.text
        assert document["request_id"] in document["detail"]
    assert any("the sky falls" in JsonLines().format(record) for record in caplog.records)
    assert service.post("/v1/estimate?aligned=1", content=grey(1), headers=JPEG).status_code == 200


def test_logs_are_json_without_content(
    service: TestClient, portrait: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "agelens.serve")
    service.post("/v1/estimate?threshold=33", content=portrait.read_bytes(), headers=JPEG)
    (record,) = (record for record in caplog.records if record.name == "agelens.serve")
    line = json.loads(JsonLines().format(record))
    assert (
        line | {"event": "request", "route": "/v1/estimate", "status": 200, "faces": 1, "images": 1} == line
    )
    assert line["received"] == portrait.stat().st_size
    told = {"time", "level", "event", "request_id", "method", "route", "status", "milliseconds", "received"}
    assert set(line) == told | {"model", "images", "faces"}


def test_nothing_is_written_to_disk(
    make_service: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))  # a temporary file could not be made
    service = make_service()
    noise = png(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    assert len(noise) > 2**20
    files = [("images", (str(number), noise)) for number in range(3)]
    assert service.post("/v1/estimate?aligned=1", files=files).status_code == 200
