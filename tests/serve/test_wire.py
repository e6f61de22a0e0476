"""The service over real connections: slow, giant, invalid, stopping."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs the extra serve")


from agelens.apps import cli
from agelens.apps.commands.serve import read_token
from agelens.errors import InputError
from agelens.serve.server import listen

TOKEN = "a-token-that-is-long-enough"


def png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def grey(level: int, width: int = 32, height: int = 32) -> bytes:
    return png(np.full((height, width, 3), level, np.uint8))


@pytest.fixture(scope="module")
def running(serving: Callable[..., Any]) -> Iterator[Any]:
    limits = ["--silence", "1", "--upload-timeout", "2", "--max-body", "1", "--timeout", "20"]
    with serving(*limits) as started:
        yield started


HEAD = b"POST /v1/estimate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


def test_it_is_ready_soon(running: Any) -> None:
    """Under 2 s of processor time, whatever else the machine is doing."""
    stat = Path(f"/proc/{running.process.pid}/stat")
    if not stat.is_file():
        pytest.skip("processor time is read from /proc")
    user, system = map(int, stat.read_text().rpartition(")")[2].split()[11:13])
    assert (user + system) / os.sysconf("SC_CLK_TCK") < 2


def test_a_giant_body_is_refused_before_it_is_read(running: Any) -> None:
    status, document = running.exchange(HEAD + b"Content-Length: 10000000000\r\n\r\n" + b"x" * 1000)
    assert (status, document["limit"]) == (413, 1_000_000)


def test_a_giant_body_that_is_sent_in_one_go_gets_its_answer(running: Any) -> None:
    status, _ = running.exchange(HEAD + b"Content-Length: 8000000\r\n\r\n" + bytes(8_000_000))
    assert status == 413


def test_a_body_of_unknown_length_is_cut_at_the_limit(running: Any) -> None:
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    status, _ = running.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20)
    assert status == 413


def test_a_silent_sender_is_timed_out(running: Any) -> None:
    started = time.perf_counter()
    status, document = running.exchange(HEAD + b"Content-Length: 1000\r\n\r\nabc")
    assert (status, document["type"]) == (408, "urn:agelens:problem:slow-sender")
    assert 0.9 < time.perf_counter() - started < 8


def test_a_dripping_sender_is_timed_out(running: Any) -> None:
    with running.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        for _ in range(12):
            time.sleep(0.2)
            connection.sendall(b"x")
        assert running.answer(connection)[0] == 408


@pytest.mark.parametrize("head", [b"", b"GET / HT", HEAD])
def test_a_head_that_does_not_come_is_timed_out(running: Any, head: bytes) -> None:
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
def test_invalid_http(running: Any, request_: bytes) -> None:
    status, document = running.exchange(request_)
    assert (status, document["type"]) == (400, "urn:agelens:problem:malformed-request")


def test_traversal_over_the_wire(running: Any) -> None:
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


def test_others_are_unaffected_by_slow_senders(running: Any) -> None:
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


def test_an_answer_that_nobody_takes_is_given_up(running: Any) -> None:
    """Otherwise each such connection would hold its answer for ever."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(b"GET /page/models/detector/onet.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30)
        time.sleep(7)  # more than three times the pause that is allowed
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(2**20):
                received += chunk
    assert received.count(b"HTTP/1.1 200 OK") < 30


def test_answers_to_invalid_http_have_the_security_headers_and_an_id(
    running: Any, until: Callable[..., None]
) -> None:
    with running.connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    until(lambda: any(line.get("request_id") == headers["x-request-id"] for line in running.log))


def test_every_line_of_the_log_is_json(running: Any, until: Callable[..., None]) -> None:
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
    ids = {request_id, document["request_id"]}
    until(lambda: ids <= {line.get("request_id") for line in running.log})
    lines = running.log
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    assert not any("Expected boundary" in line["event"] for line in lines)  # it quotes the body


def test_senders_who_leave_do_not_disturb(running: Any) -> None:
    body = grey(51, 300, 300)
    for _ in range(5):
        with running.connect() as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/readyz", timeout=20) as response:
        assert response.status == 200


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name == "nt", reason="signals of POSIX systems")
def test_it_stops_in_order(serving: Callable[..., Any], portrait: Path, until: Callable[..., None]) -> None:
    """Accepted calls are answered, then the service ends."""
    photo = portrait.read_bytes()
    with serving() as running:

        def refuses() -> bool:
            try:
                running.connect().close()
            except ConnectionError:
                return True
            return False

        with running.connect() as connection:
            connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(photo))
            assert connection.recv(65536).startswith(b"HTTP/1.1 100")  # it is reading the body now
            running.process.send_signal(signal.SIGTERM)
            until(refuses)
            connection.sendall(photo)
            received = connection.makefile("rb").read()
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert running.process.wait(20) in {0, -signal.SIGTERM}


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
