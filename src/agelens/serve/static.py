"""The files of the page and of its models: known by name before any request comes."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

__all__ = ["StaticFile", "page_files"]

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
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


_CHUNK = 2**16  # bytes in memory for each download, beside what the connection buffers
_PACKED_AT_ONCE = 2**20  # bytes; larger files are served as they lie there


class StaticFile:
    """One file with a fixed URL.

    It is read piece by piece as it is taken, so that a download that nobody takes holds next to nothing.

    Args:
        url: Path of its URL.
        source: The file, or its content.
        gzipped: The content is gzip already.
    """

    def __init__(self, url: str, source: Path | bytes, gzipped: bool = False) -> None:
        self.url, self._source, self._gzipped = url, source, gzipped
        self._suffix = ".html" if url == "/" else Path(url).suffix
        self._digest: tuple[object, str] = (None, "")

    async def __call__(self, request: Request) -> Response:
        """Answer GET and HEAD; the ``ETag`` is a digest of the content."""
        request.state.notes["route"] = self.url
        return await asyncio.to_thread(self._answer, request)

    def _answer(self, request: Request) -> Response:
        accepted = "gzip" in request.headers.get("accept-encoding", "")
        source = self._source
        file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        length = file.seek(0, io.SEEK_END)
        headers = {**_HEADERS, "etag": f'"{self._digest_of(file, length)}{"-gzip" if accepted else ""}"'}
        if headers["etag"] in request.headers.get("if-none-match", ""):
            file.close()
            return Response(status_code=304, headers=headers)
        media_type = _TYPES[self._suffix]
        if accepted and self._gzipped:
            headers["content-encoding"] = "gzip"
        elif self._gzipped:
            file.seek(-4, io.SEEK_END)
            length = int.from_bytes(file.read(4), "little")  # of the content: RFC 1952, ISIZE
        elif accepted and self._suffix in _COMPRESSIBLE and length <= _PACKED_AT_ONCE:
            headers["content-encoding"] = "gzip"
            with file:
                file.seek(0)
                packed = gzip.compress(file.read(), 6, mtime=0)
            return Response(packed, headers=headers, media_type=media_type)
        file.seek(0)
        headers["content-length"] = str(length)
        return _Pieces(file, self._gzipped and not accepted, headers, media_type)

    def _digest_of(self, file: BinaryIO, length: int) -> str:
        """The digest of a file's content, computed anew when the file was replaced or written to."""
        changed: object = length
        if not isinstance(self._source, bytes):
            stat = os.fstat(file.fileno())
            changed = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known, digest = self._digest
        if known != changed:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:24]  # type: ignore[arg-type]  # BytesIO too
            self._digest = (changed, digest)
        return digest


class _Pieces(Response):
    """An answer whose body is read while it is sent, and no faster."""

    def __init__(self, file: BinaryIO, unpacked: bool, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, 200, headers, media_type)
        self._file, self._unpacked = file, unpacked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._file as file:
            read = gzip.GzipFile(fileobj=file).read if self._unpacked else file.read
            start: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            while scope["method"] != "HEAD" and (piece := await asyncio.to_thread(read, _CHUNK)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


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
        yield StaticFile(url, path, gzipped)
