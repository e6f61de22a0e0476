"""Reading files of a user, none of which may hang, exhaust the memory or end in a traceback.

Only regular files are read: a device need not end, and a pipe waits for a writer. (Images are read from pipes
too, which must have a writer soon.) Each kind has a largest size, and settings a greatest depth, checked
before a parser sees them. What is refused is an ``OSError`` or a ``ValueError`` whose text names the limit;
the caller adds the path, in an error of its own.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import stat
import time
import tomllib
from pathlib import Path
from typing import Any, BinaryIO, TextIO

__all__ = [
    "IMAGE_BYTES",
    "JSON_BYTES",
    "NETWORK_BYTES",
    "SETTINGS_BYTES",
    "TABLE_BYTES",
    "open_at_once",
    "open_regular",
    "open_table",
    "parse_json",
    "parse_toml",
    "read_at_most",
    "read_bytes",
    "read_json",
    "read_pipe",
    "read_text",
    "read_toml",
    "reason",
]

IMAGE_BYTES = 2**30
"""Largest image file that is read whole."""

TABLE_BYTES = 2**30
"""Largest table, or list of lines."""

_PART = 2**20
_PATIENCE = 5.0  # seconds that a pipe may have no writer

JSON_BYTES = 2**24
"""Largest JSON file."""

NETWORK_BYTES = 2**36
"""Largest file of a network's weights or of a checkpoint, which is mapped."""

SETTINGS_BYTES = 2**18
"""Largest recipe, suite or token file."""

_DEEPEST = 16  # levels of a recipe's arrays and tables, and parts of a dotted key
_STRINGS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}|' + r"'''(?:[^']|'(?!''))*+'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*+"|' + r"'[^'\n]*+'|#[^\n]*+",
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?<![\w\"-])(?:[\w\"-]++[ \t]*+\.[ \t]*+){{{_DEEPEST},}}+")


def open_regular(path: str | Path, most: int) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: The file; a link is followed.
        most: Largest size in bytes.
    Raises:
        OSError: It is missing, no regular file, larger than ``most``, or may not be read.
    """
    _check(os.stat(path), path, most)
    handle = open_at_once(path)  # a pipe put there since then is refused like any other
    try:
        _check(os.fstat(handle.fileno()), path, most)
    except BaseException:
        handle.close()
        raise
    return handle


def open_at_once(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of any kind for reading, without waiting for the writer of a pipe.

    Raises:
        OSError: It is missing, or may not be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return open(path, "rb", opener=lambda name, _: os.open(name, flags))


def open_table(path: str | Path, *, encoding: str = "utf-8-sig", errors: str = "surrogateescape") -> TextIO:
    """Open a regular file as text with its line ends, as readers of CSV want it.

    Raises:
        OSError: As :func:`open_regular`, with ``TABLE_BYTES``.
    """
    return io.TextIOWrapper(open_regular(path, TABLE_BYTES), encoding=encoding, errors=errors, newline="")


def read_bytes(path: str | Path, most: int) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises:
        OSError: As :func:`open_regular`.
    """
    with open_regular(path, most) as handle:
        content = read_at_most(handle, most + 1)
    if len(content) > most:  # it grew
        raise _too_large(len(content), path, most)
    return content


def read_at_most(stream: BinaryIO, most: int) -> bytes:
    """Read a stream to its end, or ``most`` bytes of it, with no more memory than what there is needs."""
    parts: list[bytes] = []
    left = most
    while left and (part := stream.read(min(left, _PART))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_pipe(handle: BinaryIO, most: int, *, patience: float = _PATIENCE) -> bytes:
    """Read a pipe, opened by :func:`open_at_once`, to its end or to more than ``most`` bytes.

    Args:
        handle: The pipe.
        most: Bytes after which reading ends.
        patience: Seconds in which somebody must write to the pipe. Whoever does may take any time.
    Raises:
        OSError: Nobody did.
    """
    parts: list[bytes] = []
    size, written, until = 0, False, time.monotonic() + patience
    while size <= most:
        try:
            part = os.read(handle.fileno(), _PART)
        except BlockingIOError:  # there is a writer, who has written nothing yet
            written = True
            select.select([handle], [], [])
            continue
        if part:
            parts.append(part)
            size += len(part)
        elif parts or written:
            break
        elif time.monotonic() >= until:
            raise OSError(errno.EPIPE, f"is a pipe, and nobody wrote to it within {patience:g} seconds")
        else:
            time.sleep(0.01)
    return b"".join(parts)


def read_text(
    path: str | Path, most: int = SETTINGS_BYTES, *, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """Read a regular file of at most ``most`` bytes as text, each line ended by a line feed.

    Raises:
        OSError: As :func:`open_regular`.
        UnicodeDecodeError: It is no text of this encoding.
    """
    text = read_bytes(path, most).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, most: int = JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: As :func:`open_regular`.
        ValueError: It is no JSON, or nested too deep.
    """
    return parse_json(read_bytes(path, most))


def parse_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is none, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of at most ``SETTINGS_BYTES``.

    Raises:
        OSError: As :func:`open_regular`.
        ValueError: It is no TOML, or nested too deep.
    """
    return parse_toml(read_text(path))


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML whose depth is bounded.

    Raises:
        ValueError: It is none; tables and arrays are nested, or keys dotted, more than 16 deep; a number has
            more digits than Python reads.
    """
    bare = _STRINGS.sub('""', text)
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST or _LONG_KEY.search(bare):
        raise ValueError(f"nested more than {_DEEPEST} deep")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def reason(error: Exception) -> str:
    """Word the reason that a file was not read, without its path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _check(facts: os.stat_result, path: str | Path, most: int) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    if facts.st_size > most:
        raise _too_large(facts.st_size, path, most)


def _too_large(size: int, path: str | Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"has {size} bytes; at most {most} are read", str(path))
