"""The gate of every request: its id, its log line, headers, and an end to what is not read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agelens.serve.problems import Problem, problem_response
from agelens.serve.sites import Sites

__all__ = ["HEADERS", "Gate"]

_LOG = logging.getLogger("agelens.serve")
_REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,64}")
_LINGER = 2.0  # seconds for a sender to notice that it need not go on

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""The headers that an answer gets unless it sets them itself."""


class Gate:
    """ASGI middleware, the outermost of the service.

    It gives each request an id (``X-Request-ID``, the sender's own if it is harmless), refuses what other
    names and sites may not ask, logs one line for it without anything of its content, sets the security
    headers that an answer does not set itself, and turns whatever fails unforeseen into a problem document.
    An answer that comes before the body was read closes the connection, but reads on for a moment: closing at
    once would reset it, and the sender would never see the answer.

    Args:
        app: The application.
        sites: The rule of names and sites.
    """

    def __init__(self, app: ASGIApp, sites: Sites) -> None:
        self.app, self._sites = app, sites

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            self._sites.check(scope["method"], scope["path"], Headers(scope=scope))
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = 499
        except Problem as refusal:
            response = problem_response(refusal, exchange.request_id)
            await response(scope, exchange.receive, exchange.send)
        except Exception:
            _LOG.exception("failed", extra={"fields": {"request_id": exchange.request_id}})
            if exchange.status is None:
                problem = Problem("internal", f"an error of the service, logged as {exchange.request_id}")
                response = problem_response(problem, exchange.request_id)
                await response(scope, exchange.receive, exchange.send)
            else:
                raise
        finally:
            exchange.log()


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        self.request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        self.status: int | None = None
        self._scope, self._receive, self._send = scope, receive, send
        self._started = time.perf_counter()
        self._to_come = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._closing = False
        self._received = 0
        self.notes: dict[str, Any] = {}
        state = {"request_id": self.request_id, "started": self._started, "notes": self.notes}
        scope["state"] = {**scope.get("state", {}), **state}

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if not message.get("more_body", False):
            self._to_come = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers["x-request-id"] = self.request_id
            if self._to_come:
                self._closing = True
                headers["connection"] = "close"
        elif self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    while self._to_come:
                        await self.receive()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def log(self) -> None:
        route = getattr(self._scope.get("route"), "path", None)
        fields = {
            "request_id": self.request_id,
            "method": self._scope["method"],
            "route": route,  # what was asked for beyond our own routes is the sender's business
            "status": self.status,
            "milliseconds": round(1e3 * (time.perf_counter() - self._started), 1),
            "received": self._received,
            **self.notes,
        }
        _LOG.info("request", extra={"fields": fields})
