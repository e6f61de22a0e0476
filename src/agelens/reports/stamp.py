"""The stamp of a report: what was measured, on what, with what."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd

from agelens import __version__
from agelens.data.label_meaning import label_meaning
from agelens.data.protocols import load_protocol
from agelens.data.splits import split_digest
from agelens.evaluation.evaluate import Evaluation

__all__ = ["Stamp", "make_stamp"]


@dataclass(frozen=True)
class Stamp:
    """Facts that every report states: what was measured, on what, with what.

    Attributes:
        entries: Name to value, in order.
    """

    entries: Mapping[str, str]


def make_stamp(
    evaluation: Evaluation,
    manifest: pd.DataFrame,
    *,
    labels: str | None = None,
) -> Stamp:
    """Collect protocol and split, label semantics, model digest and software.

    Args:
        evaluation: What was measured.
        manifest: The manifest it was measured on, whole.
        labels: One of `LABELS`; by default what the protocol's data set has, if there is a protocol that
            says so.
    Returns:
        The stamp.
    Raises:
        InputError: ``labels`` is none of `LABELS`, or there is no such protocol.
    """
    protocol, images = evaluation.protocol, evaluation.image_kind
    known = None if protocol is None else load_protocol(protocol)
    meaning = known.labels if labels is None and known is not None else labels
    selection = "" if known is None else known.selection
    split = "all rows" if evaluation.split is None else f"split {evaluation.split} of the manifest"
    digest = evaluation.protocol_digest
    model = evaluation.digest or "not known"
    if Path(evaluation.predictions.source).is_file():
        model = f"not known; sha256 of the predictions: {model}"
    if not digest:
        columns = {"digest", "split"} <= set(manifest.columns) and (manifest["digest"] != "").all()
        digest = split_digest(manifest) if columns else "none: the manifest lacks split or digest"
    people = "" if evaluation.people == evaluation.images else f" of {evaluation.people:,} people"
    drawn = "images" if not people else "people"
    entries = {
        "System": evaluation.system,
        "Model digest": model,
        "Data": "/".join(Path(evaluation.manifest).parts[-2:]) or "not named",
        "Protocol": "; ".join(filter(None, [protocol or split, selection])),
        "Split digest": digest,
        "Labels": label_meaning(meaning),
        "Images": f"{evaluation.images:,}{people}" + (f", {images}" if images else ""),
        "Intervals": (
            f"{evaluation.level:.0%} bootstrap intervals, {evaluation.replicates:,} draws of {drawn}, "
            f"seed {evaluation.seed}"
        ),
        "Software": (
            f"agelens {__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
            f"onnxruntime {onnxruntime.__version__}"
        ),
    }
    return Stamp(entries)
