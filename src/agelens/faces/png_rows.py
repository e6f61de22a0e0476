"""PNG files whose data end before their last row: Pillow decodes them, and leaves the rest black."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from PIL import Image

__all__ = ["lacks_rows"]

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: ISO/IEC 15948, table 8
_PIECE = 2**20  # bytes that are inflated at once


def lacks_rows(picture: Image.Image, stream: BinaryIO) -> bool:
    """Tell whether a PNG file holds fewer rows than its header says; an interlaced one counts as whole.

    Data are counted only where the last row is empty, so that other files cost nothing.

    Args:
        picture: Opened from the file by Pillow, and decoded.
        stream: The file; it is left at another place.
    """
    if picture.format != "PNG" or picture.info.get("interlace"):
        return False
    filled = picture.getbbox()
    if filled is not None and filled[3] == picture.height:
        return False
    stream.seek(8)
    needed, inflating = 1, zlib.decompressobj()
    while len(head := stream.read(8)) == 8 and needed > 0:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IHDR":
            content = stream.read(length)
            bits = picture.width * _SAMPLES.get(content[9], 1) * content[8]
            needed = picture.height * (1 + -(-bits // 8))
        elif kind == b"IDAT":
            needed -= _inflated(inflating, stream.read(length))
        else:
            stream.seek(length, 1)
        stream.seek(4, 1)  # the checksum
    return needed > 0


def _inflated(inflating: zlib._Decompress, content: bytes) -> int:
    """Bytes that more of the data stand for."""
    size = 0
    while content:
        try:
            size += len(inflating.decompress(content, _PIECE))
        except zlib.error:  # what Pillow decodes it from is what came before
            return size
        content = inflating.unconsumed_tail
    return size
