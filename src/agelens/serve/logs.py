"""Structured logs: one JSON object a line, never anything of an image."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["JsonLines", "log_to"]


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
