"""Reading images of every kind, and refusing what is none."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from agelens.errors import ImageTooLargeError, InputError, UnreadableImageError
from agelens.faces.image import MAX_PIXELS, check_channels, load_image, read_image
from agelens.faces.image_files import find_images


@pytest.fixture(scope="module")
def picture():
    """A small smooth picture without symmetry."""
    y, x = np.mgrid[:24, :32]
    return np.stack([x * 8, y * 10, 255 - x * 4 - y * 2], axis=2).astype(np.uint8)


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
    ],
)
def test_formats(picture, file_format, options, tolerance, tmp_path):
    content = encoded(Image.fromarray(picture), file_format, **options)
    image = read_image(content)
    assert (image.shape, image.dtype) == (picture.shape, np.uint8)
    assert np.abs(image.astype(int) - picture).max() <= tolerance
    path = tmp_path / "name.that.does.not.matter"
    path.write_bytes(content)
    for source in (path, str(path), io.BytesIO(content), Image.open(io.BytesIO(content))):
        np.testing.assert_array_equal(read_image(source), image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_obeyed(picture, orientation, file_format):
    stored = {  # how a camera held that way stores the upright picture
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    options |= {"lossless": True} if file_format == "WEBP" else {}
    image = read_image(encoded(Image.fromarray(stored.copy()), file_format, exif=exif, **options))
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).max() <= 6


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_costs_only_the_orientation(picture, exif):
    content = encoded(Image.fromarray(picture), "JPEG", quality=98, subsampling=0, exif=exif)
    assert np.abs(read_image(content).astype(int) - picture).max() <= 6


def test_grey(picture):
    grey = picture[..., 0]
    image = read_image(encoded(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white():
    bits = np.eye(5, dtype=np.uint8) * 255
    image = read_image(encoded(Image.fromarray(bits).convert("1"), "PNG"))
    np.testing.assert_array_equal(image, np.repeat(bits[..., None], 3, axis=2))


def test_cmyk(picture):
    content = encoded(Image.fromarray(picture).convert("CMYK"), "JPEG", quality=98, subsampling=0)
    assert np.abs(read_image(content).astype(int) - picture).max() <= 8


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_transparency_is_laid_on_white(mode, file_format):
    grey = np.full((4, 4), 100, np.uint8)
    alpha = np.array([[0, 255, 128, 51]] * 4, np.uint8)
    bands = [grey] * (3 if mode == "RGBA" else 1) + [alpha]
    image = read_image(encoded(Image.merge(mode, [Image.fromarray(band) for band in bands]), file_format))
    expected = 255 + (100.0 - 255) * alpha / 255
    assert np.abs(image - expected[..., None]).max() <= 1


def test_palette_with_a_transparent_colour(picture):
    palette = Image.fromarray(picture).quantize(8, dither=Image.Dither.NONE)
    hidden = np.asarray(palette) == 3
    assert 0 < hidden.sum() < hidden.size
    for file_format in ("PNG", "GIF"):
        image = read_image(encoded(palette, file_format, transparency=3))
        assert np.all(image[hidden] == 255)
        expected = np.asarray(palette.convert("RGB"))
        np.testing.assert_array_equal(image[~hidden], expected[~hidden])


def test_palette_with_graded_transparency(picture):
    palette = Image.fromarray(picture).quantize(4, dither=Image.Dither.NONE)
    image = read_image(encoded(palette, "PNG", transparency=bytes([0, 255, 255, 255])))
    assert np.all(image[np.asarray(palette) == 0] == 255)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey(file_format):
    values = np.array([[0, 257, 128 * 257, 65535]] * 3, np.uint16)
    image = read_image(encoded(Image.fromarray(values), file_format))
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 128, 255])
    assert image.shape == (3, 4, 3)


def test_dark_16_bit_grey_stays_dark():
    image = read_image(encoded(Image.fromarray(np.full((3, 3), 200, np.uint16)), "PNG"))
    assert image.max() == 1


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_16_bit_rgb_png():
    values = np.array([[(0, 128 * 257, 65535), (257, 514, 65278)]], ">u2")
    image = read_image(png(2, 1, 16, 2, b"\0" + values.tobytes()))
    np.testing.assert_array_equal(image, [[(0, 128, 255), (1, 2, 254)]])


def tiff(values, sample_format):
    """An uncompressed little-endian TIFF file of (H, W, C) values."""
    height, width, channels = values.shape
    bits = values.dtype.itemsize * 8
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels == 3 else 1),
        (273, 4, 1, 1000),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, values.nbytes),
        (339, 3, channels, sample_format),
    ]
    out, tail = struct.pack("<2sHIH", b"II", 42, 8, len(entries)), b""
    for tag, kind, count, value in entries:
        if count == 3:
            out += struct.pack("<HHII", tag, kind, count, 500 + len(tail))
            tail += struct.pack("<HHH", value, value, value)
        else:
            out += struct.pack(
                "<HHIHH" if kind == 3 else "<HHII", tag, kind, count, value, *[0] * (kind == 3)
            )
    out += struct.pack("<I", 0)
    return (out.ljust(500, b"\0") + tail).ljust(1000, b"\0") + values.tobytes()


def test_16_bit_rgb_tiff():
    values = np.array([[(0, 128 * 257, 65535), (257, 514, 65278)]], "<u2")
    np.testing.assert_array_equal(read_image(tiff(values, 1)), [[(0, 128, 255), (1, 2, 254)]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
        ([np.nan, 0.5, np.inf], [0, 128, 0]),
    ],
)
def test_float_tiff(values, expected):
    image = read_image(tiff(np.array([values], "<f4")[..., None], 3))
    np.testing.assert_array_equal(image, np.repeat(np.array([expected])[..., None], 3, axis=2))


def test_32_bit_tiff():
    image = read_image(tiff(np.array([[0, 257, 65535]], "<i4")[..., None], 2))
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 255])


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(file_format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(read_image(content), np.asarray(frames[0]))


def test_arrays(picture):
    assert read_image(picture) is picture
    grey = picture[..., 1]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(grey), expected)
    np.testing.assert_array_equal(read_image(grey[..., None]), expected)
    np.testing.assert_array_equal(read_image(picture.astype(np.uint16) * 257), picture)
    clear = np.dstack([picture, np.zeros_like(grey)])
    assert np.all(read_image(clear) == 255)
    assert read_image(picture[:, ::-1]).flags.c_contiguous


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0)])
def test_arrays_without_pixels(shape):
    with pytest.raises(UnreadableImageError, match=r"^array: has no pixels"):
        read_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((5, 5, 2), np.uint8), r"\(5, 5, 2\) uint8; an image is \(H, W, 3\) RGB"),
        (np.zeros((5, 5, 3)), r"float64: scale it to 0…255 and convert it with astype\('uint8'\)"),
        (np.zeros((2, 5, 5, 3), np.uint8), "give the images of a batch to estimate_many"),
        (np.zeros((3, 5, 7), np.uint8), r"channels come first, transpose\(1, 2, 0\)"),
        (np.zeros((1, 5, 7), np.float32), r"channels come first"),
        (np.zeros(5, np.uint8), r"\(5,\) uint8"),
        (np.zeros((5, 5, 3), bool), "bool; an image is"),
        (np.array(["photo.jpg"]), "<U9; an image is"),
    ],
)
def test_arrays_of_another_layout(array, hint):
    with pytest.raises(InputError, match=f"^this is an array .*{hint}"):
        read_image(array)


class Tensor:
    shape = (3, 8, 8)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (None, "this is a NoneType; an image is a path"),
        ([np.zeros((5, 5, 3), np.uint8)], "this is a list: give the images of a list to estimate_many"),
        (3.5, "this is a float"),
        ({}, "this is a dict"),
        (Tensor(), r"Tensor of shape \(3, 8, 8\): give its pixels as a NumPy array; an image is"),
        (io.StringIO("text"), "StringIO; an image is"),
    ],
)
def test_objects_that_are_no_image(thing, message):
    with pytest.raises(InputError, match=message):
        read_image(thing)


def test_everything_that_holds_bytes_or_names_a_path(picture, tmp_path):
    content = encoded(Image.fromarray(picture), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content)

    class Named:
        def __fspath__(self):
            return str(path)

    for source in (bytearray(content), memoryview(content), Named()):
        np.testing.assert_array_equal(read_image(source), picture)


def test_bgr_arrays(picture):
    np.testing.assert_array_equal(read_image(picture[:, :, ::-1], channels="bgr"), picture)
    assert read_image(picture[:, :, ::-1], channels="bgr").flags.c_contiguous
    grey = picture[..., 0]
    np.testing.assert_array_equal(read_image(grey, channels="bgr"), read_image(grey))
    content = encoded(Image.fromarray(picture), "PNG")
    np.testing.assert_array_equal(read_image(content, channels="bgr"), picture)  # a file states its order
    with pytest.raises(InputError, match="'rgb' or 'bgr', not 'gbr'"):
        check_channels("gbr")


def test_a_name_with_a_zero_byte():
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        read_image("a\0b.jpg")


def test_a_pillow_image_without_pixels():
    with pytest.raises(UnreadableImageError, match=r"has no pixels \(0 x 5\)"):
        read_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    "content", [b"", b"x", b"hello, this is text", bytes(5000), b"\xff\xd8\xff", b"\x89PNG\r\n"]
)
def test_what_is_no_image(content, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert caught.value.reason == "is empty" if not content else "is" in caught.value.reason
    with pytest.raises(UnreadableImageError):
        read_image(content)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.8])
def test_truncated_files(file_format, kept):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(UnreadableImageError, match=r"^image: is "):
        read_image(content[: int(kept * len(content))])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_files_raise_nothing_but_our_errors(picture, file_format):
    content = encoded(Image.fromarray(picture), file_format)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        where = random.integers(0, min(len(damaged), 400), 12)
        damaged[where] = random.integers(0, 256, 12)
        try:
            image = read_image(damaged.tobytes(), max_pixels=10**6)
            assert image.dtype == np.uint8
        except (UnreadableImageError, ImageTooLargeError):
            refused += 1
    assert refused > 0


def test_other_formats_are_refused(picture):
    with pytest.raises(UnreadableImageError, match="JPEG, PNG, WebP, BMP, TIFF, GIF"):
        read_image(encoded(Image.fromarray(picture), "EPS"))


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(30_000, 30_000, 1, 0, b""))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        ImageTooLargeError, match=r"bomb.png: has 30000 x 30000 pixels; the limit is 178956970"
    ):
        read_image(bomb)


def test_the_limit_is_the_callers(picture):
    content = encoded(Image.fromarray(picture), "PNG")
    assert read_image(content, max_pixels=24 * 32).shape == (24, 32, 3)
    for source in (content, picture, Image.fromarray(picture)):
        with pytest.raises(ImageTooLargeError):
            read_image(source, max_pixels=24 * 32 - 1)


def test_pillows_own_limit_is_left_alone_and_does_not_bind(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(encoded(Image.fromarray(picture), "PNG")).shape == (24, 32, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(UnreadableImageError):
        read_image(b"nothing")
    assert Image.MAX_IMAGE_PIXELS == 10
    assert MAX_PIXELS > 100_000_000


def test_paths_that_cannot_be_opened(tmp_path, monkeypatch):
    dangling = tmp_path / "dangling.jpg"
    dangling.symlink_to(tmp_path / "nowhere.jpg")
    for path, reason in (
        (tmp_path, "is a folder, not an image"),
        (tmp_path / "missing.jpg", "no such file"),
        (dangling, "is a symbolic link to a file that is missing"),
        (tmp_path / ("n" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        assert str(caught.value) == f"{path}: {reason}"


def test_files_and_folders_without_permission(open_folder, unprivileged, picture):
    open_, secret, locked = (open_folder / name for name in ("open.png", "secret.png", "locked"))
    for path in (open_, secret):
        path.write_bytes(encoded(Image.fromarray(picture), "PNG"))
    open_.chmod(0o644)
    secret.chmod(0)
    locked.mkdir(mode=0)
    with unprivileged():
        np.testing.assert_array_equal(read_image(open_), picture)
        with pytest.raises(UnreadableImageError, match=r"secret\.png: no permission to read it"):
            read_image(secret)
        with pytest.raises(InputError, match="locked: cannot list the folder: Permission denied"):
            list(find_images([locked]))
    locked.rmdir()


def test_a_png_without_pixels():
    for width, height in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(UnreadableImageError):
            read_image(png(width, height, 8, 2, b""))


def test_a_refused_file(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UnreadableImageError, match=r"secret\.png: no permission to read it"):
        read_image("secret.png")


def test_a_pipe(picture):
    content = encoded(Image.fromarray(picture), "PNG")
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as out:
        out.write(content)
    with os.fdopen(reader, "rb") as handle:
        np.testing.assert_array_equal(read_image(handle), picture)


# --- files that are readable with care


def photo_like(width=160, height=120):
    """A smooth picture with some noise, so that its JPEG has data in every block."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x, y, x + y], axis=2) * (200 / (width + height))
    return np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read_with_a_remark(progressive, missing):
    content = encoded(Image.fromarray(photo_like()), "JPEG", quality=90, progressive=progressive)
    whole = load_image(content)
    assert whole.remarks == ()
    ended = load_image(content[:-missing])
    np.testing.assert_array_equal(ended.pixels, whole.pixels)
    assert ended.remarks == ("the file lacks its end; the last rows may be damaged",)


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_jpeg_that_lacks_more_than_its_end_is_damaged(kept):
    content = encoded(Image.fromarray(photo_like()), "JPEG", quality=90)
    with pytest.raises(UnreadableImageError, match="is damaged: image file is truncated"):
        load_image(content[: int(kept * len(content))])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_reduced_while_it_is_decoded(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(photo_like(400, 200)), "JPEG", quality=95, exif=exif)
    full = read_image(content)
    reduced = load_image(content, reduce_above=20_000)
    assert full.shape[:2] == reduced.full_size[::-1] == ((200, 400) if orientation == 1 else (400, 200))
    assert reduced.pixels.shape[:2] == tuple(side // 2 for side in full.shape[:2])
    halved = np.asarray(Image.fromarray(full).reduce(2)).astype(int)
    assert np.abs(halved - reduced.pixels).mean() < 3
    assert load_image(content, reduce_above=80_000).pixels.shape == full.shape
    png_of_it = encoded(Image.fromarray(full), "PNG")
    assert load_image(png_of_it, reduce_above=20_000).pixels.shape == full.shape


def linear_profile():
    """A matrix profile of sRGB's primaries with linear light, so that the conversion is easily told."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(int.from_bytes(profile[128:132], "big")):
        entry = 132 + 12 * number
        name, start = profile[entry : entry + 4], int.from_bytes(profile[entry + 4 : entry + 8], "big")
        size = int.from_bytes(profile[entry + 8 : entry + 12], "big")
        if name.endswith(b"TRC"):
            profile[start : start + 12] = b"curv" + bytes(8)  # no points: linear
        if name == b"desc":
            profile[start : start + size] = profile[start : start + size].replace(
                "sRGB".encode("utf-16-be"), "line".encode("utf-16-be")
            )
    return bytes(profile)


@pytest.mark.parametrize(("mode", "file_format"), [("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "TIFF")])
def test_colours_of_a_profile_become_srgb(mode, file_format):
    image = Image.new(mode, (3, 2), (55, 55, 55) if mode == "RGB" else (55, 55, 55, 255))
    read = read_image(encoded(image, file_format, icc_profile=linear_profile()))
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(read - expected).max() <= 1.5


def test_profiles_of_srgb_and_damaged_ones_change_nothing(picture):
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"damaged", linear_profile()[:300]):
        content = encoded(Image.fromarray(picture), "PNG", icc_profile=profile)
        np.testing.assert_array_equal(read_image(content), picture)
    grey = encoded(Image.fromarray(picture[..., 0]), "PNG", icc_profile=linear_profile())
    np.testing.assert_array_equal(read_image(grey)[..., 0], picture[..., 0])


def test_avif(picture):
    if not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    image = read_image(encoded(Image.fromarray(picture), "AVIF", quality=95))
    assert np.abs(image.astype(int) - picture).mean() < 4


def test_avif_without_its_decoder(picture, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(
        UnreadableImageError, match="is an AVIF image, which this build of Pillow does not read"
    ):
        read_image(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf")


def test_heic(picture):
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs the extra heic")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture).resize((128, 96))).save(buffer, quality=95)
    image = read_image(buffer.getvalue())
    assert np.abs(image.astype(int) - np.asarray(Image.fromarray(picture).resize((128, 96)))).mean() < 8


def test_heic_without_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImageError, match=r"is a HEIC image; .*pip install '\.\[heic\]'"):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


@pytest.mark.parametrize(
    ("address", "way"),
    [
        ("https://example.org/a.jpg", "curl -s ADDRESS"),
        ("HTTP://example.org", "curl -s ADDRESS"),
        ("data:image/png;base64," + "A" * 90_000, "pipe what follows its comma through base64 -d"),
    ],
)
def test_addresses_are_refused_with_a_way(address, way):
    with pytest.raises(UnreadableImageError) as raised:
        read_image(address)
    assert str(raised.value).endswith(f"{way} | agelens predict -")
    assert len(str(raised.value)) < 200


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no device that never ends")
@pytest.mark.timeout(20)
def test_a_device_is_refused():
    with pytest.raises(UnreadableImageError, match="/dev/zero: is a device, not an image"):
        read_image("/dev/zero")


def test_signalling_nans_are_black_without_a_warning() -> None:
    bits = np.full((8, 8), 0x7F800001, np.uint32)
    bits[0] = np.float32(0.5).view(np.uint32)
    content = encoded(Image.fromarray(bits.view(np.float32)), "TIFF")
    with warnings.catch_warnings(action="error"):
        image = read_image(content)
    assert image[0].min() == image[0].max() == 128
    assert image[1:].max() == 0
