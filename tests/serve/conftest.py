"""What the tests of the service share: services in this process, and in processes of their own."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agelens.faces.detection import DetectedFace

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
