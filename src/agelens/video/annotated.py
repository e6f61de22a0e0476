"""A copy of a clip with box, number, age and interval of each person, as MP4."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agelens.errors import MissingExtraError, OutputError
from agelens.inference.pictures import draw_faces
from agelens.video.person import FrameAges

__all__ = ["AnnotatedClip", "annotated"]

_CODECS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "veryfast", "crf": "23"}),
    ("libopenh264", {}),
    ("mpeg4", {"qscale": "4"}),
)
_TICKS = 90_000  # of a second, in which the times of the frames are counted


def annotated(frame: FrameAges, level: float = 0.9) -> Image.Image:
    """Draw box, number, age and interval of each person into a frame.

    Args:
        frame: The frame.
        level: Coverage of the intervals.
    """
    picture = Image.fromarray(frame.pixels)
    labels = []
    for person in frame.people:
        low, high = person.shown.interval(level)
        label = f"{person.person}: {person.shown.age:.0f} ({low:.0f} to {high:.0f})"
        labels.append((person.face.box, label if person.settled else label + " …"))
    draw_faces(picture, labels)
    return picture


class AnnotatedClip:
    """Writes annotated frames, at their times, as they come; a context manager. The sound is left out.

    Args:
        path: Where the clip goes: a temporary file of `agelens.files.write_atomically`.
        rate: Frames a second, for the file's head; the frames keep their own times.
        level: Coverage of the intervals.
    Raises:
        OutputError: It cannot be written.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: Path, rate: float, level: float = 0.9) -> None:
        try:
            import av
        except ModuleNotFoundError as error:
            raise MissingExtraError("av", "video") from error
        self._av, self._path, self._level = av, path, level
        self._rate = Fraction(rate).limit_denominator(1001)
        self._stream: Any = None
        self._size = (2, 2)
        self._last = -1
        self._output = av.open(str(path), "w", format="mp4")

    def __enter__(self) -> AnnotatedClip:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            if self._stream is not None and failure[0] is None:
                self._output.mux(self._stream.encode(None))
        finally:
            self._output.close()

    def add(self, frame: FrameAges) -> None:
        """Write a frame; one of another size than the first is brought to its size."""
        picture = annotated(frame, self._level)
        if self._stream is None:
            width, height = picture.size
            self._size = (width + width % 2, height + height % 2)  # what 4:2:0 needs
            self._stream = self._new_stream()
        if picture.size != self._size:
            even = all(0 <= size - side <= 1 for size, side in zip(self._size, picture.size, strict=True))
            picture = _padded(picture, self._size) if even else picture.resize(self._size)
        encoded = self._av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        self._last = max(self._last + 1, round(frame.time * _TICKS))
        encoded.pts, encoded.time_base = self._last, Fraction(1, _TICKS)
        try:
            self._output.mux(self._stream.encode(encoded))
        except self._av.FFmpegError as error:
            raise OutputError(self._path, f"cannot write: {error.strerror or error}") from error

    def _new_stream(self) -> Any:
        for name, options in _CODECS:
            if name not in self._av.codecs_available:
                continue
            stream: Any = self._output.add_stream(name, rate=self._rate, options=options)
            stream.width, stream.height = self._size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            return stream
        raise OutputError(self._path, "this build of FFmpeg has no encoder for MP4")


def _padded(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture with its last row and column repeated, as far as the size asks for."""
    right, bottom = size[0] - picture.width, size[1] - picture.height
    return Image.fromarray(np.pad(np.asarray(picture), ((0, bottom), (0, right), (0, 0)), mode="edge"))
