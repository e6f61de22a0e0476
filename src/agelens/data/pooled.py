"""Predictions pooled over the folds of a protocol: every test image by a network that never saw it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from agelens.data.protocols import apply_protocol, load_protocol
from agelens.errors import RunError, SplitError

__all__ = ["PooledRun", "pooled_run", "rows_tested"]


@dataclass(frozen=True)
class PooledRun:
    """A run over the folds of a protocol.

    Attributes:
        predictions: Its pooled predictions.
        protocol: Name of the protocol.
        digest: Digest of its folds.
    """

    predictions: Path
    protocol: str
    digest: str


def pooled_run(folder: str | Path) -> PooledRun | None:
    """Open a run over folds; None if the folder is none.

    Raises:
        RunError: Its record is damaged, or its folds are not all trained and pooled yet.
    """
    record = Path(folder) / "folds.json"
    if not record.is_file():
        return None
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        found = PooledRun(record.parent / "predictions.csv", facts["protocol"]["name"], facts["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(record, f"is damaged: {error}") from error
    if not found.predictions.is_file():
        raise RunError(folder, "its folds are not pooled yet (no predictions.csv); train it with --resume")
    return found


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
