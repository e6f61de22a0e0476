"""Image files that paths, folders and patterns name, and the files that are passed over."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agelens.errors import InputError
from agelens.faces.addresses import address_refusal, shortened

__all__ = ["SUFFIXES", "PassedOver", "find_images"]

SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg"),
        *(".mpo", ".png", ".tif", ".tiff", ".webp"),
    }
)
"""Endings, in lower case, by which `find_images` knows an image in a folder."""

_NOT_REGULAR = "is no regular file"
_SYNOLOGY = "@eadir"  # thumbnails and metadata of a network drive


class PassedOver(NamedTuple):
    """A file or folder that `find_images` passed over.

    Attributes:
        path: The file, folder or pattern; the beginning of an address.
        reason: Why, to follow the path in a message.
        failed: Whether the user should expect images there: an unreadable or empty folder, for one.
    """

    path: Path | str
    reason: str
    failed: bool


def find_images(
    paths: Iterable[str | Path], passed_over: Callable[[PassedOver], None] | None = None
) -> Iterator[Path]:
    """Find the images that paths, folders and patterns name.

    A folder stands for the regular files in it and below it, in the order of their paths, known by their
    ending (`SUFFIXES`). Linked folders are followed, each folder once. Hidden files and folders and the
    thumbnails in ``@eaDir`` are left out. A path with ``*``, ``?`` or ``[`` that does not exist is a pattern
    (``**`` = any folders), whose matches follow in order: regular files, and folders. Any other path is
    passed on as it is, there or not: reading it will tell.

    Args:
        paths: Arguments of the user.
        passed_over: Called for every file of another ending, for what is no regular file, for folders that
            cannot be listed or have no images, for patterns that match nothing, and for addresses; without
            it, all but the first raise.
    Yields:
        Image files.
    Raises:
        InputError: Without ``passed_over``, what it would have been called for, but files of another ending.
    """

    def report(path: Path | str, reason: str, failed: bool) -> None:
        if passed_over is not None:
            passed_over(PassedOver(path, reason, failed))
        elif failed:
            raise InputError(f"{path}: {reason}")

    for path in paths:
        if os.path.isdir(path):
            yield from _images_in(Path(path), report)
        elif os.path.lexists(path):
            yield Path(path)
        elif (refused := address_refusal(str(path))) is not None:
            report(shortened(str(path)), refused, True)
        elif glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                report(path, "matches no file", True)
            for match in matches:
                mode = _mode(Path(match))
                if stat.S_ISREG(mode):
                    yield Path(match)
                elif not stat.S_ISDIR(mode):
                    report(match, _NOT_REGULAR, True)
                elif "**" not in str(path):  # which has found the files of every folder itself
                    yield from _images_in(Path(match), report)
        else:
            yield Path(path)


def _images_in(folder: Path, report: Callable[[Path | str, str, bool], None]) -> Iterator[Path]:
    found = failed = False
    for entry in _entries(folder, set()):
        if isinstance(entry, PassedOver):
            failed |= entry.failed
            report(*entry)
        else:
            found = True
            yield entry
    if not found and not failed:
        report(folder, f"no images in this folder ({', '.join(sorted(SUFFIXES))})", True)


def _entries(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path | PassedOver]:
    """The images of a folder, and what is passed over, in the order of their paths."""
    try:
        place = folder.stat()
        if (place.st_dev, place.st_ino) in entered:
            return  # a link back to a folder that was searched
        entered.add((place.st_dev, place.st_ino))
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield PassedOver(folder, f"cannot list the folder: {error.strerror}", True)
        return
    for name in names:
        if name.startswith(".") or name.lower() == _SYNOLOGY:
            continue
        path = folder / name
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            yield from _entries(path, entered)
        elif os.path.splitext(name)[1].lower() not in SUFFIXES:
            yield PassedOver(path, "is not known as an image by its ending", False)
        elif not stat.S_ISREG(mode):
            yield PassedOver(path, _NOT_REGULAR, True)
        else:
            yield path


def _mode(path: Path) -> int:
    """Kind of a file; regular if nobody can tell, as reading it will."""
    try:
        return path.stat().st_mode
    except OSError:  # a broken link, for one
        return stat.S_IFREG
