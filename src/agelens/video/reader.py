"""Frames of a clip, a stream on stdin or a camera, upright and with their times, by PyAV."""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agelens.errors import InputError, MissingExtraError, VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["ClipFacts", "Frame", "VideoReader"]

MAX_FRAME_PIXELS = 80_000_000
"""Larger frames are refused: 8K has 33 million pixels."""

_CAMERA = re.compile(r"/dev/video\d+")
_NO_ADDRESSES = {"protocol_whitelist": "file"}  # a playlist must not make us fetch anything
_RATE = 25.0  # frames a second of a clip that does not tell
_UNTOLD, _HD_LINES = 2, 720  # a clip of so many lines that tells no colour matrix has that of BT.709
_HELD_BYTES = 48 * 2**20  # of frames that wait
_MOST_WAITING = 4
_OPENING = (10.0, 10.0)  # seconds to open a device or an address, and to wait for its next frame
_PATIENCE = 0.2  # seconds between two looks at whether anyone still wants more of a stream
_SHORT = 1.0  # seconds, or the longest time between two frames: so much may a Matroska file end early


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: From 0, in the order of the clip.
        time: Seconds from the first frame; rising.
        pixels: (H, W, 3) uint8 RGB, upright as the clip's display matrix says.
    """

    number: int
    time: float
    pixels: NDArray[np.uint8]


class ClipFacts(NamedTuple):
    """Facts that a clip tells of itself.

    Attributes:
        rate: Frames a second, on average.
        frames: Number of frames; None if it does not tell.
        width: Pixels.
        height: Pixels.
        live: It is a camera: its frames come in their own time.
    """

    rate: float
    frames: int | None
    width: int
    height: int
    live: bool


class _Stream:
    """A binary stream that ends where it fails, or when nobody wants more of it.

    Attributes:
        failure: Why it failed; empty if it did not.
        empty: Nothing has come yet.
        back: It can be read again.
        left: Nobody wants more of it: who waits for it is let go.

    Args:
        stream: What is read.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.failure, self.empty, self.left = "", True, False
        self._read = getattr(stream, "read1", stream.read)  # what is there, be it less than was asked for
        self._number: int | None = None
        self.back = stream.seekable()
        if self.back:
            self.seek, self.tell = stream.seek, stream.tell
        elif os.name == "posix":
            with contextlib.suppress(OSError, ValueError):
                self._number = stream.fileno()

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; none after a failure."""
        content = b""
        try:
            while self._number is not None and not self.left:
                if select.select([self._number], [], [], _PATIENCE)[0]:
                    break
            if not self.failure and not self.left:
                content = self._read(size) or b""
        except (OSError, ValueError) as error:
            self.failure = f"cannot be read on: {getattr(error, 'strerror', None) or error}"
        self.empty = self.empty and not content
        return content


class VideoReader:
    """The frames of one clip, decoded as they are asked for; a context manager.

    Args:
        source: Path of a file; a camera (``/dev/video0``, or a link to it); or an open binary stream: stdin.
        every: Only every such frame is given.
    Raises:
        VideoError: It is missing, empty, no video, has no pictures in it, or its codec is missing.
        InputError: ``every`` is not positive.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, source: str | Path | IO[bytes], *, every: int = 1) -> None:
        if every < 1:
            raise InputError(f"every is at least 1 frame, not {every}")
        self.name = str(source) if isinstance(source, str | Path) else "-"
        self.remarks: list[str] = []
        """Sentences on defects of the clip, complete when its frames have been read."""
        self.broken = False
        """Whether the clip ended by a defect."""
        self._every = every
        try:
            import av
        except ModuleNotFoundError as error:
            raise MissingExtraError("av", "video") from error
        self._av = av
        self._piped: _Stream | None = None
        live = _is_camera(self.name)
        self._container = self._opened(source, live=live)
        self._stream = self._first_stream()
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.facts = ClipFacts(
            float(rate) if rate else _RATE,
            self._stream.frames or None,
            self._stream.width or 0,
            self._stream.height or 0,
            live,
        )

    @property
    def depth(self) -> int:
        """Frames that may wait while others are searched: few large ones, and one of a camera."""
        size = max(1, 3 * self.facts.width * self.facts.height)
        return 1 if self.facts.live else max(1, min(_MOST_WAITING, _HELD_BYTES // size))

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def leave(self) -> None:
        """End reading, from any thread: one that waits for a stream to go on waits no longer."""
        if self._piped is not None:
            self._piped.left = True

    def close(self) -> None:
        """Close the clip."""
        self._container.close()

    def _opened(self, source: str | Path | IO[bytes], *, live: bool) -> Any:
        handle: Any = None
        if not isinstance(source, str | Path):
            handle = self._piped = _Stream(source)
        else:
            handle = str(source)
            if not live:
                self._check_file(Path(source))
                handle = f"file:{source}"  # never an address, whatever the name looks like
        try:
            if live:
                return self._av.open(handle, format="v4l2", timeout=_OPENING)
            return self._av.open(handle, metadata_errors="replace", container_options=_NO_ADDRESSES)
        except self._av.FFmpegError as error:
            if self._piped is not None and self._piped.empty:
                raise VideoError(self.name, self._piped.failure or "is empty") from error
            if live:
                raise VideoError(self.name, f"no such camera: {error.strerror or error}") from error
            cut = self._piped is None and _is_mp4(Path(self.name))
            hint = ": its index is missing; it was cut off, or is still being written" if cut else ""
            raise VideoError(self.name, _reason(error) + hint) from error
        except OSError as error:
            raise VideoError(self.name, f"cannot be read: {error.strerror or error}") from error
        except (ValueError, UnicodeError) as error:
            raise VideoError(self.name, f"cannot be read: {error}") from error

    def _check_file(self, path: Path) -> None:
        try:
            if not path.is_file():
                reason = "is no regular file and no camera (/dev/video0)"
                if path.is_fifo():
                    reason = "is a pipe; a stream is read from stdin, as -"
                raise VideoError(self.name, reason if path.exists() else "no such file")
            if path.stat().st_size == 0:
                raise VideoError(self.name, "is empty")
        except (OSError, ValueError) as error:
            raise VideoError(self.name, f"cannot be read: {error}") from error

    def _first_stream(self) -> Any:
        pictures = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & self._av.stream.Disposition.attached_pic
        ]
        if not pictures:
            self._container.close()
            raise VideoError(self.name, "has no video stream")
        stream = pictures[0]
        if stream.codec_context is None:
            self._container.close()
            raise VideoError(self.name, "its codec is unknown to this build of FFmpeg")
        stream.thread_type = "AUTO"
        return stream

    def __iter__(self) -> Iterator[Frame]:
        """Decode the frames in order.

        Yields:
            The frames; what comes before a defect is given.
        Raises:
            VideoError: The first frame cannot be decoded, or a frame is too large.
        """
        time, number, first, back = -1.0, 0, None, 0
        step = 1 / self.facts.rate
        for frame in self._decoded():
            stamp = None if frame.pts is None or not frame.time_base else float(frame.pts * frame.time_base)
            if first is None:
                first = 0.0 if stamp is None else stamp
            told = number * step if stamp is None else stamp - first
            if told <= time:
                back += 1
                told = time + step
            time = told
            if number % self._every == 0:
                yield Frame(number, time, self._pixels(frame))
            number += 1
        if back:
            self.remarks.append(f"the times of {back} frames do not rise; they were counted on")
        if not number:
            reason = "; ".join(self.remarks) or "no frame can be decoded"
            self.remarks.clear()
            raise VideoError(self.name, reason)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Frames until the end or the first defect that the decoder does not survive."""
        try:
            yield from self._survived()
        except self._av.FFmpegError as error:
            piped = self._piped is not None and not self._piped.back
            late = piped and "mp4" in self._container.format.name
            hint = "; an MP4 whose index is at its end is to be given as a file" if late else ""
            self._break_off(_reason(error) + hint)
        if self._piped is not None and self._piped.failure:
            self._break_off(self._piped.failure)

    def _survived(self) -> Iterator[VideoFrame]:
        """Frames of all packets; a damaged packet costs its own frames alone."""
        damaged, packets, cut = 0, 0, False
        last, gap, end = 0.0, _SHORT, 0.0  # seconds: of a frame, most between two, the end of all streams
        indexed = len(getattr(self._stream, "index_entries", ()))
        # Matroska tells the time at which the last of its streams ends, so all of them are looked at.
        matroska = "matroska" in self._container.format.name
        for packet in self._container.demux(*() if matroska else (self._stream,)):
            if packet.pts is not None:
                time = float(packet.pts * packet.time_base)
                end = max(end, time + float((packet.duration or 0) * packet.time_base))
            if packet.stream.index != self._stream.index:
                continue
            if packet.dts is not None or packet.size:  # else it is the end
                packets, cut = packets + 1, packet.is_corrupt
            if packet.pts is not None:
                last, gap = time, max(gap, time - last)
            try:
                frames = packet.decode()
            except self._av.error.InvalidDataError:
                damaged += 1
                continue
            yield from frames
        told = (self._container.duration or 0) / self._av.time_base if matroska else 0.0
        if self._piped is not None and (self._piped.failure or self._piped.left):
            return  # the one is told, the other is no defect
        if packets < indexed:
            self._break_off(f"breaks off: {packets} of its {indexed} frames are there")
        elif end < told - gap:
            self._break_off(f"breaks off: {end:.1f} of its {told:.1f} seconds are there")
        elif cut:
            self._break_off("breaks off within its last frame")
        elif damaged:
            what = "1 damaged packet was" if damaged == 1 else f"{damaged} damaged packets were"
            self.remarks.append(f"{what} passed over")

    def _break_off(self, remark: str) -> None:
        self.remarks.append(remark)
        self.broken = True

    def _pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise VideoError(
                self.name,
                f"a frame has {frame.width} x {frame.height} pixels; the limit is {MAX_FRAME_PIXELS}",
            )
        untold_hd = frame.colorspace == _UNTOLD and frame.height >= _HD_LINES
        pixels: NDArray[Any] = frame.to_ndarray(
            format="rgb24", src_colorspace="ITU709" if untold_hd else None
        )
        quarters = 0
        with contextlib.suppress(ValueError):  # a display matrix that is no rotation
            quarters = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def _is_camera(name: str) -> bool:
    """Whether a name is that of a camera, or a link to one as ``/dev/v4l/by-id/…``."""
    if not name.startswith("/dev/"):
        return False
    return _CAMERA.fullmatch(name) is not None or _CAMERA.fullmatch(os.path.realpath(name)) is not None


def _is_mp4(path: Path) -> bool:
    """Whether a file begins as MP4 and QuickTime do."""
    with contextlib.suppress(OSError), path.open("rb") as handle:
        return handle.read(8)[4:] == b"ftyp"
    return False


def _reason(error: Any) -> str:
    """The words of FFmpeg's error."""
    text = getattr(error, "strerror", None) or str(error)
    return f"cannot be decoded: {text}"
