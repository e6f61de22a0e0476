"""Fixtures of the tests of the service: services in this process, and in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens.faces.detection import DetectedFace

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
MEDIA_TYPE = "application/problem+json"


@pytest.fixture
def make_service(small_model: Path) -> Iterator[Callable[..., Any]]:
    """``make_service(page=None, **settings)`` starts a service of its own: a client of it."""
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    from starlette.testclient import TestClient

    from agelens.serve.app import create_app
    from agelens.serve.settings import ServeSettings

    clients = []

    def make(page: Path | None = None, **settings: Any) -> TestClient:
        chosen = {"models": (str(small_model),)} | settings
        app = create_app(ServeSettings(**chosen), page)
        client = TestClient(app, "http://localhost", raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def _problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """Check that a response is a whole problem document, and return it."""
    from agelens.serve.problems import KINDS

    assert response.headers["content-type"] == MEDIA_TYPE, response.text
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["type"]) == (status, f"urn:agelens:problem:{kind}"), document
    assert document["status"] == status
    assert document["title"] == KINDS[kind][1]
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    return document


@pytest.fixture(scope="session")
def problem() -> Callable[..., dict[str, Any]]:
    """``problem(response, status, kind)`` checks a whole problem document, and returns it."""
    return _problem


class Running:
    """``agelens serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, request: bytes) -> tuple[int, dict[str, Any]]:
        """Send bytes and read the answer until the connection closes: status and problem document."""
        with self.connect() as connection:
            connection.sendall(request)
            return self.answer(connection)

    @staticmethod
    def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
        received = b""
        # A service that closes on what it has not read resets the connection, behind its answer.
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        assert MEDIA_TYPE.encode() in head, received
        return int(head.split()[1]), json.loads(body)


@pytest.fixture(scope="session")
def serving(
    small_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Running]]:
    """``with serving(*arguments) as running:`` runs ``agelens serve`` with a small model."""
    pytest.importorskip("fastapi", reason="the service needs the extra serve")

    @contextlib.contextmanager
    def run(*arguments: str) -> Iterator[Running]:
        log = tmp_path_factory.mktemp("service") / "log"
        command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--model", str(small_model)]
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.PIPE, stderr=stream, text=True
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("agelens serves http://127.0.0.1:"), log.read_text()
            yield Running(process, int(line.rpartition(":")[2]), log)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    return run


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """``until(condition, seconds=20)`` waits for something that is about to be."""

    def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to be"
            time.sleep(0.02)

    return wait


class Held:
    """A detector that finds the whole image, once it may."""

    name = "held"

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        self.entered.release()
        assert self.open.wait(20)
        height, width = image.shape[:2]
        return [DetectedFace((0.0, 0.0, float(width), float(height)), 1.0)]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """A detector that workers wait in while its ``open`` is cleared."""
    detector = Held()
    detector.open.set()
    monkeypatch.setattr("agelens.serve.batching.make_detector", lambda *_, **__: detector)
    yield detector
    detector.open.set()


# --- the page in a browser


def chromium() -> str | None:
    """A browser of the system, if there is one; else playwright may have its own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        try:
            opened = started.chromium.launch(executable_path=chromium(), args=arguments + camera)
        except Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def _running_service(*arguments: str, **environment: str) -> Iterator[Service]:
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--workers", "1", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            until = time.monotonic() + 60
            while (found := re.search(r"http://127\.0\.0\.1:\d+", told := read_whole(log))) is None:
                assert process.poll() is None, f"the service ended: {told}"
                assert time.monotonic() < until, f"the service did not start: {told}"
                time.sleep(0.05)
            yield Service(process, found[0])
        finally:
            process.kill()
            process.wait()


def read_whole(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


@pytest.fixture(scope="module")
def paged() -> Iterator[Service]:
    """A running service with its page and the shipped models."""
    pytest.importorskip("uvicorn", reason="the service needs the extra serve")
    with _running_service() as started:
        yield started


@pytest.fixture(scope="session")
def running_service() -> Callable[..., AbstractContextManager[Service]]:
    """``with running_service(*arguments, **environment) as service:`` runs ``agelens serve``."""
    pytest.importorskip("uvicorn", reason="the service needs the extra serve")
    return _running_service


@dataclass
class Visit:
    """An open page with all that it asked for and complained of."""

    page: Any
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)  # parts of complaints that do not count, however late

    @property
    def sent(self) -> list[str]:
        """Requests that left the browser, in order: method and address."""
        return [request for request in self.requests if not request.split()[1].startswith(("blob:", "data:"))]

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def add(self, *paths: Path) -> Any:
        """Choose files; gives the card of the last when all are done."""
        done = self.page.locator(".photo.done")
        before = done.count()
        self.page.set_input_files("#files", [str(path) for path in paths])
        done.nth(before + len(paths) - 1).wait_for(timeout=60_000)
        return self.page.locator(".photo").first

    def keep_on_device(self) -> None:
        self.page.locator("#on-device").check()
        self.page.locator("#privacy:is([data-state=ready], [data-state=failed])").wait_for(timeout=60_000)
        assert self.page.locator("#privacy").get_attribute("data-state") == "ready", self.text("#privacy")

    def settle(self) -> None:
        self.page.locator("#privacy-state:not(:text('Asking'))").wait_for()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(url, **options of the browser's context)`` opens the page; it may not complain."""
    visits = []

    def opened(url: str, prepare: Callable[[Any], None] = lambda page: None, **options: Any) -> Visit:
        context = browser.new_context(**options)
        visited = Visit(context.new_page(), url)
        visits.append(visited)
        context.on("request", lambda request: visited.requests.append(f"{request.method} {request.url}"))
        visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.page.on(
            "console",
            lambda told: visited.complaints.append(told.text) if told.type in {"error", "warning"} else None,
        )
        prepare(visited.page)
        visited.page.goto(url)
        visited.settle()
        return visited

    yield opened
    for visited in visits:
        visited.page.context.close()
        counted = [told for told in visited.complaints if not any(part in told for part in visited.excused)]
        assert counted == []


