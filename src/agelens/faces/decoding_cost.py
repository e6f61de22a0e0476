"""Files that are small and whose decoding is not: refused before it begins, or known by what it costs.

The number of pixels does not tell. A progressive JPEG may pass over its image thousands of times, each time
with a few bytes; a TIFF may keep a small image in one tile of gigabytes; a GIF may put a small frame on a
canvas of 65,535 pixels squared, and a TIFF have strips for a few of its rows.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from PIL import Image

__all__ = ["MAX_SCANS", "cost", "refusal"]

MAX_SCANS = 100
"""Most scans of a JPEG that is decoded; encoders make about ten, a few optimisers some dozens."""

_PLAIN = 2.0  # cost of a pixel of PNG, TIFF and the like, in pixels of a JPEG of one scan
_COSTS = {"AVIF": 10.0, "HEIF": 10.0}

_MAX_PADDING = 1.25  # times the image's own pixels that one tile of a TIFF may have
_SMALL_TILE = 2**22  # pixels that a tile may have whatever the image's size
_MAX_EMPTY = 16  # times the pixels that a file has data for that its image may have
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF 6.0, section 15

_JPEG = {"JPEG", "MPO"}
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_START_OF_SCAN = b"\xff\xda"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restart markers belong to a scan's data


def refusal(picture: Image.Image, stream: BinaryIO) -> str | None:
    """Say why an opened image is not worth decoding.

    Args:
        picture: Opened by Pillow, not yet decoded.
        stream: Its file; left where it was.
    Returns:
        The reason, to follow the image's name; None if it may be decoded.
    """
    if picture.format in _JPEG and _scans(stream) > MAX_SCANS:
        return f"is a JPEG of more than {MAX_SCANS} scans, which would take too long to decode"
    if picture.format == "TIFF":
        tags = getattr(picture, "tag_v2", {})
        width, length = (_number(tags.get(tag)) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        most = max(_SMALL_TILE, _MAX_PADDING * picture.width * picture.height)
        if width * length > most:
            return (
                f"has tiles of {width} x {length} pixels, for an image of {picture.width} x {picture.height}"
            )
    parts = [part[1] for part in getattr(picture, "tile", ()) if part[1] is not None]
    held = sum((right - left) * (bottom - top) for left, top, right, bottom in parts)
    if parts and picture.width * picture.height > max(_SMALL_TILE, _MAX_EMPTY * held):
        return f"is of {picture.width} x {picture.height} pixels, and its file has data for {held} of them"
    return None


def cost(picture: Image.Image, stream: BinaryIO) -> float:
    """Estimate what decoding an opened image costs at most.

    Args:
        picture: Opened by Pillow, not yet decoded.
        stream: Its file; left where it was.
    Returns:
        Millions of pixels of a JPEG of one scan that take as long; the machine does some 50 of them a second.
    """
    each = float(_scans(stream)) if picture.format in _JPEG else _COSTS.get(picture.format or "", _PLAIN)
    return each * picture.width * picture.height / 1e6


def _scans(stream: BinaryIO) -> int:
    """Scans of a JPEG file, as far as it matters."""
    place = stream.tell()
    stream.seek(0)
    scans = count_scans(stream.read(), MAX_SCANS + 1)
    stream.seek(place)
    return scans


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def count_scans(content: bytes, most: int) -> int:
    """Count the scans of the first image of a JPEG file (ITU T.81, B.1.1.2 and B.2).

    Args:
        content: The file.
        most: Where to stop counting.
    Returns:
        The number of start-of-scan markers, at most ``most``. Where there are that many, those of thumbnails
        in other segments and of further images in the file do not count.
    """
    if (all_scans := content.count(_START_OF_SCAN)) < most:  # of thumbnails too, and counted much faster
        return all_scans
    scans, place = 0, 0
    while scans < most and (found := _NEXT_MARKER.search(content, place)):
        marker, place = content[found.end() - 1], found.end()
        if marker == _EOI:
            break
        scans += marker == _SOS
        if marker != _SOI:
            place += int.from_bytes(content[place : place + 2], "big")
    return scans
