"""PNG files whose data end before their last row."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from agelens.errors import UnreadableImageError
from agelens.faces.image import read_image


def png(mode: str, more_rows: int, *, black_below: bool = False) -> bytes:
    """A PNG of 40 x 50 pixels whose header says that it has more rows, in two IDAT chunks."""
    values = np.random.default_rng(0).integers(1, 256, (50, 40, 4), np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    else:
        picture = Image.fromarray(values).convert(mode)
    if black_below:
        picture.paste((0,) * len(mode) if mode in {"LA", "RGB", "RGBA"} else 0, (0, 25, 40, 50))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[20:24] = (50 + more_rows).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    start = content.index(b"IDAT") - 4
    end = content.index(b"IEND") - 4
    data = bytes(content[start + 8 : end - 4])
    chunks = [b"IDAT" + data[:9], b"IDAT" + data[9:]]
    pieces = [
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") for chunk in chunks
    ]
    return bytes(content[:start]) + b"".join(pieces) + bytes(content[end:])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_missing_rows_are_damage(mode: str) -> None:
    for more_rows in (1, 20, 60_000):
        with pytest.raises(UnreadableImageError, match="its data end before its last row"):
            read_image(png(mode, more_rows))
    for black_below in (False, True):
        assert read_image(png(mode, 0, black_below=black_below)).shape == (50, 40, 3)


def test_data_are_counted_only_where_the_last_row_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zlib, "decompressobj", None)
    assert read_image(png("RGB", 0)).shape == (50, 40, 3)
    with pytest.raises(TypeError):
        read_image(png("RGB", 0, black_below=True))
