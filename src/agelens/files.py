"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from agelens.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_leftover", "refuse_to_overwrite", "write_atomically"]

_OPENED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_LEFTOVER = re.compile(r"\..+\.(partial|[0-9a-f]{8})(\.[^.]*)?")


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block ends well.

    The temporary file keeps the suffix of ``path`` (writers that look at it work) and is flushed to
    disk before the rename. On any error it is removed and ``path`` stays as it was. A process that is killed
    leaves it; the next one that writes ``path`` takes it over, so nothing of it stays.

    Args:
        path: Where the finished file goes. Its folder is made if it is missing.
    Yields:
        The temporary path to write to.
    Raises:
        OutputError: The disk is full, the folder cannot be written, ``path`` is no regular file (a folder,
            a device), or the rename failed.
    """
    target = Path(path)
    claim, whole = _Claim(target), False
    try:
        try:
            if target.exists() and not target.is_file():  # refused now, and never a device renamed away
                raise OutputError(target, "cannot write: it is there and is no regular file")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise OutputError(target, f"cannot write: {error.filename} is no folder") from error
            except OSError as error:
                raise OutputError(target, f"cannot write: {error.strerror or error}") from error
            claim.take()
            yield claim.path
            with open(claim.path, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(claim.path, target)
            whole = True
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename not in {
                str(claim.path),
                str(target),
                str(target.parent),
            }:
                raise  # a missing *input* of the caller is not about our output
            raise OutputError(target, f"cannot write: {error.strerror or error}") from error
    finally:
        claim.end(remove=not whole)


def refuse_to_overwrite(out: str | Path, inputs: Iterable[object]) -> None:
    """Refuse a file to be written that is one of the files to be read, under whatever name.

    Args:
        out: Where something will be written.
        inputs: What is read; whatever is no name of a file is passed over.
    Raises:
        OutputError: ``out`` is one of them.
    """
    try:
        there = os.stat(out)
    except (OSError, ValueError):  # nothing to lose
        return
    for name in inputs:
        if isinstance(name, str | Path):
            with contextlib.suppress(OSError, ValueError):
                if os.path.samestat(there, os.stat(name)):
                    raise OutputError(Path(out), "is what this command reads: write to another file")


def is_leftover(path: Path) -> bool:
    """Tell whether a file was left by a killed :func:`write_atomically`; a later one takes it over."""
    return _LEFTOVER.fullmatch(path.name) is not None


class _Claim:
    """The temporary file of a target.

    Every writer of a target tries one name, locked while it is written: without the lock it is a killed
    process's, and is taken over. Where another one holds it, or nothing can be locked, the name is our own.
    What is done is noted at once, so that an interrupt between any two steps leaves nothing behind.

    Attributes:
        path: The file's name.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")
        self._shared = target.with_name(f".{target.stem}.partial{target.suffix}")
        self._held: int | None = None

    def take(self) -> None:
        """Make the shared name ours, if it can be had; `path` tells."""
        if fcntl is None:
            return
        # What fails: another user's file, a link; or what the writer will meet and tell.
        with contextlib.suppress(OSError):
            self._held = os.open(self._shared, os.O_RDWR | os.O_CREAT | _OPENED, 0o666)
            if _lock(self._held, self._shared):
                os.ftruncate(self._held, 0)
                self.path = self._shared
                return
        self._close()

    def end(self, *, remove: bool) -> None:
        """Give up the claim, and remove the file unless it has its name."""
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        self._close()
        if remove and fcntl is not None and self.path != self._shared:
            with contextlib.suppress(OSError):  # made, and interrupted before it was ours: nobody holds it
                self._held = os.open(self._shared, os.O_RDWR | _OPENED)
                if _lock(self._held, self._shared):
                    self._shared.unlink()
            self._close()

    def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def _lock(held: int, path: Path) -> bool:
    """Lock an open file without waiting; whether it is ours and still has this name.

    Raises:
        OSError: Another process has the lock, the name is gone, or there are no locks here.
    """
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mine, there = os.fstat(held), os.stat(path, follow_symlinks=False)
    ours = mine.st_uid == os.geteuid() and mine.st_nlink == 1
    return ours and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
