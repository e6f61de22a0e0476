"""Errors that a user can meet, as one tree.

::

    AgelensError
    ├── InputError               an option or argument that cannot be used
    │   └── PluginError            a part of another package that is missing or cannot be used
    ├── ImageError               path, reason
    │   ├── UnreadableImageError   truncated, empty, not an image, no permission
    │   └── ImageTooLargeError     more pixels than the limit; refused before decoding
    ├── NoFaceError              path; a face was required and none was found
    ├── VideoError               path, reason; a clip or camera that cannot be used
    ├── ManifestError            path, row, column, value
    ├── SplitError               a split that is missing, leaking or not the frozen one
    ├── RecipeError              path, key, value
    ├── RunError                 a run folder that cannot be used
    │   └── CheckpointError        one checkpoint file of it
    ├── ModelFileError           path, reason; not one of our model files, or a damaged one
    │   └── NewerModelError        written by a newer agelens
    ├── PredictionsError         path, row, column, value
    ├── PublishedResultsError    path, row, column, value
    ├── MissingExtraError        package, extra
    ├── ServiceError             url, reason, status; a service refused, failed or cannot be reached
    └── OutputError              path, reason; nothing was written, an older file is intact

Programming mistakes (shapes that disagree) stay ``ValueError`` and ``TypeError``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "AgelensError",
    "CheckpointError",
    "ImageError",
    "ImageTooLargeError",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "ModelFileError",
    "NewerModelError",
    "NoFaceError",
    "OutputError",
    "PluginError",
    "PredictionsError",
    "PublishedResultsError",
    "RecipeError",
    "RunError",
    "ServiceError",
    "SplitError",
    "UnreadableImageError",
    "VideoError",
]


class AgelensError(Exception):
    """Base of every error that agelens raises on purpose.

    Every one can be pickled and copied, whatever its constructor takes, so that process pools deliver it as
    it was raised. As with all exceptions of Python, its cause and traceback stay behind.
    """

    def __reduce__(self) -> tuple[Callable[..., AgelensError], tuple[Any, ...]]:
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(kind: type[AgelensError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> AgelensError:
    """Rebuild a pickled error without its constructor, which composed the message from the fields."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    return error


class InputError(AgelensError):
    """An option or argument cannot be used; the message names it and its value."""


class _PathError(AgelensError):
    """An error about one file: ``path: reason``."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ImageError(_PathError):
    """An image cannot be used."""


class UnreadableImageError(ImageError):
    """The bytes are not an image that can be decoded."""


class ImageTooLargeError(ImageError):
    """The header declares more pixels than the limit; nothing was decoded."""


class NoFaceError(_PathError):
    """A face was required and none was detected."""


class VideoError(_PathError):
    """A clip or a camera cannot be used: missing, empty, without pictures, without a codec for them."""


class _TableError(AgelensError):
    """An error at one place of a table: path, row (1 = first data row), column, value."""

    def __init__(
        self,
        path: str | Path,
        reason: str,
        *,
        row: int | None = None,
        column: str | None = None,
        value: object = None,
    ) -> None:
        self.path = str(path)
        self.reason = reason
        self.row = row
        self.column = column
        self.value = value
        where = f"{path}"
        if row is not None:
            where += f", row {row}"
        if column is not None:
            where += f", column {column!r}"
        shown = "" if value is None else f" (value: {value!r})"
        super().__init__(f"{where}: {reason}{shown}")


class ManifestError(_TableError):
    """A manifest breaks the contract."""


class PredictionsError(_TableError):
    """A predictions file breaks the contract."""


class SplitError(AgelensError):
    """A split is missing, leaks, or differs from its frozen digest."""


class PublishedResultsError(_TableError):
    """A table of published results breaks the contract."""


class RecipeError(AgelensError):
    """A recipe has an unknown key or a value that cannot be used."""

    def __init__(self, path: str | Path, key: str, reason: str, value: object = None) -> None:
        self.path = str(path)
        self.key = key
        self.value = value
        shown = "" if value is None else f" (value: {value!r})"
        super().__init__(f"{path}, [{key}]: {reason}{shown}")


class PluginError(InputError):
    """A method, objective, backbone, data set or detector is missing, or its package cannot be used."""


class RunError(_PathError):
    """A run folder cannot be used."""


class CheckpointError(RunError):
    """A checkpoint is missing, damaged or belongs to another network."""


class ModelFileError(_PathError):
    """Not one of our model files, or a damaged one."""


class NewerModelError(ModelFileError):
    """The model file was written in a format newer than this agelens reads."""


class MissingExtraError(AgelensError):
    """An optional package is not installed; the message has the command that installs it from a clone."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"this needs {package}: in a clone of agelens, pip install '.[{extra}]'")


class ServiceError(AgelensError):
    """A service refused a call, failed, or cannot be reached."""

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        self.url = url
        self.reason = reason
        self.status = status
        super().__init__(f"{url}: {reason}" + (f" (HTTP {status})" if status is not None else ""))


class OutputError(_PathError):
    """Writing failed; nothing was written and an older file is intact."""
