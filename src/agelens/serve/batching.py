"""Estimating the photos of many requests at once, with a bounded queue and a fixed number of threads.

Each worker takes whatever is most urgent: a photo to read, search and align, or the crops of several
photos, of whatever requests, to run through the age network together. Crops wait for company only while
photos wait for a worker, and then no longer than ``ServeSettings.batch_seconds``: a lone request is never
held up.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agelens.errors import AgelensError
from agelens.faces.crops import Crop, ImageKind, crop_faces
from agelens.faces.detection import FaceDetector
from agelens.faces.detectors import make_detector
from agelens.faces.quality import FaceQuality, face_quality
from agelens.inference.estimator import AgeEstimator
from agelens.inference.face import Face
from agelens.serve.decoding import decode
from agelens.serve.settings import ServeSettings

__all__ = ["BatchingEstimator", "EstimatedPhoto", "QueueFullError", "StoppingError"]

_LOG = logging.getLogger("agelens.serve")


_AFTER_ANSWER = 0.1  # seconds by which work outlives the caller's wait, whose answer comes first


class QueueFullError(Exception):
    """The photos do not fit into the queue.

    Attributes:
        seconds: When there should be room.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"full for about {seconds:.1f} s")
        self.seconds = seconds


class StoppingError(Exception):
    """Nothing more is taken: the service is stopping."""


@dataclass(frozen=True, eq=False)
class EstimatedPhoto:
    """Result of one photo.

    Attributes:
        width: Pixels of the photo, set upright.
        height: Pixels of the photo, set upright.
        faces: Its faces, the largest first.
        qualities: Of each face.
        left_out: Faces that were found beyond the limit, and not estimated.
    """

    width: int
    height: int
    faces: tuple[Face, ...]
    qualities: tuple[FaceQuality, ...]
    left_out: int


@dataclass(eq=False)
class _Photo:
    """A photo on its way; it holds the encoded image, then the crops. ``until`` ends its decoding."""

    estimator: AgeEstimator
    source: bytes
    crops: bool
    aligned: bool
    until: float
    answer: Future[EstimatedPhoto] = field(default_factory=Future)
    size: tuple[int, int] = (0, 0)
    found: list[Crop] = field(default_factory=list)
    left_out: int = 0
    since: float = 0.0


