"""A run over the folds of a protocol: its record, its figures, its pooled predictions.

::

    RUN/
      folds.json             protocol, digest, recipe: what a resumed run must agree with
      predictions.csv        every test image once, by the network that never saw it
      distributions.npz      its calibrated distributions, where the network has any
      folds.csv              a row a fold: who was held out, images, MAE
      pooled.json            the pooled MAE and the mean of the folds
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agelens.data.prediction_columns import PREDICTIONS_NAME
from agelens.data.predictions import Predictions, write_predictions
from agelens.data.protocol_split import apply_protocol
from agelens.data.protocols import load_protocol
from agelens.errors import RunError, SplitError
from agelens.files import write_atomically
from agelens.reading import read_json, reason

__all__ = [
    "FOLDS_NAME",
    "POOLED_NAME",
    "RECORD_NAME",
    "FoldResult",
    "FoldsResult",
    "PooledRun",
    "pooled_run",
    "read_record",
    "rows_tested",
    "write_record",
    "write_results",
]

RECORD_NAME = "folds.json"
"""The record of a run over folds."""

FOLDS_NAME = "folds.csv"
"""The table of the folds' results."""

POOLED_NAME = "pooled.json"
"""The results over all folds."""


@dataclass(frozen=True)
class FoldResult:
    """One fold's result.

    Attributes:
        fold: ``fold-01`` …
        held_out: The people or images that test, in words.
        images: Number of test images.
        mae: On them, years.
        stage: The stage that its validation selected.
        validation_mae: Of that stage, years.
    """

    fold: str
    held_out: str
    images: int
    mae: float
    stage: str
    validation_mae: float


@dataclass(frozen=True)
class FoldsResult:
    """All folds' result.

    Attributes:
        path: The folder of the run.
        protocol: Name of the protocol.
        digest: Of its folds.
        folds: In order.
        images: Number of test images, all folds.
        pooled_mae: Over all test images, years: every image counts the same.
        mean_of_folds: Mean of the folds' MAE, years: every fold (person) counts the same.
        deviation_of_folds: Sample deviation of the folds' MAE; None for one fold.
    """

    path: Path
    protocol: str
    digest: str
    folds: tuple[FoldResult, ...]
    images: int
    pooled_mae: float
    mean_of_folds: float
    deviation_of_folds: float | None

    def line(self) -> str:
        """The results, each by its name."""
        pooled = f"{self.protocol}: MAE {self.pooled_mae:.3f} pooled over {self.images:,} images"
        if self.deviation_of_folds is None:
            return f"{pooled} of one fold"
        return (
            f"{pooled}; {self.mean_of_folds:.3f} as the mean of {len(self.folds)} folds "
            f"(deviation {self.deviation_of_folds:.3f})"
        )


@dataclass(frozen=True)
class PooledRun:
    """A finished run over the folds of a protocol.

    Attributes:
        predictions: Its pooled predictions.
        protocol: Name of the protocol.
        digest: Digest of its folds.
    """

    predictions: Path
    protocol: str
    digest: str


def write_record(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Write ``folds.json``.

    Args:
        folder: The folder of the run.
        facts: JSON values; ``protocol`` (its fields) and ``digest`` among them.
    Raises:
        OutputError: The file cannot be written.
    """
    with write_atomically(Path(folder) / RECORD_NAME) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """Read ``folds.json``; None if the folder has none.

    Raises:
        RunError: It cannot be read.
    """
    path = Path(folder) / RECORD_NAME
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(path, f"cannot be read: {reason(error)}") from error
    if not isinstance(facts, dict):
        raise RunError(path, "cannot be read: it holds no record of a run")
    return facts


def write_results(result: FoldsResult, predictions: Predictions) -> None:
    """Write what was measured over all folds: predictions, ``folds.csv``, ``pooled.json``.

    Args:
        result: The figures.
        predictions: Of every test image, in the order of the manifest.
    Raises:
        OutputError: A file cannot be written.
    """
    write_predictions(predictions, result.path / PREDICTIONS_NAME)
    with write_atomically(result.path / FOLDS_NAME) as temporary:
        pd.DataFrame([asdict(fold) for fold in result.folds]).to_csv(temporary, index=False)
    pooled = {
        "protocol": result.protocol,
        "digest": result.digest,
        "images": result.images,
        "folds": len(result.folds),
        "pooled MAE": result.pooled_mae,
        "mean of folds MAE": result.mean_of_folds,
        "deviation of folds MAE": result.deviation_of_folds,
    }
    with write_atomically(result.path / POOLED_NAME) as temporary:
        temporary.write_text(json.dumps(pooled, indent=2) + "\n", encoding="utf-8")


def pooled_run(folder: str | Path) -> PooledRun | None:
    """Open a run over folds; None if the folder is none.

    Raises:
        RunError: Its record is damaged, or its folds are not all trained and pooled yet.
    """
    facts = read_record(folder)
    if facts is None:
        return None
    try:
        pooled = PooledRun(Path(folder) / PREDICTIONS_NAME, facts["protocol"]["name"], facts["digest"])
    except (KeyError, TypeError) as error:
        raise RunError(Path(folder) / RECORD_NAME, f"is damaged: {error}") from error
    if not pooled.predictions.is_file():
        raise RunError(
            folder, f"its folds are not pooled yet (no {PREDICTIONS_NAME}); train it with --resume"
        )
    return pooled


def rows_tested(manifest: pd.DataFrame, protocol: str, digest: str | None = None) -> tuple[pd.DataFrame, str]:
    """Take the rows of a manifest that a protocol tests, in any fold, and the digest of the folds.

    Args:
        manifest: Checked manifest.
        protocol: Name of a protocol.
        digest: What the digest must be.
    Returns:
        The rows, and the digest.
    Raises:
        InputError: No such protocol.
        SplitError: The protocol cannot be applied to the manifest, or gives other folds than expected.
    """
    split = apply_protocol(manifest, load_protocol(protocol))
    if digest is not None and split.digest != digest:
        raise SplitError(
            f"{manifest.attrs.get('path', 'the manifest')}: {protocol} gives other folds here"
            f" ({split.digest[:12]}…) than the run was trained on ({digest[:12]}…)"
        )
    tested = np.any([fold.sides == "test" for fold in split.folds], axis=0)
    rows = manifest[tested].reset_index(drop=True)
    rows.attrs = dict(manifest.attrs)
    return rows, split.digest
