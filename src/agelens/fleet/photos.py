"""The photos that a folder, a list, or an address of fsspec names, and the bytes of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agelens.errors import AgelensError, ImageError, InputError, MissingExtraError
from agelens.faces.image_files import SUFFIXES, find_images
from agelens.inference.parquet import read_paths
from agelens.reading import IMAGE_BYTES, TABLE_BYTES, read_text, reason

__all__ = ["is_address", "list_photos", "open_photo", "opened_system"]


def list_photos(source: str | Path | Iterable[str | Path]) -> list[str]:
    """Name the photos of a fleet's task, in order.

    Args:
        source: A folder; a list, which is a Parquet file with a column ``path`` or a text file (``.txt``,
            ``.list``) of a name a line; a photo; any of these as an address of fsspec
            (``s3://bucket/photos``); or names themselves. Relative names in a list begin at its folder.
    Returns:
        Paths and addresses; those of a list are not looked at.
    Raises:
        InputError: Nothing is there, or no photos.
        MissingExtraError: fsspec or pyarrow is missing.
    """
    if not isinstance(source, str | Path):
        names = [os.fspath(name) for name in source]
    elif is_address(str(source)):
        names = _at_address(str(source))
    elif Path(source).is_dir():
        names = [str(path) for path in find_images([source])]
    elif Path(source).suffix.lower() == ".parquet":
        names = _beside(read_paths(source), str(Path(source).parent))
    elif Path(source).suffix.lower() in (".txt", ".list"):
        try:
            text = read_text(source, TABLE_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source}: cannot be read: {reason(error)}") from error
        names = _beside(text.split("\n"), str(Path(source).parent))
    else:
        names = [str(path) for path in find_images([source])]
    if not names:
        raise InputError(f"{source}: names no photo")
    return names


def is_address(name: str) -> bool:
    """Whether a name is an address of fsspec and no path."""
    return "://" in name


def open_photo(name: str) -> str | bytes:
    """Give a photo as the estimator takes it: a path as it is, the bytes at an address.

    Raises:
        ImageError: The address cannot be read, or has too many bytes.
    """
    if not is_address(name):
        return name
    try:
        with _fsspec().open(name, "rb") as handle:
            content: bytes = handle.read(IMAGE_BYTES + 1)
    except AgelensError:
        raise
    except Exception as error:  # of any file system
        raise ImageError(name, f"cannot be read: {error or type(error).__name__}") from error
    if len(content) > IMAGE_BYTES:
        raise ImageError(name, f"has more than {IMAGE_BYTES} bytes")
    return content


def _beside(names: Iterable[str], folder: str) -> list[str]:
    """Names of a list, without empty lines; relative ones begin at the list's folder."""
    stripped = (name.strip("\r\n") for name in names)
    if is_address(folder):
        joined = (n if is_address(n) or n.startswith("/") else f"{folder}/{n}" for n in stripped if n.strip())
    else:
        joined = (n if is_address(n) else os.path.join(folder, n) for n in stripped if n.strip())
    return list(joined)


def _at_address(address: str) -> list[str]:
    fsspec = _fsspec()
    suffix = os.path.splitext(address)[1].lower()
    try:
        system, path = fsspec.core.url_to_fs(address)
        if suffix == ".parquet":
            with system.open(path, "rb") as handle:
                return _beside(read_paths(handle), address.rpartition("/")[0])
        if suffix in (".txt", ".list"):
            with system.open(path, "rb") as handle:
                text = handle.read(TABLE_BYTES).decode("utf-8")
            return _beside(text.splitlines(), address.rpartition("/")[0])
        if system.isfile(path):
            return [address]
        found = sorted(system.find(path))
    except AgelensError:
        raise
    except Exception as error:  # of any file system
        raise InputError(f"{address}: cannot be read: {error or type(error).__name__}") from error
    return [
        str(system.unstrip_protocol(name)) for name in found if os.path.splitext(name)[1].lower() in SUFFIXES
    ]


def opened_system(address: str) -> tuple[Any, str]:
    """The file system of fsspec behind an address, and the path in it."""
    system, path = _fsspec().core.url_to_fs(address)
    return system, str(path)


def _fsspec() -> Any:
    try:
        import fsspec.core
    except ModuleNotFoundError as error:
        raise MissingExtraError("fsspec", "fleet") from error
    return fsspec
