"""Systems that give ages: a model, a run, a run over folds, any table of predictions.

:func:`open_system` decides which of them a text is; each answers for the images of a manifest::

    with open_system("runs/mine") as system:
        answers = system.answer(read_manifest("crops/manifest.csv"), split="test")
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, Self

import pandas as pd

from agelens.calibration import Calibration
from agelens.data.pooled import RECORD_NAME, PooledRun, pooled_run
from agelens.data.predictions import Predictions, read_predictions
from agelens.errors import InputError, MissingExtraError
from agelens.evaluation.predict import predict_manifest, refuse_other_crops, refuse_photos, selected_rows
from agelens.faces.crops import ImageKind
from agelens.inference.estimator import AgeEstimator
from agelens.inference.shipped_models import model_path

__all__ = ["Answers", "System", "SystemKind", "folds_of", "open_system", "over_seeds", "split_name"]

SystemKind = Literal["model", "run", "folds", "predictions"]
"""A model file or shipped model, a run, a run over the folds of a protocol, a table of predictions."""

_RUN_NAME = "run.json"


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions of a system for the images of a manifest, and what comparing it takes.

    Attributes:
        name: Unique among the systems compared.
        kind: ``model``, ``run`` or ``predictions`` (those of a run over folds, too).
        source: Where it comes from, for the report.
        predictions: For the images.
        model: Its model file, which is timed and weighed; None where there is none.
        calibration: The model's, for its intervals.
        digest: Digest of the model's weights; empty where there is no model.
        repeats: The same system trained from other seeds, see :func:`over_seeds`; its cost is that of the
            first.
    """

    name: str
    kind: str
    source: str
    predictions: Predictions
    model: Path | None = None
    calibration: Calibration | None = None
    digest: str = ""
    repeats: tuple[Answers, ...] = ()

    @property
    def seeds(self) -> tuple[Answers, ...]:
        """All its trainings, one for most systems."""
        return (replace(self, repeats=()), *self.repeats)


