"""Clips are read upright and in time; what cannot be read is told, and what can is kept."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray

from agelens.video.ahead import ahead

av = pytest.importorskip("av", reason="clips need the extra video")

from agelens.errors import InputError, VideoError  # noqa: E402
from agelens.video import reader as reader_module  # noqa: E402
from agelens.video.reader import Frame, VideoReader  # noqa: E402


def plain(count: int, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    """Grey frames, each brighter than the last, whose left half is red."""
    frames = [np.full((height, width, 3), 20 + 5 * number, np.uint8) for number in range(count)]
    for frame in frames:
        frame[:, : width // 2, 0] = 250
    return frames


def read(source: str | Path | IO[bytes], every: int = 1) -> tuple[list[Frame], VideoReader]:
    with VideoReader(source, every=every) as reader:
        return list(reader), reader


def encoded(path: Path, frames: Sequence[NDArray[np.uint8]], codec: str = "mpeg4") -> Path:
    """A clip that can be read from its beginning on, without its end."""
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}
    ) as output:
        stream = output.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def test_frames_and_times(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    frames, reader = read(write_clip(tmp_path / "a.mp4", plain(10), rate=20))
    assert [frame.number for frame in frames] == list(range(10))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(10) / 20, atol=1e-6)
    assert frames[0].pixels.shape == (48, 64, 3)
    assert frames[0].pixels[24, 8, 0] > 200 > frames[0].pixels[24, 56, 0]
    assert (reader.facts.frames, reader.remarks, reader.broken) == (10, [], False)
    assert reader.facts.rate == pytest.approx(20, rel=0.2)


def test_every_third_frame(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    frames, _ = read(write_clip(tmp_path / "a.mp4", plain(10)), every=3)
    assert [frame.number for frame in frames] == [0, 3, 6, 9]
    with pytest.raises(InputError, match="every is at least 1"):
        VideoReader(tmp_path / "a.mp4", every=0)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_the_display_matrix_is_obeyed(tmp_path: Path, write_clip: Callable[..., Path], rotation: int) -> None:
    upright = plain(3)
    turned = [np.rot90(frame, -rotation // 90) for frame in upright]
    frames, _ = read(write_clip(tmp_path / "a.mp4", turned, rotation=rotation))
    assert frames[0].pixels.shape == (48, 64, 3)
    assert np.abs(frames[0].pixels.astype(int) - upright[0]).mean() < 12


def test_frames_keep_their_own_times(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    times = [0, 40, 400, 410, 1500]
    frames, _ = read(write_clip(tmp_path / "a.mp4", plain(5), times=times))
    np.testing.assert_allclose([frame.time for frame in frames], np.array(times) / 1000, atol=1e-3)


class Stamped:
    """A frame of the decoder with a time stamp that a damaged clip might have."""

    def __init__(self, frame: object, pts: int | None) -> None:
        self._frame, self.pts = frame, pts

    def __getattr__(self, name: str) -> object:
        return getattr(self._frame, name)


@pytest.mark.parametrize("stamps", [[0, 300, 100, 200, 500], [5, 5, 5, 5, 5], [None] * 5])
def test_times_that_do_not_rise_are_counted_on(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    stamps: list[int | None],
) -> None:
    clip = write_clip(tmp_path / "a.mp4", plain(5))
    decoded = VideoReader._decoded
    monkeypatch.setattr(VideoReader, "_decoded", lambda self: map(Stamped, decoded(self), stamps))
    frames, reader = read(clip)
    assert len(frames) == 5
    assert all(np.diff([frame.time for frame in frames]) > 0)
    assert bool(reader.remarks) == (stamps[0] is not None)


def test_a_stream_that_cannot_be_sought(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self.content = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.content.read(size)

    frames, reader = read(Pipe(encoded(tmp_path / "a.mkv", plain(6)).read_bytes()))
    assert len(frames) == 6
    assert reader.name == "-"


def test_a_camera_that_goes_away_keeps_its_frames(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    class Unplugged(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self.content, self.left = io.BytesIO(content), 2 * len(content) // 3

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            if self.left <= 0:
                raise OSError(19, "No such device")
            self.left -= size
            return self.content.read(size)

    noise = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), dtype=np.uint8)
    frames, reader = read(Unplugged(encoded(tmp_path / "a.mkv", noise, "mjpeg").read_bytes()))
    assert 5 < len(frames) < 40
    assert reader.broken
    assert "No such device" in reader.remarks[0]


@pytest.mark.parametrize("size", [(2, 2), (7680, 4320)])
def test_tiny_and_8k_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    with av.open(str(tmp_path / "a.avi"), "w") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        frame = av.VideoFrame(width, height, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    frames, reader = read(tmp_path / "a.avi")
    assert frames[0].pixels.shape == (height, width, 3)
    assert reader.depth == (4 if width == 2 else 1)


def test_one_pixel(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1, 1), (200, 10, 10)).save(tmp_path / "a.png")
    frames, _ = read(tmp_path / "a.png")
    assert [frame.pixels.shape for frame in frames] == [(1, 1, 3)]


def test_frames_beyond_the_limit_are_refused(
    tmp_path: Path, write_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "a.mp4", plain(2))
    monkeypatch.setattr(reader_module, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(VideoError, match="64 x 48 pixels; the limit is 1000"):
        read(clip)


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_what_is_no_clip_is_told(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None = None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError) as caught:
            read(tmp_path / name)
        return caught.value.reason

    assert refused("missing.mp4") == "no such file"
    assert refused("empty.mp4", b"") == "is empty"
    assert "cannot be decoded" in refused("text.mp4", b"no clip at all, but long enough to look at it\n" * 50)
    assert "cannot be decoded" in refused("noise.mp4", np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder.mp4").mkdir()
    assert refused("folder.mp4") == "is no regular file and no camera (/dev/video0)"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        assert refused("pipe.mp4") == "is a pipe; a stream is read from stdin, as -"
    sound(tmp_path / "sound.wav")
    assert refused("sound.wav") == "has no video stream"
    with pytest.raises(VideoError, match="/dev/video97: no such camera: No such file"):
        read("/dev/video97")


def test_a_link_to_a_camera_is_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module.os.path, "realpath", lambda path: "/dev/video97")
    with pytest.raises(VideoError, match="/dev/v4l/by-id/none: no such camera"):
        read("/dev/v4l/by-id/none")
    with pytest.raises(VideoError, match="no such file"):
        read("/run/video0")


def test_a_playlist_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(VideoError):
        read(tmp_path / "list.m3u8")


def test_a_codec_that_is_missing(tmp_path: Path) -> None:
    content = encoded(tmp_path / "a.mkv", plain(3)).read_bytes()
    (tmp_path / "b.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_MPEG9/ISO/ASP"))
    with pytest.raises(VideoError, match="codec"):
        read(tmp_path / "b.mkv")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.mkv", r"breaks off: [0-9.]+ of its 2\.0 seconds are there"),
        ("a.mp4", r"breaks off: [0-9]+ of its 20 frames are there"),
        ("a.avi", "breaks off within its last frame"),
    ],
)
def test_a_truncated_clip_gives_its_beginning_and_says_so(tmp_path: Path, name: str, told: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 96, 128, 3), dtype=np.uint8)
    content = encoded(tmp_path / name, noise).read_bytes()
    frames, reader = read(tmp_path / name)
    assert (len(frames), reader.remarks, reader.broken) == (20, [], False)
    cut = tmp_path / f"cut {name}"
    cut.write_bytes(content[: len(content) // 2])
    frames, reader = read(cut)
    assert 3 < len(frames) < 18
    assert reader.broken
    (remark,) = reader.remarks
    assert re.fullmatch(told, remark)


def test_pictures_that_end_before_the_sound_are_whole(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        pictures = output.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        heard = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        for pixels in plain(5):
            output.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(pictures.encode(None))
        for number in range(50):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 8000, 800 * number
            output.mux(heard.encode(silence))
        output.mux(heard.encode(None))
    frames, reader = read(tmp_path / "a.mkv")
    assert (len(frames), reader.remarks, reader.broken) == (5, [], False)


def test_a_slow_slide_show_is_whole(tmp_path: Path) -> None:
    """Its head counts how long the last picture stands, of which the packets tell nothing."""
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(plain(3)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 5000 * number, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.duration = 0
                output.mux(packet)
    content = (tmp_path / "a.mkv").read_bytes()
    head = content.index(b"\x44\x89\x88") + 3  # the duration, milliseconds
    assert struct.unpack_from(">d", content, head) == (10_100,)
    (tmp_path / "a.mkv").write_bytes(content[:head] + struct.pack(">d", 14_000) + content[head + 8 :])
    frames, reader = read(tmp_path / "a.mkv")
    assert [frame.time for frame in frames] == [0, 5, 10]
    assert (reader.remarks, reader.broken) == ([], False)


def test_a_damaged_packet_costs_its_own_frames_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 96, 128, 3), dtype=np.uint8)
    content = bytearray(encoded(tmp_path / "a.mkv", noise, "mjpeg").read_bytes())
    starts = [match.start() for match in re.finditer(b"\xff\xd8\xff", content)]
    assert len(starts) == 6
    content[starts[2] : starts[2] + 600] = bytes(600)
    (tmp_path / "b.mkv").write_bytes(content)
    frames, reader = read(tmp_path / "b.mkv")
    assert len(frames) == 5
    assert (reader.remarks, reader.broken) == (["1 damaged packet was passed over"], False)


def test_a_truncated_mp4_without_its_index(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (10, 96, 128, 3), dtype=np.uint8)
    content = write_clip(tmp_path / "a.mp4", list(noise)).read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match="its index is missing; it was cut off, or is still being written"):
        read(tmp_path / "b.mp4")


# --- pipes


@contextlib.contextmanager
def pipe(content: bytes, *, ends: bool) -> Iterator[IO[bytes]]:
    """The reading end of a pipe into which ``content`` is written; it stays open unless it ``ends``."""
    reading, writing = os.pipe()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), open(writing, "wb", closefd=ends) as handle:
            handle.write(content)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with open(reading, "rb") as handle:
        yield handle
    writer.join()
    if not ends:
        os.close(writing)


def test_an_empty_pipe_is_empty() -> None:
    with pipe(b"", ends=True) as stream, pytest.raises(VideoError, match="-: is empty"):
        VideoReader(stream)


def test_an_mp4_with_its_index_at_its_end_is_no_stream(
    tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (10, 96, 128, 3), dtype=np.uint8)
    content = write_clip(tmp_path / "a.mp4", list(noise)).read_bytes()
    with pipe(content, ends=True) as stream, pytest.raises(VideoError, match="to be given as a file"):
        read(stream)
    with pipe(encoded(tmp_path / "b.mp4", noise).read_bytes(), ends=True) as stream:
        frames, _ = read(stream)
    assert len(frames) == 10


def test_a_stream_that_stalls_can_be_left(tmp_path: Path) -> None:
    """Its thread waits for more; nothing comes, and yet it ends."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), dtype=np.uint8)
    content = encoded(tmp_path / "a.mkv", noise, "mjpeg").read_bytes()
    with pipe(content[: len(content) // 2], ends=False) as stream, VideoReader(stream) as reader:
        frames = ahead(reader, 1, reader.leave)
        assert next(frames).number == 0
        frames.close()
        assert (reader.remarks, reader.broken) == ([], False)
