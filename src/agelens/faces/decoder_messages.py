"""Messages of decoders about damaged files: Pillow warns and logs, libtiff writes to stderr.

The caller learns of damage from the error or the remarks; these messages name no file and would stand between
the lines of a command.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import warnings
from collections.abc import Iterator
from importlib import import_module

__all__ = ["quiet_pillow", "silence_libtiff"]

_lock = threading.Lock()
_inside = 0
_changed = contextlib.ExitStack()


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore what Pillow and its plug-ins warn of and log in the block.

    Filters and loggers belong to the process, and blocks of several threads overlap: the first that begins
    changes them, the last that ends restores them.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _changed.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
            logger = logging.getLogger("PIL")
            _changed.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _changed.close()


@functools.cache
def silence_libtiff() -> None:
    """Let the libtiff of Pillow keep its errors to itself, where it can be asked to: not on Windows."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(import_module("PIL._imaging").__file__)
        library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
        library.TIFFSetErrorHandler.restype = ctypes.c_void_p
        library.TIFFSetErrorHandler(None)
