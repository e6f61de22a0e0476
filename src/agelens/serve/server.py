"""Running the application: sockets, timeouts of the connection, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from agelens.errors import InputError
from agelens.serve.gate import HEADERS
from agelens.serve.logs import Throttle
from agelens.serve.problems import MEDIA_TYPE, Problem
from agelens.serve.settings import Limits

__all__ = ["listen", "run"]

_LOG = logging.getLogger("agelens.serve")
_BACKLOG = 128
_OTHER_DESCRIPTORS = 64  # of the process: models, pipes, the log
_TINY_CHUNK = 16  # bytes; more than one end of line in so many is no photo
_LOOKED_AT = 4096  # bytes of a connection's data that are taken unseen
_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_LINGER = 2.0  # seconds for a sender to see that it was refused
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_KEEP_ALIVE = 15  # seconds an idle connection stays open


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to serve on.

    Args:
        host: Address or name of this machine.
        port: TCP port; 0 takes a free one.
    Raises:
        InputError: The address is not ours or the port is taken or not allowed.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"a port is 0 to 65535, not {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {host}, port {port}: {reason}") from error


def run(app: FastAPI, on: socket.socket, limits: Limits, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; what was accepted by then is finished first.

    Args:
        app: Of `agelens.serve.app.create_app`.
        on: Of `listen`; closed at the end.
        limits: Of time; the application keeps the others.
        started: Called with the URL once requests are taken.
    Raises:
        InputError: The system allows fewer open files than the connections need.
    """
    protocol = type(
        "_Protocol",
        (_PatientProtocol,),
        {
            "head_seconds": limits.silent_seconds,
            "taking_seconds": limits.upload_seconds,
            "most_connections": limits.connections,
        },
    )
    _reserve_descriptors(limits.connections)
    _return_large_blocks()
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.upload_seconds + limits.seconds) + 1,
    )
    host, port = on.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with contextlib.closing(on):
        _Server(config, lambda: started(url)).run(sockets=[on])


def _reserve_descriptors(connections: int) -> None:
    """Let the process open as many files as its connections may need, two for each.

    Raises:
        InputError: The system does not allow that many.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = 2 * connections + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in {resource.RLIM_INFINITY, -1} and hard < needed:
        most = max(1, (hard - _OTHER_DESCRIPTORS) // 2)
        raise InputError(
            f"{connections} connections need {needed} open files, and the system allows {hard}: "
            f"raise its limit (ulimit -n, LimitNOFILE=) or take --max-connections {most}"
        )
    if soft not in {resource.RLIM_INFINITY, -1} and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _return_large_blocks() -> None:
    """Let glibc return every large block to the system once it is freed.

    By itself it keeps more and more of them once one was freed: after a few huge photos a process held 1.0 GB
    instead of 0.3.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started_serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._started_serving = started_serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(LoopErrors())
        await super().startup(sockets)
        if self.started:
            self._started_serving()


class LoopErrors:
    """Logs what goes wrong in the event loop: a line, and not one for each of a thousand connections."""

    def __init__(self) -> None:
        self._exhausted, self._others = Throttle(1, 10.0), Throttle(10, 1.0)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log one error; see `asyncio.loop.call_exception_handler`."""
        error = context.get("exception")
        exhausted = isinstance(error, OSError) and error.errno in _EXHAUSTED
        held = (self._exhausted if exhausted else self._others).admit()
        if held is None:
            return
        fields = {"held_back": held} if held else {}
        if exhausted:
            _LOG.error("connections wait: %s", error, extra={"fields": fields})
        else:
            _LOG.error("event loop: %s", context["message"], exc_info=error, extra={"fields": fields})


class _PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1; refuses with problem documents, and does not wait for ever.

    Attributes:
        head_seconds: For the whole head of a request.
        taking_seconds: Without a byte of an answer being taken; a slow network takes megabytes by fits.
        most_connections: That are open at once; further ones are refused.
        refusals: Throttles the log lines of those.
    """

    head_seconds = 10.0
    taking_seconds = 60.0
    most_connections = 512
    refusals = Throttle(1, 1.0)
    _late: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._turn_away()
        else:
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        for piece in (data[:_LOOKED_AT], data[_LOOKED_AT:]):
            if not piece or self._refused or self.transport.is_closing():
                break
            if self._in_chunks() and len(piece) >= 256 and piece.count(b"\r\n") * _TINY_CHUNK > len(piece):
                detail = "the body comes in chunks of a few bytes: send larger ones"
                self._refuse(Problem("malformed-request", detail), linger=_LINGER)
                break
            super().data_received(piece)
        if not self._refused:
            self._watch_head()

    def _in_chunks(self) -> bool:
        """Whether a body arrives in chunks; each costs as much as thousands of bytes."""
        reading = self.cycle is not None and self.cycle.more_body
        return reading and any(name == b"transfer-encoding" for name, _ in self.headers)

    def _turn_away(self) -> None:
        held = self.refusals.admit()
        if held is not None:
            _LOG.warning("too many connections", extra={"fields": {"held_back": held} if held else {}})
        problem = Problem(
            "busy", "too many connections at once; try again later", headers={"Retry-After": "1"}
        )
        self._write(problem, secrets.token_hex(8))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()
        self._stop_waiting()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_taker()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def _wait_for_taker(self) -> None:
        """Abort the connection unless some of the answer is taken in time; look again while it is."""
        left = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < left:
                self._wait_for_taker()
            else:
                self.transport.abort()

        self._untaken = self.loop.call_later(self.taking_seconds, look)

    def _stop_waiting(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _watch_head(self) -> None:
        """Keep a timer running while part of a request's head is awaited."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _stop_watching(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        self._late = None
        idle = self.timeout_keep_alive_task is not None  # between two requests, which uvicorn ends
        busy = self.cycle is not None and not self.cycle.response_complete
        if not (idle or busy or self.transport.is_closing()):
            seconds = f"{self.head_seconds:g} s"
            self._refuse(Problem("slow-sender", f"the request's head did not arrive within {seconds}"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            Problem(
                "malformed-request", "the request is not valid HTTP/1.1: check its first line and headers"
            )
        )

    def _refuse(self, problem: Problem, linger: float = 0) -> None:
        """Answer where no application can, log it, and close; see `_write`."""
        request_id = secrets.token_hex(8)
        fields = {"request_id": request_id, "status": problem.status, "problem": problem.kind}
        _LOG.info("refused", extra={"fields": fields})
        self._write(problem, request_id, linger)

    def _write(self, problem: Problem, request_id: str, linger: float = 0) -> None:
        """Answer and close; only close if an answer has begun.

        While more is being sent, closing would reset the connection and the answer be lost: then data are
        dropped for ``linger`` seconds first.
        """
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        content = json.dumps(problem.document(request_id)).encode()
        headers = (
            HEADERS
            | problem.headers
            | {
                "content-type": MEDIA_TYPE,
                "content-length": str(len(content)),
                "connection": "close",
                "x-request-id": request_id,
            }
        )
        head = [
            f"HTTP/1.1 {problem.status} {problem.title}",
            *(f"{name}: {headers[name]}" for name in headers),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode("ascii") + content)
        self._refused = True
        if linger:
            self.loop.call_later(linger, self.transport.close)
        else:
            self.transport.close()
