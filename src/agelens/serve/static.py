"""The files of the page and of its models: known by name before any request comes."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["StaticFile", "page_files"]

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
_COMPRESSIBLE = {".css", ".html", ".js", ".json", ".mjs", ".svg", ".txt", ".wasm", ".webmanifest"}

_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "media-src 'self' blob:",
            "font-src 'self'",
            "connect-src 'self' blob: data:",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, eq=False)
class StaticFile:
    """One file with a fixed URL.

    Attributes:
        url: Path of its URL.
        read: Gives its content, again for each request.
        gzipped: The content is gzip already.
    """

    url: str
    read: Callable[[], bytes]
    gzipped: bool = False

    async def __call__(self, request: Request) -> Response:
        """Answer GET and HEAD; the ``ETag`` is a digest of the content."""
        request.state.notes["route"] = self.url
        return await asyncio.to_thread(self._answer, request)

    def _answer(self, request: Request) -> Response:
        suffix = ".html" if self.url == "/" else Path(self.url).suffix
        accepted = "gzip" in request.headers.get("accept-encoding", "")
        content = self.read()
        tag = f'"{hashlib.sha256(content).hexdigest()[:24]}{"-gzip" if accepted else ""}"'
        headers = {**_HEADERS, "etag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if accepted and (self.gzipped or suffix in _COMPRESSIBLE):
            headers["content-encoding"] = "gzip"
            content = content if self.gzipped else gzip.compress(content, 6, mtime=0)
        elif self.gzipped:
            content = gzip.decompress(content)
        return Response(content, headers=headers, media_type=_TYPES[suffix])


def page_files(folder: Path) -> Iterator[StaticFile]:
    """Find the files of the page that have a type we serve; ``NAME.gz`` is served as ``NAME``.

    Args:
        folder: Holds ``index.html``, which is served at ``/``.
    Yields:
        The files.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        gzipped = path.suffix == ".gz"
        served = name.with_suffix("") if gzipped else name
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or served.suffix not in _TYPES or not path.is_file():
            continue
        url = "/" if served == Path("index.html") else f"/{served.as_posix()}"
        yield StaticFile(url, path.read_bytes, gzipped)
