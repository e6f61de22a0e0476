"""Predictions of long folders: a journal that survives a kill, from which the file is written at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from agelens.errors import InputError, OutputError
from agelens.inference.entries import Entry
from agelens.inference.tally import Tally
from agelens.inference.writers import PredictionFormat
from agelens.reading import parse_json

__all__ = ["PredictionJournal", "write_entries"]


class PredictionJournal:
    """A file beside the output: a line of settings, then a line a photo, each written at once.

    Args:
        out: The output; the journal is ``<out>.partial``.
        settings: What a resumed run must agree with.
    Raises:
        InputError: A journal of other settings is there.
        OutputError: It cannot be written.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.path = out.with_name(out.name + ".partial")
        self._settings = settings
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            whole, self.done = self._read()
            self._handle = open(self.path, "r+b" if whole else "wb")  # noqa: SIM115  closed by `close`
            self._handle.truncate(whole)  # a killed run may leave half a line
            self._handle.seek(whole)
            if not whole:
                self._write(settings)
        except OSError as error:
            raise OutputError(self.path, f"cannot write: {error.strerror or error}") from error

    def _read(self) -> tuple[int, set[str]]:
        """The length in bytes of the whole lines, and the names of their photos."""
        done: set[str] = set()
        if not self.path.exists():
            return 0, done
        whole = 0
        with open(self.path, "rb") as handle:
            for number, line in enumerate(handle):
                record = _record(line)
                if record is None:
                    break
                if number == 0 and record != self._settings:
                    raise InputError(
                        f"{self.path} is of a run with other settings; remove it, or give another --out"
                    )
                if number:
                    if not _is_entry(record):
                        break
                    done.add(record["path"])
                whole += len(line)
        return whole, done

    def add(self, entry: Entry) -> None:
        """Record a photo; it is on its way to the disk when this returns."""
        try:
            self._write({"path": entry.name, "entry": entry.text, "counts": vars(entry.tally)})
        except OSError as error:
            raise OutputError(self.path, f"cannot write: {error.strerror or error}") from error
        self.done.add(entry.name)

    def _write(self, record: dict[str, Any]) -> None:
        self._handle.write(json.dumps(record).encode("ascii") + b"\n")
        self._handle.flush()

    def entries(self, names: list[str]) -> Iterator[Entry]:
        """Read the entries of these photos, in the order of the journal."""
        wanted = set(names)
        with open(self.path, "rb") as handle:
            next(handle)
            for line in handle:
                record = _record(line)
                if record is not None and record["path"] in wanted:
                    yield Entry(record["path"], record["entry"], Tally(**record["counts"]))

    def close(self, *, remove: bool) -> None:
        """Close the journal; remove it once the output is whole."""
        self._handle.close()
        if remove:
            self.path.unlink(missing_ok=True)


def _record(line: bytes) -> dict[str, Any] | None:
    """A whole line's record."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_entry(record: dict[str, Any]) -> bool:
    """Whether a record is one of :meth:`PredictionJournal.add`."""
    counts = record.get("counts")
    return (
        isinstance(record.get("path"), str)
        and isinstance(record.get("entry"), str)
        and isinstance(counts, dict)
        and counts.keys() == vars(Tally()).keys()
        and all(type(count) is int for count in counts.values())
    )


def write_entries(entries: Iterator[str], form: PredictionFormat, out: TextIO) -> None:
    """Write head, entries and tail, each entry as it comes."""
    out.write(form.head)
    for number, entry in enumerate(entries):
        out.write((form.separator if number else "") + entry)
        out.flush()
    out.write(form.tail)
