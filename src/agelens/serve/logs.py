"""Structured logs: one JSON object a line, never anything of an image."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["JsonLines", "Throttle", "json_logs", "log_to"]

_LIBRARIES = logging.getLogger("agelens.serve.libraries")
_LINE = 200  # characters of a library's message that are logged


class JsonLines(logging.Formatter):
    """Formats a record as JSON: time, level, event, its ``fields``, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Throttle:
    """Lets a few events through and counts the others, so that a flood of them cannot fill a disk.

    Args:
        most: Events that pass in each period.
        seconds: Length of a period.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._end, self._passed, self._held = 0.0, 0, 0

    def admit(self) -> int | None:
        """Count an event.

        Returns:
            None if it is held back, else how many were held back since the last one that passed.
        """
        now = time.monotonic()
        if now >= self._end:
            self._end, self._passed = now + self._seconds, 0
        if self._passed >= self._most:
            self._held += 1
            return None
        self._passed += 1
        held, self._held = self._held, 0
        return held


def log_to(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Send the service's and the server's logs to a stream, and all other warnings of the process."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name in ("agelens.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level if name.startswith("agelens") else max(level, logging.WARNING))
        logger.propagate = False
    logging.captureWarnings(True)
    logging.getLogger().handlers = [handler]
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would quote bytes of bodies


@contextlib.contextmanager
def json_logs(level: int = logging.INFO) -> Iterator[None]:
    """Log to stderr, and log what else is written there: some libraries write past Python.

    Meanwhile descriptor 2 is a pipe. A few lines a second of what comes out of it are logged, each cut short;
    the others are counted. Afterwards stderr is as before.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    reader = threading.Thread(target=_log_lines, args=(reading,), name="agelens-stderr", daemon=True)
    try:
        with os.fdopen(os.dup(stderr), "w", encoding="utf-8", errors="backslashreplace") as stream:
            log_to(stream, level)
            reader.start()
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)  # which ends the pipe
                reader.join()
                log_to(sys.stderr, level)
    finally:
        os.close(stderr)


def _log_lines(reading: int) -> None:
    throttle = Throttle(10, 1.0)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            text = "".join(letter for letter in line[:_LINE] if letter.isprintable()).strip()
            if text and (held := throttle.admit()) is not None:
                fields = {"source": "stderr"} | ({"held_back": held} if held else {})
                _LIBRARIES.warning("%s", text, extra={"fields": fields})
