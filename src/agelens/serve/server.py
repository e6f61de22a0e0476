"""Running the application: sockets, timeouts of the connection, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from agelens.errors import InputError
from agelens.serve.gate import HEADERS
from agelens.serve.problems import MEDIA_TYPE, Problem
from agelens.serve.settings import Limits

__all__ = ["listen", "run"]

_LOG = logging.getLogger("agelens.serve")
_BACKLOG = 2048
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
    """
    protocol = type(
        "_Protocol",
        (_PatientProtocol,),
        {"head_seconds": limits.silent_seconds, "taking_seconds": limits.upload_seconds},
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.upload_seconds + limits.seconds) + 1,
    )
    host, port = on.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with contextlib.closing(on):
        _Server(config, lambda: started(url)).run(sockets=[on])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started_serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._started_serving = started_serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started_serving()


class _PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1; refuses with problem documents, and does not wait for ever.

    Attributes:
        head_seconds: For the whole head of a request.
        taking_seconds: Without a byte of an answer being taken; a slow network takes megabytes by fits.
    """

    head_seconds = 10.0
    taking_seconds = 60.0
    _late: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

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

    def _refuse(self, problem: Problem) -> None:
        """Answer where no application can, and close."""
        request_id = secrets.token_hex(8)
        fields = {"request_id": request_id, "status": problem.status, "problem": problem.kind}
        _LOG.info("refused", extra={"fields": fields})
        content = json.dumps(problem.document(request_id)).encode()
        headers = HEADERS | {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(content)),
            "connection": "close",
            "x-request-id": request_id,
        }
        head = [
            f"HTTP/1.1 {problem.status} {problem.title}",
            *(f"{name}: {headers[name]}" for name in headers),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode("ascii") + content)
        self.transport.close()
