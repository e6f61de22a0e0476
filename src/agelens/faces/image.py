"""Image reading: a path, bytes, a stream, a Pillow image or an array becomes (H, W, 3) uint8 RGB."""

from __future__ import annotations

import glob
import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from agelens.errors import ImageError, ImageTooLargeError, InputError, UnreadableImageError
from agelens.faces.decoding_cost import refusal
from agelens.faces.pixels import rgb_pixels

__all__ = ["MAX_PIXELS", "SUFFIXES", "Channels", "Source", "check_channels", "find_images", "read_image"]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]
"""An image in any form that `read_image` takes."""

Channels = Literal["rgb", "bgr"]
"""Order of the colours of an array: RGB, or BGR as OpenCV has them."""

MAX_PIXELS = 178_956_970
"""Larger images are refused unless the caller says otherwise: half a gigabyte of RGB."""

SUFFIXES = frozenset(
    {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, by which `find_images` knows an image in a folder."""

# Pillow reads more, but each further decoder is one more way in (EPS starts a PostScript interpreter).
# The common ones come first: Pillow imports all its decoders once it looks for a rarer one.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF")

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


def read_image(
    source: Source, *, max_pixels: int = MAX_PIXELS, channels: Channels = "rgb"
) -> NDArray[np.uint8]:
    """Read an image, upright and as 8-bit RGB.

    JPEG, PNG, WebP, BMP, TIFF and GIF. The EXIF orientation is obeyed. Of an animation the first frame is
    taken. Transparency is laid on white. 16-bit values are divided by 257. Float and 32-bit grey values are
    taken for 0…1, 0…255 or 0…65535, whichever is the first (floats) that holds them all, else stretched from
    their minimum to their maximum. Colour profiles are not applied.

    Args:
        source: A path, the bytes of a file (also bytearray, memoryview), a binary stream, a Pillow image, or
            an array: (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), uint8 or uint16, grey, RGB or RGBA.
        max_pixels: Largest width times height; checked on the header, before anything is decoded.
        channels: Order of the colours of an array; other images state theirs.
    Returns:
        (H, W, 3) uint8 RGB; may be read-only.
    Raises:
        ImageTooLargeError: More than ``max_pixels``.
        UnreadableImageError: Missing, no permission, a folder, empty, truncated, not an image, or no pixels.
        InputError: An object that is no image, or an array of another layout; the message has the wanted one.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source, max_pixels)
        return image if channels == "rgb" else np.ascontiguousarray(image[:, :, ::-1])
    if isinstance(source, Image.Image):
        return _decoded(source, "image", max_pixels)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            with open(name, "rb") as handle:
                return _from_stream(handle, name, max_pixels)
        except (OSError, ValueError) as error:
            raise UnreadableImageError(name, _reason(Path(name), error)) from error
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    if not callable(getattr(source, "read", None)) or isinstance(source, io.TextIOBase):
        raise InputError(f"{_form(source)}; an image is {_FORMS}")
    return _from_stream(source, "image", max_pixels)


def _form(thing: object) -> str:
    """Type, and shape where there is one, of something that is no image, with the way to make it one."""
    kind = type(thing)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    shape = getattr(thing, "shape", None)
    shown = f"this is a {name}" + ("" if shape is None else f" of shape {tuple(shape)}")
    if isinstance(thing, list | tuple):
        return f"{shown}: give the images of a list to estimate_many"
    return f"{shown}: give its pixels as a NumPy array" if shape is not None else shown


def _reason(path: Path, error: OSError | ValueError) -> str:
    """Why a path cannot be opened."""
    if isinstance(error, ValueError):  # a name with a zero byte
        return f"cannot be read: {error}"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not an image"
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return "is a symbolic link to a file that is missing"
    return {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}.get(
        type(error), f"cannot be read: {error.strerror or error}"
    )


def _from_stream(stream: BinaryIO, name: str, max_pixels: int) -> NDArray[np.uint8]:
    seekable = getattr(stream, "seekable", None)
    if seekable is not None and seekable() and stream.tell() == 0:
        handle = stream
    else:
        content: object = stream.read()
        if not isinstance(content, bytes):
            raise InputError(f"{_form(stream)} that reads {type(content).__name__}; an image is {_FORMS}")
        handle = io.BytesIO(content)
    if not handle.read(1):
        raise UnreadableImageError(name, "is empty")
    try:
        # Pillow's own limit is one global number; ours is checked below. Its warnings are about details.
        with _opening, warnings.catch_warnings(action="ignore"):
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(handle, formats=_FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError as error:
        reason = "is not an image that can be read (JPEG, PNG, WebP, BMP, TIFF, GIF)"
        raise UnreadableImageError(name, reason) from error
    except Exception as error:  # decoders meet damaged files with errors of every kind
        raise UnreadableImageError(name, f"is damaged: {error}") from error
    with picture:
        _check_size(picture.width, picture.height, name, max_pixels)
        if (too_costly := refusal(picture, handle)) is not None:
            raise UnreadableImageError(name, too_costly)
        return _decoded(picture, name, max_pixels)


def _decoded(picture: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    _check_size(picture.width, picture.height, name, max_pixels)
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


def find_images(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Find the images that paths, folders and patterns name.

    A folder stands for the images in it and below it, in the order of their paths, known by their ending
    (`SUFFIXES`); hidden files are left out. A path with ``*``, ``?`` or ``[`` that does not exist is a
    pattern (``**`` = any folders), whose matches follow in order. Any other path is passed on as it is,
    there or not: reading it will tell.

    Args:
        paths: What the user named.
    Yields:
        Image files.
    Raises:
        InputError: A folder without images, one that cannot be listed, or a pattern that matches nothing.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from _images_in(Path(path))
        elif not os.path.lexists(path) and glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise InputError(f"{path}: matches no file")
            for match in matches:
                if not os.path.isdir(match):
                    yield Path(match)
                elif "**" not in str(path):  # which has found the files of every folder itself
                    yield from _images_in(Path(match))
        else:
            yield Path(path)


def _images_in(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot list the folder: {error.strerror}") from error

    found = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=stop)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
    )
    if not found:
        raise InputError(f"{folder}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
    yield from found
