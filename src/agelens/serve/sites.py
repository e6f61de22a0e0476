"""Names that the service answers to, and sites whose pages may call it.

A browser sends the name in its address bar as ``Host``. A page whose own name is made to point to this
machine (DNS rebinding) is of one origin with the service, so nothing but that name gives it away. Forms and
pages of other sites may send requests without reading the answers; browsers mark these with
``Sec-Fetch-Site`` (W3C Fetch Metadata), but older ones, and all of them over plain HTTP to another machine,
by ``Origin`` alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from agelens.serve.problems import Problem

__all__ = ["NamedOrigins", "Sites"]

_HEALTH = {"/healthz", "/readyz"}  # balancers ask under any name


class Sites:
    """The rule of names and sites.

    Args:
        hosts: Names of the service; ``*`` = all. Addresses are always allowed: none can be made to point
            elsewhere.
        origins: Origins of other sites whose pages may call; ``*`` = all.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts, self._origins = {host.lower() for host in hosts}, set(origins)

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raise Problem unless a request with these headers may be answered."""
        if path not in _HEALTH and not self._known(headers.get("host", "")):
            detail = "call the service by its address, or start it with this name: --allow-host NAME"
            raise Problem("wrong-host", detail)
        if not _foreign(method, headers):
            return
        opened = method in {"GET", "HEAD"} and headers.get("sec-fetch-mode") == "navigate"
        if not opened and not self._origins & {"*", headers.get("origin", "")}:
            detail = "pages of other sites may not call, unless the service names them: --cors ORIGIN"
            raise Problem("other-site", detail)

    def _known(self, host: str) -> bool:
        name = _name(host)
        if not name or "*" in self._hosts or name in self._hosts:
            return True  # HTTP/1.0 has no Host, and no browser speaks it
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def _foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a page of another site makes this request, as far as the browser says."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site == "cross-site"
    if origin is None or method == "OPTIONS":  # no browser's request, or a question that is answered below
        return False
    return _name(origin.partition("://")[2]) != _name(headers.get("host", ""))


def _name(host: str) -> str:
    """A host in lower case, without its port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name.lower().removesuffix(".")


class NamedOrigins(CORSMiddleware):
    """Cross-origin calls of the named origins; what a preflight may not do is a problem document."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight, or raise Problem."""
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            failures = bytes(response.body).decode().removeprefix("Disallowed CORS ")
            raise Problem("other-site", f"a page of another site may not call with this {failures}")
        return response
