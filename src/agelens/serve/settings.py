"""Limits and offer of a service."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields

from agelens.errors import InputError
from agelens.faces.default_detector import DEFAULT_DETECTOR

__all__ = ["Limits", "ServeSettings"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")
_HOST = re.compile(r"\*|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of what may wait.

    Attributes:
        body_bytes: Largest body of a request; more is refused before it is read.
        pixels: Largest width times height of an image; more is refused before it is decoded.
        images: Most images of one call.
        faces: Most faces of one image that are estimated, the largest first; the rest are counted.
        seconds: From the end of the upload to the answer.
        upload_seconds: For the whole upload of a body; also the longest pause of one who takes an answer.
        silent_seconds: Longest pause of a sender, in the request's head too.
        requests: Most calls of ``/v1/estimate`` at once, uploads included.
        queue: Most images that wait for a worker.
        connections: Most open connections, idle ones included.
        photo_seconds: Longest work on one photo, after which its worker counts as stuck; while all are stuck,
            ``/readyz`` says so.
    Raises:
        InputError: A limit is not positive or not finite, or one call's images would not fit into the queue.
    """

    body_bytes: int = 16 * 2**20
    pixels: int = 50_000_000
    images: int = 16
    faces: int = 100
    seconds: float = 30
    upload_seconds: float = 60
    silent_seconds: float = 10
    requests: int = 128
    queue: int = 256
    connections: int = 512
    photo_seconds: float = 10

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not 0 < value < math.inf:
                raise InputError(f"the limit {limit.name} is above 0 and finite, not {value}")
        if self.queue < self.images:
            raise InputError(f"a queue of {self.queue} images cannot hold a call of {self.images}")


@dataclass(frozen=True)
class ServeSettings:
    """Offer of a service.

    Attributes:
        models: Names of shipped models or model files, the default first; empty offers all shipped models.
        detector: Name of the face detector.
        detector_model: Its network file, for a detector that needs one.
        workers: Threads that compute.
        batch_size: Most crops that the age network sees at once.
        batch_seconds: Longest time a crop waits for others while photos wait too; without them, none.
        token: Bearer token that calls must show; None asks for none.
        origins: Origins of other sites whose pages may call; ``*`` = all.
        hosts: Names that the service answers to, beside addresses; ``*`` = all.
        limits: See `Limits`.
    Raises:
        InputError: A number is out of range, the token cannot stand in a header, an origin or a name is none.
    """

    models: tuple[str, ...] = ()
    detector: str = DEFAULT_DETECTOR
    detector_model: str | None = None
    workers: int = 1
    batch_size: int = 32
    batch_seconds: float = 0.05
    token: str | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("localhost",)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("batch_size", self.batch_size)):
            if value < 1:
                raise InputError(f"{name} is at least 1, not {value}")
        if not self.batch_seconds >= 0:
            raise InputError(f"batch_seconds is at least 0, not {self.batch_seconds}")
        for origin in self.origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):  # a browser's would never equal it
                raise InputError(
                    f"an origin is like https://example.org, in lower case, or *, not {origin!r}"
                )
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                raise InputError(f"a name is like ages.example.org, without a port, or *, not {host!r}")
        if self.token is not None and (
            len(self.token) < 16
            or not self.token.isascii()
            or not self.token.isprintable()
            or " " in self.token
        ):
            raise InputError("a token is at least 16 printable ASCII characters without spaces")
