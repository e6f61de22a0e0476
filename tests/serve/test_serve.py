"""The service: its answers, its limits, and what it says to everything it cannot use."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from fastapi import FastAPI
from starlette.testclient import TestClient

from agelens.apps import cli
from agelens.apps.commands.serve import read_token
from agelens.errors import InputError, ModelFileError
from agelens.faces.alignment import CHIP_LANDMARKS
from agelens.faces.detection import DetectedFace
from agelens.faces.quality import FaceQuality, blur_effect, estimate_pitch, face_quality, share_outside
from agelens.faces.quality_warnings import THRESHOLDS, face_warnings, photo_warnings
from agelens.inference.estimator import AgeEstimator
from agelens.serve.app import create_app
from agelens.serve.batching import BatchingEstimator, QueueFullError, StoppingError
from agelens.serve.body import _Form
from agelens.serve.logs import JsonLines
from agelens.serve.problems import KINDS, MEDIA_TYPE
from agelens.serve.server import listen
from agelens.serve.settings import Limits, ServeSettings

JPEG = {"Content-Type": "image/jpeg"}
SERVICE = "http://localhost"
TOKEN = "a-token-that-is-long-enough"


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


def problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """Check that a response is a whole problem document, and return it."""
    assert response.headers["content-type"] == MEDIA_TYPE, response.text
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["type"]) == (status, f"urn:agelens:problem:{kind}"), document
    assert document["status"] == status
    assert document["title"] == KINDS[kind][1]
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    return document


# --- answers


def test_answers_equal_the_estimator(service: TestClient, small_model: Path, portrait: Path) -> None:
    (face,) = AgeEstimator(small_model).estimate(portrait)
    response = service.post(
        "/v1/estimate?threshold=40&level=0.8", content=portrait.read_bytes(), headers=JPEG
    )
    assert response.status_code == 200
    answer = response.json()
    assert answer["model"] == {"name": "small", "version": "0" * 12}
    assert (answer["threshold"], answer["level"], answer["age_bins"]) == (40, 0.8, "0-100")
    assert answer["milliseconds"] > 0
    assert answer["request_id"] == response.headers["x-request-id"]
    (image,) = answer["images"]
    assert (image["index"], image["width"], image["height"]) == (0, 512, 512)
    assert image["error"] is None
    assert image["warnings"] == []
    (told,) = image["faces"]
    expected = face.to_dict(0.8, 40)
    for key in ("age", "low", "high", "p_at_least", "box", "landmarks", "confidence", "alignment"):
        assert told[key] == expected[key], key
    assert told["distribution"] == expected["distribution"]
    assert told["warnings"] == []
    assert told["quality"]["eye_distance"] == pytest.approx(44, abs=1)


def test_every_form_of_body_gives_the_same_answer(service: TestClient, portrait: Path) -> None:
    photo = portrait.read_bytes()
    encoded = {"images": [base64.b64encode(photo).decode()]}
    answers = [
        service.post("/v1/estimate", content=photo, headers=JPEG),
        service.post("/v1/estimate", content=photo, headers={"Content-Type": "application/octet-stream"}),
        service.post("/v1/estimate", files={"images": ("x.jpg", photo, "image/jpeg")}),
        service.post("/v1/estimate", json=encoded),
    ]
    images = [answer.json()["images"] for answer in answers]
    assert images[0][0]["faces"]
    assert all(image == images[0] for image in images)


def test_many_images_keep_their_order_and_one_bad_does_not_spoil_them(service: TestClient) -> None:
    sent = [grey(51), b"not an image", grey(204)]
    files = [("images", (str(number), image)) for number, image in enumerate(sent)]
    images = service.post("/v1/estimate?aligned=true", files=files).json()["images"]
    assert [image["index"] for image in images] == [0, 1, 2]
    assert [round(image["faces"][0]["age"]) for image in (images[0], images[2])] == [20, 80]
    error = images[1]["error"]
    assert (error["type"], error["status"]) == ("urn:agelens:problem:unreadable-image", 422)
    assert images[1]["width"] is None
    assert images[1]["faces"] == []


def test_options(service: TestClient, portrait: Path) -> None:
    def face(query: str) -> dict[str, Any]:
        response = service.post(f"/v1/estimate?{query}", content=portrait.read_bytes(), headers=JPEG)
        return response.json()["images"][0]["faces"][0]

    whole, narrow = face("level=0.9&threshold=30"), face("level=0.5&distribution=false&model=small")
    assert narrow["distribution"] is None
    assert len(whole["distribution"]) == 101
    assert whole["low"] < narrow["low"] < narrow["high"] < whole["high"]
    assert whole["p_at_least"] < narrow["p_at_least"]
    assert face("crops=true")["alignment"] == "landmarks"
    assert face("aligned=true")["box"] is None


def test_a_photo_without_a_face_says_so(service: TestClient) -> None:
    (image,) = service.post("/v1/estimate", content=grey(90, 200, 100), headers=JPEG).json()["images"]
    assert (image["faces"], image["error"]) == ([], None)
    assert (image["width"], image["height"]) == (200, 100)
    assert [warning["code"] for warning in image["warnings"]] == ["no_face"]


def test_several_faces_and_those_left_out(make_service: Callable[..., TestClient], portrait: Path) -> None:
    photo = np.asarray(Image.open(portrait).convert("RGB"))[:300, 80:380]
    body = png(np.concatenate([photo, photo, photo], axis=1))
    few = make_service(limits=Limits(faces=2, images=1))
    (image,) = few.post("/v1/estimate", content=body, headers=JPEG).json()["images"]
    assert len(image["faces"]) == 2
    assert [warning["code"] for warning in image["warnings"]] == ["several_faces", "faces_left_out"]
    assert "1 smaller" in image["warnings"][1]["message"]


def test_models(service: TestClient, small_model: Path) -> None:
    answer = service.get("/v1/models").json()
    assert answer["default"] == "small"
    (entry,) = answer["models"]
    assert entry["bytes"] == small_model.stat().st_size
    assert entry["geometry"]["size"] == 16
    assert entry["calibration"]["samples"] == 100
    assert answer["limits"] | {"images": 4, "body_bytes": 300_000} == answer["limits"]
    assert answer["warnings"] == THRESHOLDS
    assert service.get(entry["url"]).content == small_model.read_bytes()
    for url in answer["detector"]["networks"]:
        assert len(service.get(url).content) > 10_000


def test_unknown_model_is_told_the_known_ones(service: TestClient) -> None:
    for name in ("nope", "../small", "/etc/passwd", "small.onnx", ""):
        response = service.post("/v1/estimate", params={"model": name}, content=grey(1), headers=JPEG)
        assert "small" in problem(response, 422, "unknown-model")["detail"]


def test_health(service: TestClient) -> None:
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"status": "ready"}
    for path in ("/healthz", "/readyz"):
        assert (service.head(path).status_code, service.head(path).content) == (200, b"")


# --- requests that cannot be used


@pytest.mark.parametrize(
    "query",
    [
        *("threshold=-1", "threshold=131", "threshold=nan", "threshold=inf", "threshold=abc", "threshold="),
        *("level=0", "level=1", "level=-0.5", "level=nan", "distribution=perhaps", "crops=2"),
        *("treshold=21", "crops=true&aligned=true", "threshold=18&threshold=21", "model=small&model=x"),
    ],
)
def test_bad_options(service: TestClient, query: str) -> None:
    response = service.post(f"/v1/estimate?{query}", content=grey(1), headers=JPEG)
    detail = problem(response, 422, "invalid-option")["detail"]
    assert query.partition("=")[0] in detail


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "nonsense", "a" * 5000]
)
def test_wrong_content_types(service: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    detail = problem(service.post("/v1/estimate", content=grey(1), headers=headers), 415, "content-type")[
        "detail"
    ]
    assert "multipart/form-data" in detail
    assert len(detail) < 400


def test_compressed_bodies_are_refused(service: TestClient) -> None:
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
def test_malformed_json(service: TestClient, body: bytes) -> None:
    response = service.post("/v1/estimate", content=body, headers={"Content-Type": "application/json"})
    problem(response, 400, "malformed-body")


def test_a_data_url_is_told_what_to_leave_out(service: TestClient) -> None:
    url = "data:image/png;base64," + base64.b64encode(grey(1)).decode()
    response = service.post("/v1/estimate", json={"images": [url]})
    assert "its comma" in problem(response, 400, "malformed-body")["detail"]


@pytest.mark.parametrize(
    ("entry", "status", "kind"),
    [(b"{},", 422, "too-many-images"), (b"1,", 422, "too-many-images"), (b"[", 400, "malformed-body")],
)
def test_json_of_many_values_is_refused_unparsed(
    service: TestClient, monkeypatch: pytest.MonkeyPatch, entry: bytes, status: int, kind: str
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
    assert form.finish() == [b"\r\n--" * 100_000]
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
def test_malformed_multipart(service: TestClient, body: bytes) -> None:
    problem(service.post("/v1/estimate", **multipart(body)), 400, "malformed-body")


@pytest.mark.parametrize("kind", ["multipart/form-data", f"multipart/form-data; boundary={'x' * 300}"])
def test_boundary_missing_or_too_long(service: TestClient, kind: str) -> None:
    response = service.post("/v1/estimate", content=PART, headers={"Content-Type": kind})
    problem(response, 400, "malformed-body")


def test_options_in_the_form_are_told_their_place(service: TestClient) -> None:
    response = service.post("/v1/estimate", data={"threshold": "21"}, files={"images": ("a", grey(1))})
    detail = problem(response, 422, "invalid-option")["detail"]
    assert "'threshold'" in detail
    assert "query" in detail


def test_no_images(service: TestClient) -> None:
    problem(service.post("/v1/estimate", json={"images": []}), 422, "no-images")
    problem(service.post("/v1/estimate", content=b"", headers=JPEG), 422, "no-images")
    problem(service.post("/v1/estimate", **multipart(b"--b--\r\n")), 422, "no-images")


def test_ten_thousand_images(make_service: Callable[..., TestClient]) -> None:
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
def test_broken_images(service: TestClient, image: bytes) -> None:
    document = problem(service.post("/v1/estimate", content=image, headers=JPEG), 422, "unreadable-image")
    assert "traceback" not in document["detail"].lower()


def test_too_many_pixels_are_refused_before_decoding(
    service: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    Image.new("1", (8000, 8000)).save(stream, "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)  # decoding would fail otherwise
    response = service.post("/v1/estimate", content=stream.getvalue(), headers=JPEG)
    assert "8000 x 8000" in problem(response, 422, "image-too-large")["detail"]


def test_all_images_broken(service: TestClient) -> None:
    files = [("images", ("a", b"x")), ("images", ("b", b""))]
    document = problem(service.post("/v1/estimate", files=files), 422, "unusable-images")
    assert [entry["index"] for entry in document["images"]] == [0, 1]
    assert "empty" in document["images"][1]["detail"]


def test_aligned_images_are_square(service: TestClient) -> None:
    response = service.post("/v1/estimate?aligned=1", content=grey(1, 32, 16), headers=JPEG)
    problem(response, 422, "unusable-image")


def test_unknown_paths_and_methods(service: TestClient) -> None:
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
    app: FastAPI, service: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agelens.serve")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the sky falls")

    with monkeypatch.context() as patched:
        patched.setattr("agelens.serve.batching.read_image", fail)
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


# --- access


def test_token(make_service: Callable[..., TestClient]) -> None:
    service = make_service(token=TOKEN)
    for headers in ({}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"}):
        for response in (
            service.post("/v1/estimate", content=grey(1), headers=JPEG | headers),
            service.get("/v1/models", headers=headers),
            service.get("/page/models/small.onnx", headers=headers),
        ):
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert service.get("/v1/models", headers=shown).status_code == 200
    assert service.get("/page/models/small.onnx", headers=shown).status_code == 200
    assert service.get("/readyz").status_code == 200
    strange = {"Authorization": "Bearer é".encode()}
    problem(service.get("/v1/models", headers=strange), 401, "unauthorized")


def test_cross_origin_calls_only_from_named_origins(make_service: Callable[..., TestClient]) -> None:
    service = make_service(origins=("https://example.org",))
    for origin, allowed in (("https://example.org", True), ("https://evil.example", False)):
        response = service.get("/v1/models", headers={"Origin": origin})
        assert (response.headers.get("access-control-allow-origin") == origin) is allowed


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"token": "short"}, "token"),
        ({"token": "with a space in the middle"}, "token"),
        ({"workers": 0}, "workers"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_seconds": -1.0}, "batch_seconds"),
        ({"origins": ("example.org",)}, "an origin is"),
        ({"origins": ("https://example.org/",)}, "an origin is"),
        ({"models": ("resnet10-tiny-lrn-utkface",) * 2}, "two models"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        create_app(ServeSettings(**settings))


@pytest.mark.parametrize("limit", ["body_bytes", "pixels", "images", "faces", "seconds", "requests", "queue"])
def test_limits_are_positive(limit: str) -> None:
    with pytest.raises(InputError, match=limit):
        Limits(**{limit: 0})
    with pytest.raises(InputError, match=limit):
        Limits(**{limit: float("inf")})


def test_a_queue_holds_a_call() -> None:
    with pytest.raises(InputError, match="queue of 3"):
        Limits(queue=3, images=4)


def test_a_missing_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nope"):
        create_app(ServeSettings(models=(str(tmp_path / "nope.onnx"),)))


def test_the_token_is_not_shown_by_repr() -> None:
    assert TOKEN not in repr(ServeSettings(token=TOKEN))


# --- the page's files


@pytest.fixture
def page(tmp_path: Path) -> Path:
    import gzip

    folder = tmp_path / "page"
    (folder / "engine").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>page</title>" + "x" * 2000)
    (folder / "app.js").write_text("let a = 1;\n" * 200)
    (folder / "notes.md").write_text("not served")
    (folder / ".hidden.js").write_text("not served")
    (folder / "engine" / "engine.wasm.gz").write_bytes(gzip.compress(b"\0asm" * 500))
    (tmp_path / "secret.txt").write_text("secret")
    return folder


def test_page_files(make_service: Callable[..., TestClient], page: Path) -> None:
    service = make_service(page)
    index = service.get("/")
    assert index.text.startswith("<!doctype html>")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["content-encoding"] == "gzip"
    policy = index.headers["content-security-policy"]
    assert "script-src 'self' 'wasm-unsafe-eval'" in policy
    assert "unsafe-inline" not in policy
    assert index.headers["permissions-policy"].startswith("camera=(self)")
    assert service.get("/app.js").headers["content-type"] == "text/javascript; charset=utf-8"
    engine = service.get("/engine/engine.wasm")
    assert engine.content == b"\0asm" * 500
    assert (engine.headers["content-type"], engine.headers["content-encoding"]) == (
        "application/wasm",
        "gzip",
    )
    plain = service.get("/engine/engine.wasm", headers={"Accept-Encoding": "identity"})
    assert plain.content == b"\0asm" * 500
    assert "content-encoding" not in plain.headers
    assert service.head("/app.js").status_code == 200
    problem(service.post("/app.js"), 405, "method-not-allowed")


def test_page_files_are_revalidated(make_service: Callable[..., TestClient], page: Path) -> None:
    service = make_service(page)
    first = service.get("/app.js")
    headers = {"If-None-Match": first.headers["etag"]}
    again = service.get("/app.js", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    (page / "app.js").write_text("let a = 2;")
    assert service.get("/app.js", headers=headers).text == "let a = 2;"


def test_only_the_page_is_served(make_service: Callable[..., TestClient], page: Path) -> None:
    service = make_service(page)
    for path in (
        *("/notes.md", "/.hidden.js", "/engine/", "/engine/engine.wasm.gz", "//etc/passwd"),
        *("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/engine/..%5c..%5csecret.txt", "/%00"),
    ):
        problem(service.get(path), 404, "not-found")


# --- batches and the queue


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that is about to be."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


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


def test_busy_service(held: Any, make_service: Callable[..., TestClient]) -> None:
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


def test_calls_beyond_the_limit_and_late_answers(held: Any, make_service: Callable[..., TestClient]) -> None:
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


# --- quality


def at(points: NDArray[np.float64]) -> DetectedFace:
    return DetectedFace((0.0, 0.0, 100.0, 100.0), 1.0, landmarks=points)


def turned(yaw: float = 0.0, pitch: float = 0.0) -> NDArray[np.float64]:
    """Landmarks of a head with eyes 1 apart, turned and seen from afar; the nose stands out by half of it."""
    mouth = 0.403 / 0.393
    points = np.array(
        [(-0.5, 0, 0), (0.5, 0, 0), (0, 0.576 * mouth, 0.5), (-0.4, mouth, 0), (0.4, mouth, 0)], np.float64
    )
    a, b = np.radians([yaw, pitch])
    sideways = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    upwards = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turned_points: NDArray[np.float64] = (points @ sideways.T @ upwards.T)[:, :2] * 40 + 50
    return turned_points


@pytest.mark.parametrize("pitch", [-40.0, -10.0, 0.0, 25.0])
@pytest.mark.parametrize("tilt", [0.0, 90.0, 200.0])
def test_pitch_of_a_turned_head(pitch: float, tilt: float) -> None:
    a = np.radians(tilt)
    points = turned(pitch=pitch) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    assert estimate_pitch(points) == pytest.approx(pitch, abs=0.2)


def test_pitch_of_impossible_landmarks() -> None:
    flat = np.array([(0, 0), (1, 0), (0.5, 0.5), (0, 0), (1, 0)], np.float64)
    assert estimate_pitch(flat) == 0
    with pytest.raises(ValueError, match="coincide"):
        estimate_pitch(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="landmarks are"):
        estimate_pitch(np.zeros((4, 2)))


def test_blur_by_plain_loops() -> None:
    """Crété's measure, written as in the paper, along the rows and columns of one image."""
    image = np.random.default_rng(0).integers(0, 256, (14, 17, 3), dtype=np.uint8)
    grey_level = image @ np.array([0.299, 0.587, 0.114])

    def along(rows: NDArray[np.float64]) -> float:
        before = lost = 0.0
        for row in rows:
            padded = [row[min(max(x, 0), len(row) - 1)] for x in range(-4, len(row) + 4)]
            mean = [sum(padded[x : x + 9]) / 9 for x in range(len(row))]
            for x in range(1, len(row)):
                difference = abs(row[x] - row[x - 1])
                before += difference
                lost += max(0.0, difference - abs(mean[x] - mean[x - 1]))
        return (before - lost) / before

    assert blur_effect(image) == pytest.approx(max(along(grey_level), along(grey_level.T)), abs=1e-4)


