"""Decoding an image in time: what may take long is decoded in a process that can be killed.

A thread cannot be stopped, and a decoder neither asks nor answers while it works. A child costs a start of
Python, so ordinary photographs are decoded in place. It is this file, run as a program: it reads the encoded
image from stdin, and writes a line of JSON and the pixels to stdout.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from agelens.errors import ImageTooLargeError, UnreadableImageError
from agelens.faces.image import LoadedImage, decoding_cost, load_image

__all__ = ["decode"]

_CHILD = (sys.executable, "-m", __name__)
_IN_PLACE = 200.0
"""Highest `decoding_cost` of what is decoded in place: a few seconds. Photographs of phones are below."""


def decode(content: bytes, max_pixels: int, until: float) -> LoadedImage:
    """Decode an image, but no longer than allowed.

    Args:
        content: The encoded image.
        max_pixels: As in `load_image`.
        until: Value of ``time.monotonic()`` at which the decoding of a costly image ends.
    Returns:
        The image, its full size, and remarks.
    Raises:
        ImageTooLargeError: More than ``max_pixels``.
        UnreadableImageError: It cannot be decoded, or not in time.
    """
    if decoding_cost(content) <= _IN_PLACE:
        return load_image(content, max_pixels=max_pixels)
    seconds = max(until - time.monotonic(), 0.0)
    command = [*_CHILD, str(max_pixels), str(math.ceil(seconds) + 1)]
    with (
        subprocess.Popen(  # in a session of its own: Ctrl-C is the service's affair
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as child,
        _killed_after(seconds, child) as late,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it wrote tells why
            child.stdin.write(content)
            child.stdin.close()
        image = _received(child.stdout)
    if image is None:
        raise UnreadableImageError("image", "takes too long to decode" if late.is_set() else "is damaged")
    return image


@contextlib.contextmanager
def _killed_after(seconds: float, child: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Kill a child that is not done in time, or whose parent stops waiting; the event tells of the first."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        child.kill()


def _received(stream: IO[bytes]) -> LoadedImage | None:
    """Read the image that a child sends; None if it ended before it had sent all."""
    try:
        told = json.loads(stream.readline())
    except ValueError:
        return None
    if "reason" in told:
        kind = ImageTooLargeError if told["too_large"] else UnreadableImageError
        raise kind("image", told["reason"])
    pixels: NDArray[np.uint8] = np.empty(told["shape"], np.uint8)
    place, rest = 0, pixels.data.cast("B")
    while place < len(rest):
        if not (read := stream.readinto(rest[place:])):  # type: ignore[attr-defined]
            return None
        place += read
    return LoadedImage(pixels, tuple(told["full_size"]), tuple(told["remarks"]))


def _main(max_pixels: int, seconds: int) -> None:
    """Decode stdin to stdout; the system ends what takes longer, should the parent be gone."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    content = sys.stdin.buffer.read()
    try:
        image = load_image(content, max_pixels=max_pixels)
    except (ImageTooLargeError, UnreadableImageError) as error:
        told = {"reason": error.reason, "too_large": isinstance(error, ImageTooLargeError)}
        sys.stdout.buffer.write(json.dumps(told).encode() + b"\n")
        return
    facts = {"shape": image.pixels.shape, "full_size": image.full_size, "remarks": image.remarks}
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n")
    sys.stdout.buffer.write(np.ascontiguousarray(image.pixels).data)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
