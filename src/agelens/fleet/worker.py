"""A worker of a fleet: one model, photos to entries, entries to a file of Parquet."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from agelens.errors import ImageError, OutputError
from agelens.faces.image import Source
from agelens.files import write_atomically
from agelens.fleet.photos import is_address, open_photo, opened_system
from agelens.inference.estimator import AgeEstimator
from agelens.inference.face import Photo
from agelens.inference.parquet import RowsFormat, write_rows
from agelens.inference.tally import Tally

__all__ = ["FleetWorker", "failed_entry", "write_partition"]


class FleetWorker:
    """Estimates photos; an actor of Ray.

    Args:
        estimator: The pickled estimator, whose model it opens.
        options: ``crops`` and ``aligned`` of `AgeEstimator.estimate_many`.
        form: Format of the rows.
    """

    def __init__(self, estimator: bytes, options: dict[str, bool], form: RowsFormat) -> None:
        opened: AgeEstimator = pickle.loads(estimator)  # made by our own driver
        self._estimate = partial(opened.estimate_many, crops=options["crops"], aligned=options["aligned"])
        self._form = form

    def partition(self, names: Sequence[str], file: str) -> dict[str, int]:
        """Estimate photos and write their partition; its counts.

        Raises:
            OutputError: It cannot be written.
        """
        return write_partition(self.entries(names), file)

    def ready(self) -> bool:
        """Answer, once the model is open."""
        return True

    def write(self, entries: Sequence[str], file: str) -> dict[str, int]:
        """Write the entries of a partition; its counts.

        Raises:
            OutputError: It cannot be written.
        """
        return write_partition(entries, file)

    def entries(self, names: Sequence[str]) -> list[str]:
        """Estimate photos: an entry of rows for each, in order."""
        failed: dict[int, ImageError] = {}

        def sources() -> Iterator[Source]:
            for number, name in enumerate(names):
                try:
                    opened = open_photo(name)
                except ImageError as error:
                    failed[number] = error
                else:
                    yield opened

        answers = iter(list(self._estimate(sources())))
        found = []
        for number, name in enumerate(names):
            error = failed.get(number)
            photo = Photo(name, (), error) if error is not None else replace(next(answers), source=name)
            found.append(self._form.entry(photo))
        return found


def failed_entry(name: str, why: str, form: RowsFormat) -> str:
    """The entry of a photo that no worker could read."""
    return form.entry(Photo(name, (), ImageError(name, why)))


def write_partition(entries: Sequence[str], file: str) -> dict[str, int]:
    """Write the entries of a partition whole or not at all; its counts, as those of a `Tally`.

    Args:
        entries: Of its photos, in order.
        file: A path, or an address of fsspec.
    Raises:
        OutputError: It cannot be written.
    """
    content = io.BytesIO()
    write_rows(entries, content)
    if is_address(file):
        try:
            system, path = opened_system(file)
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, content.getvalue())
        except Exception as error:  # of any file system
            raise OutputError(file, f"cannot write: {error or type(error).__name__}") from error
    else:
        with write_atomically(file) as temporary:
            temporary.write_bytes(content.getvalue())
    return _counts(entries)


def _counts(entries: Sequence[str]) -> dict[str, int]:
    counts: Counter[str] = Counter(dict.fromkeys(vars(Tally()), 0))
    for entry in entries:
        rows = json.loads(entry)
        counts["photos"] += 1
        faces = sum(row["face"] is not None for row in rows)
        counts["faces"] += faces
        if not faces:
            counts["without_face" if rows[0]["error"].startswith("no face") else "failed"] += 1
    return dict(counts)