def test_blur_rises_with_blurring_and_ignores_contrast(portrait: Path) -> None:
    picture = Image.open(portrait).convert("RGB").crop((160, 50, 290, 180)).resize((96, 96))
    blurs = [
        blur_effect(np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma)))) for sigma in (0, 1, 2, 4)
    ]
    assert blurs == sorted(blurs)
    assert blurs[0] < THRESHOLDS["blur"] < blurs[2]
    faint = np.asarray(picture, np.float32) * 0.5 + 60
    assert blur_effect(faint.astype(np.uint8)) == pytest.approx(blurs[0], abs=0.02)
    assert blur_effect(np.full((20, 20, 3), 7, np.uint8)) == 1
    with pytest.raises(ValueError, match="an image is"):
        blur_effect(np.zeros((4, 4), np.uint8))


def test_share_outside() -> None:
    assert share_outside((10, 10, 20, 20), 100, 100) == 0
    assert share_outside((-5, 0, 5, 10), 100, 100) == pytest.approx(0.5)
    assert share_outside((95, 95, 105, 105), 100, 100) == pytest.approx(0.75)
    assert share_outside((200, 0, 210, 10), 100, 100) == 1
    assert share_outside((5, 5, 5, 9), 100, 100) == 0


def test_quality_without_landmarks() -> None:
    crop = np.zeros((16, 16, 3), np.uint8)
    assert face_quality(crop, None, 50, 50) == FaceQuality(None, 1.0, None, None, None)
    found = face_quality(crop, DetectedFace((0, 0, 60, 50), 1.0), 50, 50)
    assert (found.eye_distance, found.yaw, found.pitch) == (None, None, None)
    assert found.outside == pytest.approx(1 / 6)
    coinciding = face_quality(crop, at(np.zeros((5, 2))), 50, 50)
    assert (coinciding.yaw, coinciding.pitch) == (None, None)