class System(ABC):
    """A system that gives ages. Close it, or use it in a ``with`` statement.

    Attributes:
        kind: Which of `SystemKind`.
        source: As it was given.
        name: Of the system; by default that of its file or folder.
    """

    kind: SystemKind

    def __init__(self, source: str, name: str | None = None) -> None:
        self.source = source
        self.name = name or _file_name(source)

    @abstractmethod
    def answer(
        self,
        manifest: pd.DataFrame,
        *,
        split: str | None = None,
        images: ImageKind | str = ImageKind.ALIGNED,
        threshold: float = 18,
        threads: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> Answers:
        """Give predictions for the images of a manifest.

        Args:
            manifest: Checked manifest.
            split: Only these rows; None for all. A table of predictions is given whole.
            images: Content of the images: ``aligned``, ``chips`` or ``photos``; of no use to a table.
            threshold: Years of the column ``p_at_least``.
            threads: Threads of the network.
            progress: Called with the number of images done so far, and of all.
        Returns:
            The predictions, under the system's name.
        Raises:
            InputError: An argument cannot be used, the manifest has no row of this split, or its crops are of
                another geometry than the model's.
            ModelFileError: The model file cannot be used.
            PredictionsError: The table cannot be read or breaks the contract.
            RunError: The run cannot be used.
            MissingExtraError: A run, without torch.
        """

    def model_file(self) -> Path | None:
        """Give the model file, which a run is exported to; None where there is none."""
        return None

    def close(self) -> None:  # noqa: B027 - most systems hold nothing
        """Remove temporary files."""

    def __enter__(self) -> Self:
        """Return the system itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


class _Model(System):
    kind: SystemKind = "model"

    def model_file(self) -> Path | None:
        return model_path(self.source)

    def answer(
        self,
        manifest: pd.DataFrame,
        *,
        split: str | None = None,
        images: ImageKind | str = ImageKind.ALIGNED,
        threshold: float = 18,
        threads: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> Answers:
        path = self.model_file()
        estimator = AgeEstimator(path, threads=threads)
        refuse_other_crops(selected_rows(manifest, split), images, estimator.geometry)
        predictions = predict_manifest(
            estimator, manifest, split=split, images=images, threshold=threshold, progress=progress
        )
        refuse_photos(predictions, manifest, images)
        card = estimator.card
        return Answers(self.name, self.kind, self.source, predictions, path, card.calibration, card.digest)


class _Run(_Model):
    """A run: judged by the model file of its best stage, which would be shipped, down to its rounding."""

    kind: SystemKind = "run"

    def __init__(self, source: str, name: str | None = None) -> None:
        super().__init__(source, name)
        self._folder: TemporaryDirectory[str] | None = None

    def model_file(self) -> Path | None:
        if self._folder is None:
            try:
                from agelens.export.from_run import export_run
            except ModuleNotFoundError as error:
                raise MissingExtraError(error.name or "torch", "train") from error
            folder = TemporaryDirectory()
            try:
                export_run(self.source, Path(folder.name) / "model.onnx")
            except BaseException:
                folder.cleanup()
                raise
            self._folder = folder
        return Path(self._folder.name) / "model.onnx"

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class _Predictions(System):
    kind: SystemKind = "predictions"

    def answer(
        self,
        manifest: pd.DataFrame,
        *,
        split: str | None = None,
        images: ImageKind | str = ImageKind.ALIGNED,
        threshold: float = 18,
        threads: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> Answers:
        table = self.table()
        return Answers(self.name, "predictions", str(table), read_predictions(table))

    def table(self) -> str | Path:
        return self.source


class _Folds(_Predictions):
    kind: SystemKind = "folds"

    def __init__(self, source: str, name: str | None, run: PooledRun) -> None:
        super().__init__(source, name)
        self.run = run

    def table(self) -> str | Path:
        return self.run.predictions


def open_system(text: str | Path, name: str | None = None) -> System:
    """Open a system.

    Args:
        text: Folder of a run or of a run over folds; a table of predictions (``.csv``); else a model file or
            the name of a shipped model.
        name: Of the system; by default that of its file or folder.
    Returns:
        The system; close it.
    Raises:
        InputError: A folder that is neither.
        RunError: The record of a run over folds is damaged, or its folds are not pooled yet.
    """
    source, path = str(text), Path(text)
    folds = pooled_run(path)
    if folds is not None:
        return _Folds(source, name, folds)
    if (path / _RUN_NAME).is_file():
        return _Run(source, name)
    if path.is_dir():
        raise InputError(f"{source}: a folder without {_RUN_NAME} or {RECORD_NAME} is no run")
    return (_Predictions if source.lower().endswith(".csv") else _Model)(source, name)


def folds_of(system: System) -> PooledRun | None:
    """Give the protocol and the digest of a run over folds; None for any other system."""
    return system.run if isinstance(system, _Folds) else None


def split_name(text: str) -> tuple[str, str, bool]:
    """Split ``NAME=SYSTEM``; a system without a name is called by its file or folder.

    >>> split_name("mine=runs/a"), split_name("runs/a/predictions.csv")
    (('mine', 'runs/a', True), ('a', 'runs/a/predictions.csv', False))

    Returns:
        Name, system, and whether the name was given.
    Raises:
        InputError: One of the two is empty.
    """
    name, equals, source = text.partition("=")
    if equals and not Path(text).exists() and "/" not in name:
        if not name or not source:
            raise InputError(f"{text!r}: NAME=SYSTEM needs both")
        return name, source, True
    return _file_name(text), text, False


def _file_name(source: str) -> str:
    path = Path(source)
    if path.suffix.lower() == ".csv" and path.stem == "predictions":
        return path.absolute().parent.name
    return path.stem if path.suffix.lower() in (".csv", ".onnx") else path.absolute().name


def over_seeds(systems: Sequence[Answers]) -> Answers:
    """Combine several trainings of one system: its scores are means over them.

    Its intervals are those of the mean on other images, for these trainings: the effect of the seed is in the
    MAE of each, reported beside it.

    Args:
        systems: One or more of one name and kind.
    Raises:
        InputError: None, other names or kinds, or one of them twice.
    """
    if not systems:
        raise InputError("a system needs one training or more")
    first, *others = systems
    if names := {system.name for system in others} - {first.name}:
        raise InputError(f"{first.name!r} and {min(names)!r} are two systems, not seeds of one")
    if kinds := {system.kind for system in others} - {first.kind}:
        raise InputError(f"{first.name!r} is a {first.kind} and a {min(kinds)}: seeds are of one kind")
    for key in ("source", "digest"):
        values = [getattr(system, key) for system in systems]
        if twice := {value for value in values if value and values.count(value) > 1}:
            raise InputError(f"{first.name!r}: {key} {min(twice)} is there twice, seeds differ")
    return replace(first, repeats=tuple(others))
