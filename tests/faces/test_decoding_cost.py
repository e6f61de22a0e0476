"""Small files that are large to decode are refused; those that only look like it are read."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from agelens.errors import UnreadableImageError
from agelens.faces.decoding_cost import MAX_SCANS, count_scans
from agelens.faces.image import read_image


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = jpeg(progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - count_scans(content, 1000)) + content[-2:]


def test_scans_are_counted() -> None:
    assert count_scans(jpeg(), 1000) == 1
    assert 2 < count_scans(jpeg(progressive=True), 1000) < 20
    assert count_scans(with_scans(90), 1000) == 90
    assert count_scans(with_scans(90), 5) == 5
    assert count_scans(b"", 10) == 0


def test_thumbnails_and_further_images_do_not_count() -> None:
    inner = jpeg(progressive=True) * 30
    segment = b"\xff\xe1" + struct.pack(">H", len(inner[:60_000]) + 2) + inner[:60_000]
    content = jpeg()
    assert content.count(b"\xff\xda") == 1
    assert (content[:2] + segment + content[2:]).count(b"\xff\xda") > 20
    assert count_scans(content[:2] + segment + content[2:] + inner, 20) == 1


@pytest.mark.parametrize("cut", [b"\xff", b"\xff\xff", b"\xff\xda\x00", b"\xff\xe1\xff"])
def test_damaged_files_are_counted_to_their_end(cut: bytes) -> None:
    assert 120 <= count_scans(with_scans(120)[:-2] + cut, 1000) <= 121


def test_a_jpeg_of_many_scans_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_image(with_scans(MAX_SCANS)).shape == (40, 48, 3)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", None)  # decoding would fail otherwise
    with pytest.raises(UnreadableImageError, match="more than 100 scans"):
        read_image(with_scans(MAX_SCANS + 1))


def tiled_tiff(side: int, tile: int) -> bytes:
    """A grey TIFF of one deflated tile, which says that it is larger than what it holds."""
    data = zlib.compress(bytes(min(tile, 2048) ** 2))
    tags = {
        256: side,
        257: side,
        258: 8,
        259: 8,
        262: 1,
        277: 1,
        322: tile,
        323: tile,
        324: 8,
        325: len(data),
    }
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def test_a_tile_far_larger_than_its_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_image(tiled_tiff(100, 512)).shape == (100, 100, 3)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", None)
    with pytest.raises(
        UnreadableImageError, match="tiles of 46336 x 46336 pixels, for an image of 100 x 100"
    ):
        read_image(tiled_tiff(100, 46_336))


def test_a_tile_of_an_image_may_reach_a_little_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder holds a whole tile beside the image: 16 bits of four colours are 8 bytes a pixel."""
    assert read_image(tiled_tiff(2000, 2048)).shape == (2000, 2000, 3)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", None)
    with pytest.raises(
        UnreadableImageError, match="tiles of 4096 x 4096 pixels, for an image of 3000 x 3000"
    ):
        read_image(tiled_tiff(3000, 4096))


def gif(canvas: tuple[int, int]) -> bytes:
    """A frame of 200 x 200 on a canvas (GIF89a, 18)."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((200, 200)).save(stream, "GIF")
    content = stream.getvalue()
    return content[:6] + struct.pack("<HH", *canvas) + content[10:]


def test_a_gif_of_a_small_frame_on_a_large_canvas_is_refused() -> None:
    assert read_image(gif((200, 200))).shape == (200, 200, 3)
    assert read_image(gif((2000, 2000))).shape == (2000, 2000, 3)
    with pytest.raises(UnreadableImageError, match=r"is of 64968 x 200 pixels, .* data for 40000 of them"):
        read_image(gif((64968, 200)))


def test_a_tiff_with_strips_for_a_few_of_its_rows_is_refused() -> None:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((200, 200)).convert("F").save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    (rows,) = (  # the entry of ImageLength: tag, type, count, value
        place + 8
        for kind, form in ((3, "<HHIHH"), (4, "<HHII"))
        if (place := content.find(struct.pack(form, 257, kind, 1, *((200, 0) if kind == 3 else (200,))))) >= 0
    )
    content[rows - 6 : rows + 4] = struct.pack("<HII", 4, 1, 131_272)
    with pytest.raises(UnreadableImageError, match=r"is of 200 x 131272 pixels, .* data for 40000 of them"):
        read_image(bytes(content))