def test_warnings_of_faces() -> None:
    good = FaceQuality(60.0, 0.4, 3.0, -5.0, 0.0)
    assert face_warnings(good) == []
    cases = {
        "too_small": FaceQuality(15.0, 0.4, 3.0, -5.0, 0.0),
        "blurred": FaceQuality(60.0, 0.8, 3.0, -5.0, 0.0),
        "extreme_pose": FaceQuality(60.0, 0.4, -50.0, None, 0.0),
        "truncated": FaceQuality(60.0, 0.4, None, None, 0.2),
    }
    for code, quality in cases.items():
        assert [warning.code for warning in face_warnings(quality)] == [code]
    assert [warning.code for warning in face_warnings(FaceQuality(60.0, 0.4, 0.0, 45.0, 0.0))] == [
        "extreme_pose"
    ]
    assert face_warnings(FaceQuality(None, 0.4, None, None, None)) == []
    assert photo_warnings(1, 0) == []


def test_template_face_is_frontal() -> None:
    assert estimate_pitch(CHIP_LANDMARKS * 200) == pytest.approx(0, abs=1)


def test_a_cut_blurred_photo_is_warned_of(service: TestClient, portrait: Path) -> None:
    picture = (
        Image.open(portrait).convert("RGB").crop((195, 50, 400, 250)).filter(ImageFilter.GaussianBlur(4))
    )
    (image,) = service.post("/v1/estimate", content=png(np.asarray(picture)), headers=JPEG).json()["images"]
    codes = {warning["code"] for face in image["faces"] for warning in face["warnings"]}
    assert {"truncated"} <= codes