class BatchingEstimator:
    """Estimates photos in worker threads.

    Args:
        estimators: The models by name.
        settings: Detector, threads, batches, the limits of faces, pixels and of the queue.
    Raises:
        InputError: The detector cannot be made.
        MissingExtraError: What it needs is not installed.
    """

    def __init__(self, estimators: Mapping[str, AgeEstimator], settings: ServeSettings) -> None:
        self.estimators = dict(estimators)
        self._settings = settings
        self._changed = threading.Condition()
        self._photos: deque[_Photo] = deque()
        self._aligned: dict[AgeEstimator, deque[_Photo]] = {
            estimator: deque() for estimator in self.estimators.values()
        }
        chosen = {"model": settings.detector_model} if settings.detector_model else {}
        self._detectors = [  # one each: not all of them may be shared
            make_detector(settings.detector, threads=1, **chosen) for _ in range(settings.workers)
        ]
        self._threads: list[threading.Thread] = []
        self._since = [math.inf] * settings.workers  # when each began what it works on
        self._stopping = True
        self._photo_seconds = 0.02  # a running mean, for Retry-After

    @property
    def ready(self) -> bool:
        """Whether photos are taken, and a worker is there for them."""
        return not self._stopping and self.stuck < self._settings.workers

    @property
    def stuck(self) -> int:
        """Workers that have been at one photo, or batch, for longer than ``limits.photo_seconds``."""
        now = time.monotonic()
        return sum(now - since > self._settings.limits.photo_seconds for since in self._since)

    @property
    def waiting(self) -> int:
        """Photos that wait for a worker."""
        return len(self._photos)

    def start(self) -> None:
        """Warm everything up and start the threads."""
        for detector in self._detectors:
            detector.detect(np.zeros((64, 64, 3), np.uint8))
        for estimator in self.estimators.values():
            size = estimator.geometry.size
            estimator.estimate_aligned(np.zeros((1, size, size, 3), np.uint8))
        self._stopping = False
        for number, detector in enumerate(self._detectors):
            name = f"agelens-{number}"
            thread = threading.Thread(target=self._work, args=(number, detector), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Take nothing more, finish what was taken, and end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def submit(
        self, model: str, images: Sequence[bytes], *, crops: bool = False, aligned: bool = False
    ) -> list[Future[EstimatedPhoto]]:
        """Queue photos: all of them or none.

        Args:
            model: A key of ``estimators``.
            images: Encoded images.
            crops: As in `AgeEstimator.estimate`.
            aligned: As in `AgeEstimator.estimate`.
        Returns:
            A future for each of them; it raises ImageError or InputError if the image cannot be used. One
            that is cancelled before a worker takes it costs nothing.
        Raises:
            QueueFullError: They do not fit.
            StoppingError: The service is stopping.
        """
        until = time.monotonic() + self._settings.limits.seconds + _AFTER_ANSWER
        photos = [_Photo(self.estimators[model], image, crops, aligned, until) for image in images]
        with self._changed:
            if self._stopping:
                raise StoppingError
            if len(self._photos) + len(photos) > self._settings.limits.queue:
                self._drop_cancelled()
            if len(self._photos) + len(photos) > self._settings.limits.queue:
                raise QueueFullError(len(self._photos) * self._photo_seconds / self._settings.workers)
            self._photos.extend(photos)
            self._changed.notify(len(photos))
        return [photo.answer for photo in photos]

    def _drop_cancelled(self) -> None:
        self._photos = deque(photo for photo in self._photos if not photo.answer.cancelled())

    def _work(self, number: int, detector: FaceDetector) -> None:
        while task := self._next_task():
            self._since[number] = time.monotonic()
            if isinstance(task, list):
                _estimate(task)
            elif task.answer.set_running_or_notify_cancel():
                self._prepare(task, detector)
            self._since[number] = math.inf
            del task  # an idle worker holds on to nobody's photo

    def _next_task(self) -> _Photo | list[_Photo] | None:
        """Wait for a photo to prepare, or for a batch of prepared ones; None at the end."""
        with self._changed:
            while True:
                oldest = min(
                    (waiting for waiting in self._aligned.values() if waiting),
                    key=lambda waiting: waiting[0].since,
                    default=None,
                )
                if oldest is not None and (not self._photos or self._due(oldest)):
                    return self._batch(oldest)
                if self._photos:
                    return self._photos.popleft()
                if self._stopping:
                    return None
                self._changed.wait()

    def _due(self, waiting: deque[_Photo]) -> bool:
        if time.monotonic() - waiting[0].since >= self._settings.batch_seconds:
            return True
        return sum(len(photo.found) for photo in waiting) >= self._settings.batch_size

    def _batch(self, waiting: deque[_Photo]) -> list[_Photo]:
        """Take photos until their crops fill a batch."""
        photos, crops = [], 0
        while waiting and crops < self._settings.batch_size:
            photos.append(waiting.popleft())
            crops += len(photos[-1].found)
        return photos

    def _prepare(self, photo: _Photo, detector: FaceDetector) -> None:
        """Read, detect and align; a photo without a face is answered at once."""
        started = time.monotonic()
        with _failures_to(photo):
            image = decode(photo.source, self._settings.limits.pixels, photo.until)
            photo.source = b""
            photo.size = image.full_size
            if time.monotonic() > photo.until:
                raise TimeoutError  # nobody waits any more
            kind = ImageKind.of(crops=photo.crops, aligned=photo.aligned)
            geometry, most = photo.estimator.geometry, self._settings.limits.faces
            cropped = crop_faces(image.pixels, kind, detector, geometry, most=most, full_size=image.full_size)
            photo.found, photo.left_out = list(cropped.crops), cropped.left_out
        photo.since = time.monotonic()
        self._photo_seconds += 0.1 * (photo.since - started - self._photo_seconds)
        if photo.answer.done():
            return
        if not photo.found:
            photo.answer.set_result(EstimatedPhoto(*photo.size, (), (), 0))
            return
        with self._changed:
            self._aligned[photo.estimator].append(photo)


@contextlib.contextmanager
def _failures_to(*photos: _Photo) -> Iterator[None]:
    """Hand what goes wrong to those who wait for the photos; the worker lives on."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, AgelensError | TimeoutError):
            _LOG.exception("a worker failed")
        for photo in photos:
            if not photo.answer.done():
                photo.answer.set_exception(error)


def _estimate(photos: list[_Photo]) -> None:
    """Run the crops of photos of one model through its network together, and answer."""
    with _failures_to(*photos):
        estimator = photos[0].estimator
        crops = np.stack([crop.pixels for photo in photos for crop in photo.found])
        ages, distributions = estimator.estimate_aligned(crops)
        start = 0
        for photo in photos:
            end = start + len(photo.found)
            photo.answer.set_result(_estimated(photo, ages[start:end], distributions[start:end]))
            start = end


def _estimated(
    photo: _Photo, ages: NDArray[np.float32], distributions: NDArray[np.float32]
) -> EstimatedPhoto:
    card = photo.estimator.card
    outputs = zip(photo.found, ages, distributions, strict=True)
    faces = tuple(Face.of_crop(crop, age, distribution, card) for crop, age, distribution in outputs)
    qualities = tuple(face_quality(crop.pixels, crop.face, *photo.size) for crop in photo.found)
    return EstimatedPhoto(*photo.size, faces, qualities, photo.left_out)
