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
    temporary, held = _own_name(target), None
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
            temporary, held = _claim(target)
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
        if held is not None:
            os.close(held)


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


def _own_name(target: Path) -> Path:
    """A temporary name that no other writer has."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")


def _claim(target: Path) -> tuple[Path, int | None]:
    """Make the temporary file of ``target`` ours; its descriptor, closed by the caller, holds the claim.

    Every writer of ``target`` tries one name, locked while it is written: without the lock it is a killed
    process's, and is taken over. Where another one holds it, or nothing can be locked, the name is our own.

    Returns:
        Its path, and the descriptor; None where nothing was locked.
    """
    shared = target.with_name(f".{target.stem}.partial{target.suffix}")
    if fcntl is None:
        return _own_name(target), None
    try:
        held = os.open(shared, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:  # another user's, a link; or what the writer will meet, too, and tell
        return _own_name(target), None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine, there = os.fstat(held), os.stat(shared, follow_symlinks=False)
        ours = mine.st_uid == os.geteuid() and mine.st_nlink == 1
        if ours and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
            os.ftruncate(held, 0)
            return shared, held
    except OSError:  # locked by another process, renamed into place by it meanwhile, or no locks here
        pass
    os.close(held)
    return _own_name(target), None