# --- over a real connection


class Running:
    """``agelens serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, request: bytes) -> tuple[int, dict[str, Any]]:
        """Send bytes and read the answer until the connection closes: status and problem document."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)


@contextlib.contextmanager
def run_service(command: list[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service whose stderr is a file."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("agelens serves http://127.0.0.1:"), log.read_text()
        yield process, int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert MEDIA_TYPE.encode() in head, received
    return int(head.split()[1]), json.loads(body)


@pytest.fixture(scope="module")
def running(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = ["--silence", "1", "--upload-timeout", "2", "--max-body", "1", "--timeout", "20"]
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--model", str(small_model), *limits]
    with run_service(command, log := tmp_path_factory.mktemp("service") / "log") as (process, port):
        yield Running(process, port, log)


HEAD = b"POST /v1/estimate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


def test_it_is_ready_soon(running: Running) -> None:
    """Under 2 s of processor time, whatever else the machine is doing."""
    stat = Path(f"/proc/{running.process.pid}/stat")
    if not stat.is_file():
        pytest.skip("processor time is read from /proc")
    user, system = map(int, stat.read_text().rpartition(")")[2].split()[11:13])
    assert (user + system) / os.sysconf("SC_CLK_TCK") < 2


def test_a_giant_body_is_refused_before_it_is_read(running: Running) -> None:
    status, document = running.exchange(HEAD + b"Content-Length: 10000000000\r\n\r\n" + b"x" * 1000)
    assert (status, document["limit"]) == (413, 1_000_000)


def test_a_giant_body_that_is_sent_in_one_go_gets_its_answer(running: Running) -> None:
    status, _ = running.exchange(HEAD + b"Content-Length: 8000000\r\n\r\n" + bytes(8_000_000))
    assert status == 413


def test_a_body_of_unknown_length_is_cut_at_the_limit(running: Running) -> None:
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    status, _ = running.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20)
    assert status == 413


def test_a_silent_sender_is_timed_out(running: Running) -> None:
    started = time.perf_counter()
    status, document = running.exchange(HEAD + b"Content-Length: 1000\r\n\r\nabc")
    assert (status, document["type"]) == (408, "urn:agelens:problem:slow-sender")
    assert 0.9 < time.perf_counter() - started < 8


def test_a_dripping_sender_is_timed_out(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        for _ in range(12):
            time.sleep(0.2)
            connection.sendall(b"x")
        assert read_answer(connection)[0] == 408


@pytest.mark.parametrize("head", [b"", b"GET / HT", HEAD])
def test_a_head_that_does_not_come_is_timed_out(running: Running, head: bytes) -> None:
    assert running.exchange(head)[0] == 408


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\rInjected: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nBad Name: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A: " + b"a" * 100_000,
        HEAD + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        b"GET /" + b"a" * 100_000,
    ],
)
def test_invalid_http(running: Running, request_: bytes) -> None:
    status, document = running.exchange(request_)
    assert (status, document["type"]) == (400, "urn:agelens:problem:malformed-request")


def test_traversal_over_the_wire(running: Running) -> None:
    for path in (
        b"/../../etc/passwd",
        b"/page/models/../../../../etc/passwd",
        b"/page/models/..%2f..%2fx",
        b"/%zz",
    ):
        status, _ = running.exchange(
            b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert status == 404


def test_others_are_unaffected_by_slow_senders(running: Running) -> None:
    connections = [running.connect() for _ in range(30)]
    for connection in connections:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\nabc")
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/v1/estimate?aligned=1", grey(51), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        assert response.status == 200
    for connection in connections:
        connection.close()


def test_an_answer_that_nobody_takes_is_given_up(running: Running) -> None:
    """Otherwise each such connection would hold its answer for ever."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(b"GET /page/models/mtcnn/onet.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30)
        time.sleep(7)  # more than three times the pause that is allowed
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(2**20):
                received += chunk
    assert received.count(b"HTTP/1.1 200 OK") < 30


def test_answers_to_invalid_http_have_the_security_headers_and_an_id(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    until(lambda: headers["x-request-id"] in running.log.read_text())


def test_every_line_of_the_log_is_json(running: Running) -> None:
    """Libraries warn, too: Pillow of a damaged directory of a TIFF file, that of forms of a boundary."""
    stream = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(stream, "TIFF")
    tiff = bytearray(stream.getvalue())
    tiff[9] = 255  # many more entries than there are
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/v1/estimate", bytes(tiff), {"Content-Type": "image/tiff"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        request_id = response.headers["x-request-id"]
    form = HEAD.replace(b"image/jpeg", b"multipart/form-data; boundary=b")
    status, document = running.exchange(
        form + b"Content-Length: 11\r\nConnection: close\r\n\r\n--c\r\nsecret"
    )
    assert status == 400
    until(lambda: all(name in running.log.read_text() for name in (request_id, document["request_id"])))
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    assert not any("Expected boundary" in line["event"] for line in lines)  # it quotes the body


def test_senders_who_leave_do_not_disturb(running: Running) -> None:
    body = grey(51, 300, 300)
    for _ in range(5):
        with running.connect() as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/readyz", timeout=20) as response:
        assert response.status == 200


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name == "nt", reason="signals of POSIX systems")
def test_it_stops_in_order(small_model: Path, portrait: Path, tmp_path: Path) -> None:
    """What was accepted is answered, then it ends."""
    photo = portrait.read_bytes()
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--model", str(small_model)]
    with run_service(command, tmp_path / "log") as (process, port):
        running = Running(process, port, tmp_path / "log")

        def refuses() -> bool:
            try:
                running.connect().close()
            except ConnectionError:
                return True
            return False

        with running.connect() as connection:
            connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(photo))
            assert connection.recv(65536).startswith(b"HTTP/1.1 100")  # it is reading the body now
            process.send_signal(signal.SIGTERM)
            until(refuses)
            connection.sendall(photo)
            received = connection.makefile("rb").read()
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert process.wait(20) in {0, -signal.SIGTERM}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nope.onnx"], "no such file"),
        (["--model", "SMALL", "--detector", "nope"], "no detector"),
        (["--model", "SMALL", "--model", "SMALL"], "two models"),
        (["--token-file", "nope"], "cannot read the token"),
        (["--max-body", "0"], "body_bytes"),
        (["--max-body", "nan"], "--max-body"),
        (["--max-body", "inf"], "--max-body"),
        (["--timeout", "inf"], "finite"),
        (["--queue", "3"], "queue of 3"),
        (["--host", "no.such.host.invalid"], "cannot listen"),
    ],
)
def test_command_errors_are_one_line(
    arguments: list[str],
    message: str,
    small_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = [str(small_model) if argument == "SMALL" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["agelens", "serve", "--port", "0", *chosen])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGELENS_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("AGELENS_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text("another-token-entirely\n")
    assert read_token(tmp_path / "token") == "another-token-entirely"


def test_listen() -> None:
    with pytest.raises(InputError, match="a port is 0 to 65535"):
        listen("127.0.0.1", 70_000)
    for host in ("no.such.host.invalid", "203.0.113.7", "x" * 100):
        with pytest.raises(InputError, match="cannot listen"):
            listen(host, 0)
    with listen("localhost", 0) as on:
        assert on.getsockname()[0] in {"127.0.0.1", "::1"}
