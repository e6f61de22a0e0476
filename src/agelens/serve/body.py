"""Reading the images out of a request's body, within limits and in memory only.

Nothing is written to disk, and what a sender calls its files is not even kept.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from agelens.serve.problems import Problem
from agelens.serve.settings import Limits

__all__ = ["RAW_TYPES", "read_images"]

RAW_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "application/octet-stream",
)
"""Types of a body that is one image. Other ``image/`` types are tried as well."""

_JSON_FORM = 'send {"images": ["<base64>", …]} and no more'
_FURTHER_VALUES = 64  # beyond the images, before a body is refused unparsed
_FORMS = "send multipart/form-data, application/json, or one image as image/jpeg, image/png, image/webp, …"


async def read_images(request: Request, limits: Limits) -> list[bytes]:
    """Read the encoded images of a call.

    Args:
        request: Its body is multipart files, one raw image, or JSON ``{"images": ["<base64>", …]}``.
        limits: Of bytes, images and time.
    Returns:
        The images' bytes, at least one.
    Raises:
        Problem: Too large, too many, too slow, not of the promised form, or without an image.
        ClientDisconnect: The sender has gone.
    """
    header = request.headers.get("content-type", "")
    kind, parameters = parse_options_header(header)
    media_type = kind.decode("latin-1")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Problem("content-type", "the body is compressed: send it without a Content-Encoding")
    if media_type == "multipart/form-data":
        form = _Form(parameters.get(b"boundary", b""), limits)
        async for chunk in _chunks(request, limits):
            form.feed(chunk)
        images = form.files()
    elif media_type == "application/json":
        body = b"".join([chunk async for chunk in _chunks(request, limits)])
        images = await asyncio.to_thread(_from_json, body, limits)
    elif media_type.startswith("image/") or media_type == "application/octet-stream":
        images = [b"".join([chunk async for chunk in _chunks(request, limits)])]
        if not images[0]:
            raise Problem("no-images", "the body is empty: send an image")
    else:
        shown = f"the content type {media_type[:100]!r} is none of ours" if media_type else "it has no type"
        raise Problem("content-type", f"{shown}: {_FORMS}")
    if not images:
        raise Problem("no-images", "the call holds no image: add one")
    return images


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, unless it grows too large or comes too slowly."""
    too_large = Problem(
        "body-too-large",
        f"a body is at most {limits.body_bytes} bytes: send smaller images, or fewer in one call",
        limit=limits.body_bytes,
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise too_large
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.upload_seconds
    received, more = 0, True
    while more:
        try:
            async with asyncio.timeout(min(limits.silent_seconds, end - loop.time())):
                message = await request.receive()
        except TimeoutError:
            times = f"{limits.silent_seconds:g} s without a byte, {limits.upload_seconds:g} s in all"
            raise Problem("slow-sender", f"the body did not arrive in time (at most {times})") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        received += len(chunk)
        if received > limits.body_bytes:
            raise too_large
        if chunk:
            yield chunk


def _too_many(limits: Limits) -> Problem:
    detail = f"a call holds at most {limits.images} images: send the others in further calls"
    return Problem("too-many-images", detail, limit=limits.images)


class _Form:
    """The files of a multipart body, fed with it piece by piece."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        if not boundary:
            raise Problem("malformed-body", "multipart/form-data needs its boundary in Content-Type")
        self._limits = limits
        self._files: list[bytearray] = []
        self._header, self._value = b"", b""
        self._disposition = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise Problem("malformed-body", f"the multipart boundary cannot be used: {error}") from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Problem("malformed-body", f"the body is not valid multipart/form-data: {error}") from error

    def files(self) -> list[bytes]:
        if not self._ended:
            raise Problem("malformed-body", "the multipart body ends before its closing boundary")
        return [bytes(file) for file in self._files]

    def _begin(self) -> None:
        if len(self._files) == self._limits.images:
            raise _too_many(self._limits)
        self._disposition = self._header = self._value = b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        if b"filename" not in parameters:
            name = parameters.get(b"name", b"").decode("utf-8", "replace")[:100]
            detail = f"the part {name!r} is no file: images need a filename, options belong into the query"
            raise Problem("invalid-option", detail)
        self._files.append(bytearray())

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._files[-1] += data[start:end]  # a list of pieces could take many times the body's memory

    def _end(self) -> None:
        self._ended = True


def _from_json(body: bytes, limits: Limits) -> list[bytes]:
    # Millions of small values would take twenty times the body's memory, and Python's lock for seconds.
    if body.count(b",") > limits.images + _FURTHER_VALUES:
        raise _too_many(limits)
    if body.count(b"[") + body.count(b"{") > _FURTHER_VALUES:
        raise Problem("malformed-body", f"the body is nested: {_JSON_FORM}")
    try:
        document: Any = json.loads(body, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed-body", f"the body is not JSON: {error}") from error
    entries = document.get("images") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(document) > 1:
        raise Problem("malformed-body", f"the body is no such object: {_JSON_FORM}")
    if len(entries) > limits.images:
        raise _too_many(limits)
    return [_from_base64(entry, number) for number, entry in enumerate(entries)]


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it has a member twice: one of them would be dropped in silence."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise Problem("malformed-body", f"the body has a member twice: {_JSON_FORM}")
    return members


def _from_base64(entry: Any, number: int) -> bytes:
    if isinstance(entry, str):
        if entry.startswith("data:"):
            detail = f"images[{number}] is a data URL: send what follows its comma, the base64 alone"
            raise Problem("malformed-body", detail)
        try:
            return base64.b64decode(entry, validate=True)
        except ValueError as error:
            raise Problem("malformed-body", f"images[{number}] is not base64: {error}") from error
    raise Problem("malformed-body", f"images[{number}] is {type(entry).__name__}, not a base64 text")
