"""Image reading: a path, bytes, a stream, a Pillow image or an array becomes (H, W, 3) uint8 RGB."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from agelens.errors import (
    AgelensError,
    ImageError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    UnreadableImageError,
)
from agelens.faces.addresses import address_refusal, shortened
from agelens.faces.decoder_messages import quiet_pillow, silence_libtiff
from agelens.faces.decoding_cost import cost, refusal
from agelens.faces.pixels import rgb_pixels
from agelens.faces.png_rows import lacks_rows
from agelens.reading import IMAGE_BYTES, open_at_once, read_at_most, read_pipe, reason

__all__ = [
    "MAX_PIXELS",
    "Channels",
    "LoadedImage",
    "Source",
    "check_channels",
    "check_sources",
    "decoding_cost",
    "load_image",
    "read_image",
]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]
"""An image in any form that `read_image` takes."""

Channels = Literal["rgb", "bgr"]
"""Order of the colours of an array: RGB, or BGR as OpenCV has them."""

MAX_PIXELS = 178_956_970
"""Larger images are refused unless the caller says otherwise: half a gigabyte of RGB."""

# Pillow reads more, but each further decoder is one more way in (EPS starts a PostScript interpreter).
# The common ones come first: Pillow imports all its decoders once it looks for a rarer one.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

_LOST_WITH_END = 0.02  # share of the pixels that a JPEG may lack with its end
_REDUCED_ABOVE = 50_000_000  # pixels of a JPEG that is halved, or more, while it is decoded

_ORIENTATION = 0x0112

_LAYOUT = "(H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey, uint8 or uint16"
_FORMS = f"a path, the bytes of a file, a binary stream, a Pillow image, or a NumPy array {_LAYOUT}"

_opening = threading.Lock()


def check_channels(channels: str) -> Channels:
    """Check an order of colours.

    Raises:
        InputError: Neither ``rgb`` nor ``bgr``.
    """
    if channels == "rgb":
        return "rgb"
    if channels == "bgr":
        return "bgr"
    raise InputError(f"channels are 'rgb' or 'bgr', not {channels!r}")


class LoadedImage(NamedTuple):
    """An image and what reading it changed.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; may be read-only.
        full_size: ``(width, height)`` of the upright image in its file; larger than ``pixels`` where a large
            JPEG was reduced while it was decoded.
        remarks: Sentences on defects of the file that did not prevent reading it.
    """

    pixels: NDArray[np.uint8]
    full_size: tuple[int, int]
    remarks: tuple[str, ...] = ()


def read_image(
    source: Source, *, max_pixels: int = MAX_PIXELS, channels: Channels = "rgb"
) -> NDArray[np.uint8]:
    """Read an image at its full size, upright and as 8-bit RGB: the pixels of `load_image`.

    Args:
        source: As in `load_image`.
        max_pixels: As in `load_image`.
        channels: As in `load_image`.
    Returns:
        (H, W, 3) uint8 RGB; may be read-only.
    Raises:
        ImageTooLargeError: More than ``max_pixels``.
        UnreadableImageError: Missing, no permission, a folder, empty, truncated, not an image, or no pixels.
        InputError: An object that is no image, or an array of another layout; the message has the wanted one.
    """
    return load_image(source, max_pixels=max_pixels, channels=channels, reduce_above=max_pixels).pixels


def load_image(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    channels: Channels = "rgb",
    reduce_above: int = _REDUCED_ABOVE,
) -> LoadedImage:
    """Read an image, upright and as 8-bit RGB.

    JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF (if Pillow was built with it) and HEIC (with pillow-heif). The EXIF
    orientation is obeyed. Of an animation the first frame is taken. Transparency is laid on white. 16-bit
    values are divided by 257. Float and 32-bit grey values are taken for 0…1, 0…255 or 0…65535, whichever is
    the first (floats) that holds them all, else stretched from their minimum to their maximum. Colours of an
    embedded profile are converted to sRGB. A JPEG that lacks only its end is read, with a remark.

    Args:
        source: A path, the bytes of a file (also bytearray, memoryview), a binary stream, a Pillow image, or
            an array: (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), uint8 or uint16, grey, RGB or RGBA.
        max_pixels: Largest width times height; checked on the header, before anything is decoded.
        channels: Order of the colours of an array; other images state theirs.
        reduce_above: A JPEG of more pixels is reduced by JPEG's own scaling, to a half, a quarter or an
            eighth of its sides.
    Returns:
        The image, its full size, and remarks.
    Raises:
        ImageTooLargeError: More than ``max_pixels``.
        UnreadableImageError: Missing, no permission, a folder, empty, truncated, not an image, or no pixels.
        InputError: An object that is no image, or an array of another layout; the message has the wanted one.
    """
    with quiet_pillow():
        return _load(source, max_pixels, channels, reduce_above)


def check_sources(sources: Iterable[Source]) -> Iterable[Source]:
    """Check that several images are no single one, and return them.

    Raises:
        InputError: One image, or no iterable; with its type.
    """
    iterable = hasattr(sources, "__iter__") or hasattr(sources, "__getitem__")
    if isinstance(sources, str | bytes | bytearray | memoryview) or not iterable:
        one = type(sources).__qualname__
        raise InputError(f"estimate_many takes a list or another iterable of images, not one {one}")
    return sources


def decoding_cost(content: bytes) -> float:
    """Estimate from its header what decoding an image would cost: see `agelens.faces.decoding_cost.cost`.

    Returns:
        Millions of pixels of a plain JPEG; 0 if it cannot be opened.
    """
    try:
        handle = io.BytesIO(content)
        with quiet_pillow(), _opened(handle, "image", _formats(content[:64], "image")) as picture:
            return cost(picture, handle)
    except ImageError:
        return 0.0


def _load(source: Source, max_pixels: int, channels: Channels, reduce_above: int) -> LoadedImage:
    if isinstance(source, np.ndarray):
        array = _from_array(source, max_pixels)
        return _loaded(array if channels == "rgb" else np.ascontiguousarray(array[:, :, ::-1]))
    if isinstance(source, Image.Image):
        return _loaded(_decoded(source, "image", max_pixels))
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            with open_at_once(name) as handle:
                mode = os.fstat(handle.fileno()).st_mode
                if stat.S_ISCHR(mode):  # /dev/zero never ends
                    raise UnreadableImageError(name, "is a device, not an image")
                if stat.S_ISFIFO(mode):
                    content = io.BytesIO(read_pipe(handle, IMAGE_BYTES))
                    return _from_stream(content, name, max_pixels, reduce_above)
                return _from_stream(handle, name, max_pixels, reduce_above)
        except (OSError, ValueError) as error:
            shown = name if address_refusal(name) is None else shortened(name)
            raise UnreadableImageError(shown, _reason(name, error)) from error
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(bytes(source))  # of a memoryview with strides too
    if not callable(getattr(source, "read", None)) or isinstance(source, io.TextIOBase):
        raise InputError(f"{_form(source)}; an image is {_FORMS}")
    return _from_stream(source, "image", max_pixels, reduce_above)


def _loaded(pixels: NDArray[np.uint8]) -> LoadedImage:
    return LoadedImage(pixels, (pixels.shape[1], pixels.shape[0]))


def _form(thing: object) -> str:
    """Type, and shape where there is one, of something that is no image, with the way to make it one."""
    kind = type(thing)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    shape = getattr(thing, "shape", None)
    shown = f"this is a {name}" + ("" if shape is None else f" of shape {tuple(shape)}")
    if isinstance(thing, list | tuple):
        return f"{shown}: give the images of a list to estimate_many"
    return f"{shown}: give its pixels as a NumPy array" if shape is not None else shown


def _reason(name: str, error: OSError | ValueError) -> str:
    """Reason that a path cannot be opened."""
    if isinstance(error, ValueError):  # a name with a zero byte
        return f"cannot be read: {error}"
    if (refused := address_refusal(name)) is not None:
        return refused
    if isinstance(error, IsADirectoryError):
        return "is a folder, not an image"
    if isinstance(error, FileNotFoundError) and os.path.islink(name):
        return "is a symbolic link to a file that is missing"
    return {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}.get(
        type(error), f"cannot be read: {error.strerror or error}"
    )


def _from_stream(stream: BinaryIO, name: str, max_pixels: int, reduce_above: int) -> LoadedImage:
    try:
        handle = _seekable(stream, name)
        head = handle.read(64)
        handle.seek(0)
    except AgelensError:
        raise
    except Exception as error:  # a closed file, or a stream of others that fails in a way of its own
        raise UnreadableImageError(
            name, f"cannot be read: {reason(error) or type(error).__name__}"
        ) from error
    if not head:
        raise UnreadableImageError(name, "is empty")
    with _opened(handle, name, _formats(head, name)) as picture:
        full_size = picture.size
        _check_size(*full_size, name, max_pixels)
        if (too_costly := refusal(picture, handle)) is not None:
            raise UnreadableImageError(name, too_costly)
        _reduce(picture, reduce_above)
        remarks: tuple[str, ...] = ()
        try:
            pixels = _decoded(picture, name, max_pixels)
            if lacks_rows(picture, handle):
                raise UnreadableImageError(name, "is damaged: its data end before its last row")
        except UnreadableImageError:
            if picture.format != "JPEG" or (ended := _with_end(handle, full_size)) is None:
                raise
            pixels, remarks = ended, ("the file lacks its end; the last rows may be damaged",)
        turned = _orientation(picture) > 4
    return LoadedImage(pixels, full_size[::-1] if turned else full_size, remarks)


def _seekable(stream: BinaryIO, name: str) -> BinaryIO:
    """A stream at its start that can be rewound: this one, or its content."""
    seekable = getattr(stream, "seekable", None)
    if seekable is not None and seekable() and stream.tell() == 0:
        return stream
    first: object = stream.read(64)
    if not isinstance(first, bytes):
        raise InputError(f"{_form(stream)} that reads {type(first).__name__}; an image is {_FORMS}")
    content = first + read_at_most(stream, IMAGE_BYTES + 1 - len(first))  # a pipe need not end
    if len(content) > IMAGE_BYTES:
        raise UnreadableImageError(name, f"has more than {IMAGE_BYTES} bytes")
    return io.BytesIO(content)


def _opened(handle: BinaryIO, name: str, formats: tuple[str, ...]) -> Image.Image:
    """Open an image; nothing is decoded yet."""
    try:
        with _opening:  # Pillow's own limit is one global number; ours is checked below
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(handle, formats=formats)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError as error:
        unknown = "is not an image that can be read (JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC)"
        raise UnreadableImageError(name, unknown) from error
    except Exception as error:  # decoders meet damaged files with errors of every kind
        raise UnreadableImageError(name, f"is damaged: {error}") from error


def _formats(head: bytes, name: str) -> tuple[str, ...]:
    """Formats to try on a file that begins with ``head``: AVIF and HEIC state theirs (ISO 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return _FORMATS
    length = int.from_bytes(head[:4], "big")
    brands = {head[start : start + 4] for start in range(8, min(length, len(head)), 4)}
    if brands & _AVIF_BRANDS:
        if not features.check("avif"):
            raise UnreadableImageError(name, "is an AVIF image, which this build of Pillow does not read")
        return ("AVIF",)
    if brands & _HEIC_BRANDS:
        try:
            import pillow_heif
        except ImportError as error:
            hint = MissingExtraError("pillow-heif", "heic")
            raise UnreadableImageError(name, f"is a HEIC image; {hint}") from error
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    return _FORMATS


def _reduce(picture: Image.Image, above: int) -> None:
    """Let JPEG's own scaling halve a large picture until it has at most ``above`` pixels."""
    factor = 1
    while picture.width * picture.height > above * factor**2 and factor < 8:
        factor *= 2
    if factor > 1 and picture.format in {"JPEG", "MPO"}:
        picture.draft(picture.mode, (picture.width // factor, picture.height // factor))


def _with_end(handle: BinaryIO, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG that lacks no more than its end; None if it lacks more.

    An end is added, once bare and once after noise: what both decode alike was in the file.
    """
    handle.seek(0)
    content = handle.read()
    noise = bytes(range(1, 255)) * 16
    try:
        pictures = [
            rgb_pixels(picture, _orientation(picture))
            for end in (b"\xff\xd9", noise + b"\xff\xd9")
            for picture in [_opened(io.BytesIO(content + end), "image", ("JPEG",))]
            if picture.size == size
        ]
    except Exception:  # not readable with an end either
        return None
    if len(pictures) < 2:
        return None
    differing = np.any(pictures[0] != pictures[1], axis=2)
    return pictures[0] if differing.mean() <= _LOST_WITH_END else None


def _decoded(picture: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    _check_size(picture.width, picture.height, name, max_pixels)
    if picture.format == "TIFF":
        silence_libtiff()
    try:
        picture.load()
        return rgb_pixels(picture, _orientation(picture))
    except ImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError(name, "does not fit into memory") from error
    except Exception as error:  # decoders meet damaged files with errors of every kind
        raise UnreadableImageError(name, f"is damaged: {error}") from error


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UnreadableImageError(name, f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageTooLargeError(name, f"has {width} x {height} pixels; the limit is {max_pixels} in all")


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block need not cost us the image
        return 1
    return orientation if orientation in range(1, 9) else 1


def _from_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] in {1, 3, 4} else array.shape
    if len(shape) != 2 or array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"this is an array {array.shape} {array.dtype}{_hint(array)}; an image is {_LAYOUT}")
    _check_size(shape[1], shape[0], "array", max_pixels)
    if array.dtype == np.uint16:
        array = np.rint(array / 257)
    array = np.ascontiguousarray(array, dtype=np.uint8)
    if array.ndim == 3 and array.shape[2] == 3:
        return array
    return rgb_pixels(Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array))


def _hint(array: NDArray[Any]) -> str:
    """The way to make an image of an array of another layout."""
    if array.ndim == 4:
        return ": give the images of a batch to estimate_many"
    if array.ndim == 3 and array.shape[0] in {1, 3, 4} and array.shape[2] not in {1, 3, 4}:
        return ": its channels come first, transpose(1, 2, 0) brings them last"
    if array.dtype.kind == "f":
        return ": scale it to 0…255 and convert it with astype('uint8')"
    return ""
