"""Photos that wait until their crops fill a batch, within bounds of memory and time."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from agelens.errors import AgelensError
from agelens.faces.crops import CroppedImage
from agelens.faces.image import Source

__all__ = ["WaitingPhoto", "WaitingPhotos"]

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
