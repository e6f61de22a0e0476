"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from agelens.errors import OutputError

__all__ = ["write_atomically"]


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block ends well.

    The temporary file keeps the suffix of ``path`` (writers that look at it work) and is flushed to
    disk before the rename. On any error it is removed and ``path`` stays as it was.

    Args:
        path: Where the finished file goes. Its folder is made if it is missing.
    Yields:
        The temporary path to write to.
    Raises:
        OutputError: The disk is full, the folder cannot be written, ``path`` is no regular file (a folder,
            a device), or the rename failed.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        try:
            if target.exists() and not target.is_file():  # told now, and never a device renamed away
                raise OutputError(target, "cannot write: it is there and is no regular file")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise OutputError(target, f"cannot write: {error.filename} is no folder") from error
            except OSError as error:
                raise OutputError(target, f"cannot write: {error.strerror or error}") from error
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, target)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename not in {
                str(temporary),
                str(target),
                str(target.parent),
            }:
                raise  # a missing *input* of the caller is not about our output
            raise OutputError(target, f"cannot write: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