def _faces_of(card: Any) -> list[dict[str, float]]:
    """Faces as a photo's card shows them; boxes in shares of the photo."""
    faces = card.locator(".face").evaluate_all("faces => faces.map(face => ({...face.dataset}))")
    boxes = card.locator(".box").evaluate_all(
        "boxes => boxes.map(({style}) => [style.left, style.top, style.width, style.height].map(parseFloat))"
    )
    told = []
    for face, (left, top, width, height) in zip(faces, boxes, strict=True):
        box = {"x1": left / 100, "y1": top / 100, "x2": (left + width) / 100, "y2": (top + height) / 100}
        told.append({key: float(value) for key, value in face.items()} | box)
    return told


@pytest.fixture(scope="module")
def estimator() -> Any:
    from agelens import AgeEstimator

    return AgeEstimator()


def _assert_like_python(card: Any, path: Path, estimator: Any) -> int:
    """The card says what Python says of the file: boxes within a pixel, ages within 0.3 years."""
    with Image.open(path) as picture:
        size = np.array(picture.size)
        turned = picture.getexif().get(0x0112, 1) > 4
    wanted, found = estimator.estimate(path), _faces_of(card)
    assert len(found) == len(wanted)
    for face, told in zip(wanted, found, strict=True):
        box = np.array([told[key] for key in ("x1", "y1", "x2", "y2")]) * np.tile(
            size[::-1] if turned else size, 2
        )
        assert box == pytest.approx(np.array(face.box), abs=1)
        assert told["age"] == pytest.approx(face.age, abs=0.3)
        assert [told["low"], told["high"]] == pytest.approx(list(face.interval(0.9)), abs=0.3)
    chances = card.locator("[data-part=probability]").all_inner_texts()
    for face, chance in zip(wanted, chances, strict=True):
        number = float(re.sub("[^0-9.]", "", chance)) / 100
        assert number == pytest.approx(face.probability_at_least(18), abs=0.003)
    return len(wanted)


@pytest.fixture(scope="module")
def two_faces(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Image.open(portrait) as picture:
        face = picture.convert("RGB")
    pair = Image.new("RGB", (face.width * 2, face.height))
    pair.paste(face, (0, 0))
    pair.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((380, 380)), (face.width + 60, 90))
    path = tmp_path_factory.mktemp("photos") / "two.png"
    pair.save(path)
    return path


@pytest.fixture(scope="module")
def no_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "sky.png"
    Image.linear_gradient("L").resize((320, 200)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def broken(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "broken.jpg"
    path.write_bytes(portrait.read_bytes()[:200])
    return path


@pytest.fixture(scope="session")
def assert_accessible() -> Callable[[Any], None]:
    """``assert_accessible(page)`` checks a page by the rules of axe-core, if that is installed."""

    def check(page: Any) -> None:
        if not AXE.is_file():
            return
        if not page.evaluate("'axe' in window"):
            page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run({resultTypes: ['violations']})")
        broken_rules = [
            f"{rule['id']}: {node['html']} {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
        assert broken_rules == []
        assert len(found["passes"]) > 15

    return check


@pytest.fixture(scope="session")
def faces_of() -> Callable[[Any], list[dict[str, float]]]:
    """``faces_of(card)``: what a photo's card says of its faces; boxes in shares of the photo."""
    return _faces_of


@pytest.fixture(scope="session")
def assert_like_python() -> Callable[..., int]:
    """``assert_like_python(card, path, estimator)`` compares a card with Python: the number of faces."""
    return _assert_like_python
