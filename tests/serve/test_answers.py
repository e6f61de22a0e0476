"""The service's answers, access to it, and the files of its page."""

from __future__ import annotations

import base64
import io
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

from agelens.errors import InputError, ModelFileError
from agelens.faces.quality_warnings import THRESHOLDS
from agelens.inference.estimator import AgeEstimator
from agelens.serve.app import create_app
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


def test_unknown_model_is_told_the_known_ones(
    service: TestClient, problem: Callable[..., dict[str, Any]]
) -> None:
    for name in ("nope", "../small", "/etc/passwd", "small.onnx", ""):
        response = service.post("/v1/estimate", params={"model": name}, content=grey(1), headers=JPEG)
        assert "small" in problem(response, 422, "unknown-model")["detail"]


def test_health(service: TestClient) -> None:
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"status": "ready"}
    for path in ("/healthz", "/readyz"):
        assert (service.head(path).status_code, service.head(path).content) == (200, b"")


def test_a_cut_blurred_photo_is_warned_of(service: TestClient, portrait: Path) -> None:
    picture = (
        Image.open(portrait).convert("RGB").crop((195, 50, 400, 250)).filter(ImageFilter.GaussianBlur(4))
    )
    (image,) = service.post("/v1/estimate", content=png(np.asarray(picture)), headers=JPEG).json()["images"]
    codes = {warning["code"] for face in image["faces"] for warning in face["warnings"]}
    assert {"truncated"} <= codes


# --- access


def test_token(make_service: Callable[..., TestClient], problem: Callable[..., dict[str, Any]]) -> None:
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


def test_page_files(
    make_service: Callable[..., TestClient], page: Path, problem: Callable[..., dict[str, Any]]
) -> None:
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


def test_only_the_page_is_served(
    make_service: Callable[..., TestClient], page: Path, problem: Callable[..., dict[str, Any]]
) -> None:
    service = make_service(page)
    for path in (
        *("/notes.md", "/.hidden.js", "/engine/", "/engine/engine.wasm.gz", "//etc/passwd"),
        *("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/engine/..%5c..%5csecret.txt", "/%00"),
    ):
        problem(service.get(path), 404, "not-found")
