"""Connections: many, slow, left, or made of crumbs; and a log that stays small and JSON."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from starlette.requests import Request

from agelens.errors import InputError
from agelens.serve.logs import JsonLines, Throttle
from agelens.serve.server import LoopErrors, _reserve_descriptors
from agelens.serve.settings import Limits
from agelens.serve.static import StaticFile

HEAD = b"POST /v1/estimate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


def health(port: int) -> float:
    """Seconds until the service says that it lives."""
    started = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as response:
        assert response.status == 200
    return time.perf_counter() - started


def test_connections_are_limited(serving: Callable[..., Any], until: Callable[..., None]) -> None:
    with serving("--max-connections", "10") as running:
        with contextlib.ExitStack() as opened:
            kept = [opened.enter_context(running.connect()) for _ in range(10)]
            for connection in kept:  # each is taken by now
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            for _ in range(40):
                with running.connect() as connection:
                    received = connection.makefile("rb").read()
                assert received.startswith(b"HTTP/1.1 503")
                assert b"Retry-After: 1\r\n" in received
                assert json.loads(received.partition(b"\r\n\r\n")[2])["type"].endswith(":busy")
        until(lambda: _healthy(running.port))
        told = [line for line in running.log if line["event"] == "too many connections"]
        assert 1 <= len(told) < 10


def _healthy(port: int) -> bool:
    with contextlib.suppress(OSError):
        return health(port) < 20
    return False


def test_a_body_of_crumbs_is_refused(serving: Callable[..., Any]) -> None:
    """A chunk of one byte costs the service as much as a chunk of thousands."""
    with serving("--max-body", "1") as running:
        head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        status, document = running.exchange(head + b"1\r\nx\r\n" * 100_000)
        assert (status, document["type"]) == (400, "urn:agelens:problem:malformed-request")
        assert "larger" in document["detail"]
        whole = b"".join(b"200\r\n" + bytes(512) + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
        status, document = running.exchange(
            head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + whole
        )
        assert (status, document["type"]) == (422, "urn:agelens:problem:unreadable-image")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_downloads_that_nobody_takes_hold_little(
    serving: Callable[..., Any], small_model: Path, tmp_path: Path
) -> None:
    big = tmp_path / "big.onnx"
    onnx = pytest.importorskip("onnx", reason="building a model file needs the extra train")
    model = onnx.load(small_model)
    props = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**props, "agelens.name": "big", "ballast": "x" * 8_000_000})
    onnx.save(model, big)

    def resident() -> int:
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    with serving("--model", str(big)) as running, contextlib.ExitStack() as opened:
        before = resident()
        for _ in range(40):
            connection = opened.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", running.port))
            connection.sendall(b"GET /page/models/big.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.5)
        assert resident() - before < 60  # MB; whole files would be 320


async def _sent(file: StaticFile, method: str, headers: dict[str, str]) -> tuple[dict[str, str], list[bytes]]:
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": file.url,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "state": {"notes": {}},
    }
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is to be received")

    response = await file(Request(scope))
    await response(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return told, [message["body"] for message in messages[1:]]


def sent(file: StaticFile, method: str, headers: dict[str, str]) -> tuple[dict[str, str], list[bytes]]:
    """Head and pieces of an answer; in a thread of its own, for an open browser has a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _sent(file, method, headers)).result()


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
def test_large_files_are_sent_in_pieces(tmp_path: Path, accepted: str) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    path = tmp_path / "engine.wasm.gz"
    path.write_bytes(gzip.compress(content))
    for file in (StaticFile("/engine.wasm", path, gzipped=True), StaticFile("/x.onnx", content)):
        told, pieces = sent(file, "GET", {"accept-encoding": accepted})
        assert max(map(len, pieces)) <= 2**16
        body = b"".join(pieces)
        assert int(told["content-length"]) == len(body)
        assert (gzip.decompress(body) if told.get("content-encoding") == "gzip" else body) == content
        head, pieces = sent(file, "HEAD", {"accept-encoding": accepted})
        assert head["content-length"] == told["content-length"]
        assert b"".join(pieces) == b""
        seen = {"accept-encoding": accepted, "if-none-match": told["etag"]}
        assert b"".join(sent(file, "GET", seen)[1]) == b""


def test_errors_of_the_event_loop_are_throttled(caplog: pytest.LogCaptureFixture) -> None:
    """Out of descriptors, asyncio reports thousands of times a second."""
    caplog.set_level(logging.INFO, "agelens.serve")
    report, loop = LoopErrors(), asyncio.new_event_loop()
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    for _ in range(5000):
        report(loop, {"message": "socket.accept() out of system resource", "exception": error})
    assert [record.getMessage() for record in caplog.records] == [f"connections wait: {error}"]
    for number in range(100):
        report(loop, {"message": f"odd {number}"})
    assert sum("event loop" in record.getMessage() for record in caplog.records) == 10
    loop.close()
    assert "Traceback" not in JsonLines().format(caplog.records[0])


def test_a_throttle_tells_what_it_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("agelens.serve.logs.time.monotonic", lambda: now[0])
    throttle = Throttle(2, 1.0)
    assert [throttle.admit() for _ in range(5)] == [0, 0, None, None, None]
    now[0] += 1
    assert [throttle.admit() for _ in range(3)] == [3, 0, None]


def test_connections_need_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="limits of POSIX systems")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    chosen: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: chosen.append(limits))
    _reserve_descriptors(400)
    assert chosen == [(864, 1000)]
    with pytest.raises(InputError, match="--max-connections 468"):
        _reserve_descriptors(512)
    with pytest.raises(InputError, match="connections"):
        Limits(connections=0)


def test_senders_who_leave_are_no_errors(
    serving: Callable[..., Any], portrait: Path, until: Callable[..., None]
) -> None:
    photo = portrait.read_bytes()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(photo) + photo
    with serving("--workers", "1") as running:
        for sent in range(20, 420, 20):
            with contextlib.ExitStack() as together:  # more at a time than one worker answers meanwhile
                for _ in range(20):
                    together.enter_context(running.connect()).sendall(request)
            until(lambda sent=sent: sum(line.get("status") in {499, 200} for line in running.log) == sent)
            if any(line.get("status") == 499 for line in running.log):
                break
        else:
            pytest.fail("all were answered before they left")
        health(running.port)
        assert [line for line in running.log if line["level"] in {"error", "critical"}] == []


def test_what_is_written_past_python_is_logged_as_json() -> None:
    """Libraries print to descriptor 2 by themselves."""
    code = (
        "import os\n"
        "from agelens.serve.logs import json_logs\n"
        "with json_logs():\n"
        "    os.write(2, b'a decoder: \\x1b[31m bad code word\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["source"]) == ("warning", "stderr")
    assert line["event"] == "a decoder: [31m bad code word"


def test_stuck_workers_are_told(
    held: Any, make_service: Callable[..., Any], until: Callable[..., None]
) -> None:
    service = make_service(limits=Limits(photo_seconds=0.2, seconds=0.1), workers=1)
    assert service.get("/readyz").status_code == 200
    held.open.clear()
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG")
    answer = service.post("/v1/estimate", content=stream.getvalue(), headers={"Content-Type": "image/png"})
    assert answer.json()["type"] == "urn:agelens:problem:too-slow"
    until(lambda: service.get("/readyz").status_code == 503)
    answer = service.get("/readyz")
    assert (answer.json()["type"], answer.headers["retry-after"]) == ("urn:agelens:problem:busy", "5")
    assert service.get("/healthz").status_code == 200
    held.open.set()
    until(lambda: service.get("/readyz").status_code == 200)
