"""Client of a service (``agelens serve``): the calls of `AgeEstimator`, over HTTP."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple
from urllib.parse import urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.calibration import Calibration
from agelens.errors import (
    AgelensError,
    ImageError,
    ImageTooLargeError,
    InputError,
    ModelFileError,
    ServiceError,
    UnreadableImageError,
)
from agelens.faces.image import read_image
from agelens.inference.face import Face, Photo
from agelens.label_distribution import AgeBins
from agelens.reading import IMAGE_BYTES, read_bytes

__all__ = ["AgeClient"]

Source = str | Path | bytes | BinaryIO | Image.Image | NDArray[Any]

_LONGEST_WAIT = 30.0  # seconds that a busy service may ask us to wait
_PART = 300  # bytes that the form adds to each image, at most


class _Upload(NamedTuple):
    """An encoded image to send, or why there is none."""

    source: Source
    content: bytes
    error: AgelensError | None


class _Refusal(NamedTuple):
    """A problem document."""

    status: int
    kind: str
    detail: str
    members: Mapping[str, Any]
    wait: float


class AgeClient:
    """Estimates ages by asking a service; faces and errors are those of `AgeEstimator`.

    The faces know their distribution and the model's calibration, so intervals and probabilities are
    computed here, of whatever level and threshold. A client may be used by several threads.

    Args:
        url: Of the service, e.g. ``http://127.0.0.1:8000``.
        model: One of its models; None is its default.
        token: Bearer token of the service.
        timeout: Seconds to wait for it to connect, or to send on.
        retries: How often a busy service (503) is asked again, after the time it names.
    Raises:
        InputError: ``url`` is no HTTP address, or another argument cannot be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        model: str | None = None,
        token: str | None = None,
        timeout: float = 60,
        retries: int = 3,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"the address of a service is http://HOST:PORT or https://HOST, not {url!r}")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise InputError("a token is printable ASCII")
        if not timeout > 0 or retries < 0:
            raise InputError(f"timeout is above 0 and retries at least 0, not {timeout} and {retries}")
        self.url = url.rstrip("/")
        self._asked, self._timeout, self._retries = model, timeout, retries
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._opener = urllib.request.build_opener(_NoRedirects)

    @cached_property
    def _offer(self) -> dict[str, Any]:
        """Response of ``GET /v1/models``."""
        answer = self._call("/v1/models")
        if isinstance(answer, _Refusal):
            raise self._refused(answer)
        if not {"default", "models", "limits"} <= answer.keys():
            raise ServiceError(self.url, "is no agelens service: it does not tell its models")
        return answer

    @cached_property
    def model(self) -> dict[str, Any]:
        """The service's entry of the model in use: name, version, terms, geometry, calibration, ….

        Raises:
            ModelFileError: The service does not offer it.
            ServiceError: The service cannot be used.
        """
        name = self._offer["default"] if self._asked is None else self._asked
        entries: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in self._offer["models"]}
        if name not in entries:
            raise ModelFileError(name, f"not offered by {self.url}, which has {', '.join(entries)}")
        return entries[name]

    def estimate(self, image: Source, *, crops: bool = False, aligned: bool = False) -> list[Face]:
        """Estimate the age of every face in an image; as `AgeEstimator.estimate`.

        Raises:
            ImageError: The image cannot be read, or is larger than the service allows.
            InputError: ``aligned``, and it is not square.
            ModelFileError: The service does not offer the model.
            ServiceError: The service refused the call, failed, or cannot be reached.
        """
        (photo,) = self.estimate_many([image], crops=crops, aligned=aligned)
        if photo.error is not None:
            raise photo.error
        return list(photo.faces)

    def estimate_chip(self, image: Source) -> Face:
        """Estimate the age of the one face of a face chip: `estimate` with ``crops``."""
        return self.estimate(image, crops=True)[0]

    def estimate_many(
        self, sources: Iterable[Source], *, crops: bool = False, aligned: bool = False
    ) -> Iterator[Photo]:
        """Estimate many images, as many in one call as the service allows; as `AgeEstimator.estimate_many`.

        Yields:
            A `Photo` for each of the sources, in order; one that cannot be used has its ``error``.
        """
        if crops and aligned:
            raise InputError("crops and aligned exclude each other")
        options = {"model": self.model["name"], "crops": crops, "aligned": aligned}
        limits = self._offer["limits"]
        waiting: list[_Upload] = []
        size = _PART
        for source in sources:
            upload = _encoded(source, limits["body_bytes"] - 2 * _PART)
            if waiting and (
                len(waiting) == limits["images"] or size + len(upload.content) + _PART > limits["body_bytes"]
            ):
                yield from self._photos(waiting, options)
                waiting, size = [], _PART
            waiting.append(upload)
            size += len(upload.content) + _PART
        yield from self._photos(waiting, options)

    def estimate_aligned(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Estimate (N, S, S, 3) uint8 RGB crops in the model's geometry; as `AgeEstimator.estimate_aligned`.

        Returns:
            (N,) ages in years and (N, K) distributions.
        Raises:
            ValueError: ``crops`` has another shape or type.
        """
        size = self.model["geometry"]["size"]
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise ValueError(f"crops are (N, {size}, {size}, 3) uint8, not {crops.shape} {crops.dtype}")
        faces = [face for photo in self.estimate_many(crops, aligned=True) for face in photo.faces]
        bins = AgeBins.parse(self.model["age_bins"])
        distributions = np.array([face.distribution for face in faces], np.float32)
        return np.array([face.age for face in faces], np.float32), distributions.reshape(-1, len(bins))

    def _photos(self, uploads: list[_Upload], options: Mapping[str, Any]) -> Iterator[Photo]:
        """Make one call of those that can be sent, and answer for all."""
        sent = [upload for upload in uploads if upload.error is None]
        entries = self._entries(sent, options) if sent else []
        try:
            answers = [self._photo(upload.source, entry) for upload, entry in zip(sent, entries, strict=True)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"answers in a form that this client does not know ({type(error).__name__}: {error})"
            raise ServiceError(self.url, reason) from error
        estimated = iter(answers)
        for source, _, unsent in uploads:
            yield next(estimated) if unsent is None else Photo(source, (), unsent)

    def _photo(self, source: Source, entry: Mapping[str, Any]) -> Photo:
        if entry["error"] is not None:
            return Photo(source, (), _image_error(entry["error"], _name(source)))
        return Photo(source, tuple(self._face(face) for face in entry["faces"]), None)

    def _entries(self, uploads: list[_Upload], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The service's entry for each of the images."""
        boundary = uuid.uuid4().hex
        body = b"".join(
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="images"; filename="{number}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
            + upload.content
            + b"\r\n"
            for number, upload in enumerate(uploads)
        )
        query = urlencode({key: str(value).lower() for key, value in options.items() if value is not False})
        answer = self._call(
            f"/v1/estimate?{query}",
            body + f"--{boundary}--\r\n".encode(),
            f"multipart/form-data; boundary={boundary}",
        )
        if isinstance(answer, _Refusal):
            if answer.kind in _IMAGE_KINDS and len(uploads) == 1:
                return [{"error": {"type": answer.kind, "detail": answer.detail}}]
            if answer.kind == "unusable-images":
                return [{"error": entry} for entry in answer.members.get("images", [])]
            raise self._refused(answer)
        entries: list[dict[str, Any]] = answer.get("images", [])
        if len(entries) != len(uploads):
            raise ServiceError(self.url, f"answered for {len(entries)} of {len(uploads)} images")
        return entries

    def _face(self, entry: Mapping[str, Any]) -> Face:
        calibration = self.model["calibration"]
        return Face(
            age=entry["age"],
            distribution=np.array(entry["distribution"], np.float32),
            age_bins=AgeBins.parse(self.model["age_bins"]),
            calibration=None if calibration is None else Calibration.from_dict(calibration),
            alignment=entry["alignment"],
            box=None if entry["box"] is None else tuple(entry["box"]),
            landmarks=None if entry["landmarks"] is None else np.array(entry["landmarks"], np.float64),
            confidence=entry["confidence"],
        )

    def _call(
        self, path: str, body: bytes | None = None, kind: str | None = None
    ) -> dict[str, Any] | _Refusal:
        """Call the service, again while it is busy: its JSON, or the `_Refusal` it answered with."""
        for attempt in range(self._retries + 1):
            answer = self._call_once(path, body, kind)
            if not isinstance(answer, _Refusal) or answer.status != 503 or attempt == self._retries:
                break
            time.sleep(min(answer.wait, _LONGEST_WAIT))
        return answer

    def _call_once(self, path: str, body: bytes | None, kind: str | None) -> dict[str, Any] | _Refusal:
        headers = self._headers if kind is None else {**self._headers, "Content-Type": kind}
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    answer = json.loads(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    return _refusal(error)
        except urllib.error.URLError as error:
            raise ServiceError(self.url, f"cannot be reached: {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise ServiceError(self.url, f"the connection failed: {error or type(error).__name__}") from error
        except ValueError as error:
            raise ServiceError(
                self.url, f"is no agelens service: its answer is not JSON ({error})"
            ) from error
        if not isinstance(answer, dict):
            raise ServiceError(self.url, "is no agelens service: its answer is no JSON object")
        return answer

    def _refused(self, refusal: _Refusal) -> ServiceError:
        return ServiceError(self.url, refusal.detail, refusal.status)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: neither photos nor the token go to another place than was named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_IMAGE_KINDS: dict[str, type[ImageError] | None] = {
    "unreadable-image": UnreadableImageError,
    "image-too-large": ImageTooLargeError,
    "unusable-image": None,
}


def _refusal(error: urllib.error.HTTPError) -> _Refusal:
    """Read a problem document; what is none becomes one."""
    try:
        document = json.loads(error.read())
        kind = str(document["type"]).rpartition(":")[2]
        detail = str(document["detail"])
    except (ValueError, KeyError, TypeError):
        document, kind, detail = {}, "", str(error.reason)
    wait = error.headers.get("Retry-After", "")
    return _Refusal(error.code, kind, detail, document, float(wait) if wait.isdecimal() else 1.0)


def _image_error(document: Mapping[str, Any], name: str) -> AgelensError:
    """The error that the local estimator raises for the same image."""
    kind, reason = str(document["type"]).rpartition(":")[2], str(document["detail"])
    error = _IMAGE_KINDS.get(kind)
    return InputError(reason) if error is None else error(name, reason.removeprefix("the upload "))


def _encoded(source: Source, most: int) -> _Upload:
    """The bytes to send: a file's own, or pixels as PNG, which loses nothing."""
    name = _name(source)
    try:
        content = _content(source)
    except OSError as error:
        return _Upload(source, b"", UnreadableImageError(name, f"cannot be read: {error.strerror or error}"))
    except ImageError as error:
        return _Upload(source, b"", error)
    if not content:
        return _Upload(source, b"", UnreadableImageError(name, "is empty"))
    if len(content) > most:
        reason = f"has {len(content)} bytes; the service takes {most}: send it smaller"
        return _Upload(source, b"", ImageTooLargeError(name, reason))
    return _Upload(source, content, None)


def _content(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, str | Path):
        return read_bytes(source, IMAGE_BYTES)
    if isinstance(source, Image.Image | np.ndarray):
        stream = io.BytesIO()
        Image.fromarray(read_image(source)).save(stream, "PNG", compress_level=1)
        return stream.getvalue()
    return source.read()


def _name(source: Source) -> str:
    """Name in messages, as the local estimator forms it."""
    if isinstance(source, str | Path):
        return str(source)
    return "array" if isinstance(source, np.ndarray) else "image"
