"""Photos that wait until their crops fill a batch, within bounds of memory and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import AgelensError
from agelens.faces.crops import CroppedImage
from agelens.faces.image import Source
from agelens.inference.face import Face, Photo
from agelens.model_file import ModelCard

__all__ = ["WaitingPhoto", "WaitingPhotos"]

_EstimateAligned = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]

_HELD_BYTES = 64 * 2**20  # of photos given as pixels or bytes, which a caller may hold nowhere else
_SECONDS = 0.5  # that the first photo waits


class WaitingPhoto(NamedTuple):
    """A photo whose crops wait for the network.

    Attributes:
        source: The photo as it was given.
        cropped: Its crops; None if it cannot be used.
        remarks: Sentences on defects of its file.
        error: Why it cannot be used.
    """

    source: Source
    cropped: CroppedImage | None = None
    remarks: tuple[str, ...] = ()
    error: AgelensError | None = None


class WaitingPhotos:
    """A batch that fills.

    Args:
        batch_size: Crops of a full batch.
        held_bytes: Bytes of the waiting sources that make it full.
        seconds: Time after its first photo that makes it full.
    """

    def __init__(self, batch_size: int, held_bytes: int = _HELD_BYTES, seconds: float = _SECONDS) -> None:
        self.photos: list[WaitingPhoto] = []
        self._batch_size, self._most_bytes, self._seconds = batch_size, held_bytes, seconds
        self._crops = self._bytes = 0
        self._since = 0.0

    def add(self, photo: WaitingPhoto) -> None:
        """Let a photo wait."""
        if not self.photos:
            self._since = time.monotonic()
        self.photos.append(photo)
        self._crops += max(1, len(photo.cropped.crops)) if photo.cropped is not None else 1
        self._bytes += _held_bytes(photo.source)

    def answers(self, estimate_aligned: _EstimateAligned, card: ModelCard) -> Iterator[Photo]:
        """Yield the photos in order, with the faces of all their crops estimated at once.

        Args:
            estimate_aligned: The network: (N, S, S, 3) crops → (N,) ages and (N, K) distributions.
            card: The card of its model.
        """
        crops = [crop.pixels for photo in self.photos if photo.cropped for crop in photo.cropped.crops]
        results = zip(*estimate_aligned(np.stack(crops)), strict=True) if crops else iter(())
        for photo in self.photos:
            found = photo.cropped.crops if photo.cropped else ()
            faces = tuple(Face.of_crop(crop, *next(results), card) for crop in found)
            smallest_face = photo.cropped.smallest_face if photo.cropped else None
            yield Photo(photo.source, faces, photo.error, photo.remarks, smallest_face)

    @property
    def full(self) -> bool:
        """Whether the batch should be estimated before another photo is read."""
        return bool(self.photos) and (
            self._crops >= self._batch_size
            or self._bytes >= self._most_bytes
            or time.monotonic() - self._since >= self._seconds
        )


def _held_bytes(source: Source) -> int:
    """Memory that a source occupies besides its name."""
    if isinstance(source, np.ndarray | memoryview):
        return source.nbytes
    if isinstance(source, bytes | bytearray):
        return len(source)
    if isinstance(source, Image.Image):
        return source.width * source.height * len(source.getbands())
    return 0
