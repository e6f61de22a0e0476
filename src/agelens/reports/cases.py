"""Sections of a report on single images: failures, the largest errors, faces taken for another age."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens import metrics
from agelens.data.manifest import image_paths
from agelens.errors import ImageError
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.groups import people
from agelens.faces.image import read_image
from agelens.reports.blocks import Block, Gallery, Section, Table, Text

__all__ = ["WORST", "failures", "mistaken_for", "worst_cases"]

WORST = 24
"""Number of largest errors that are listed."""


_MISTAKEN, _BESIDE = 8, 5  # faces of the case study, others beside each


_SAME_AGE = 2  # years between those others' true age and the estimate, at most


_THUMBNAIL = 160  # pixels, the longer side


def failures(evaluation: Evaluation) -> Section:
    """Count the images without an estimate, by reason."""
    failed = evaluation.match.failed
    if not failed:
        return Section("Failures", (Text("Every image got an estimate."),))
    reasons: dict[str, int] = {}
    for _, reason in failed:
        reasons[reason] = reasons.get(reason, 0) + 1
    return Section(
        "Failures",
        (
            Table(
                "Images without an estimate, by reason",
                ("reason", "images"),
                tuple((reason, f"{count:,}") for reason, count in sorted(reasons.items())),
                note="Their names are in report.json and predictions.csv.",
            ),
        ),
    )


def worst_cases(evaluation: Evaluation, thumbnails: bool) -> Section:
    """List the largest errors, with their images if ``thumbnails``."""
    errors = metrics.absolute_errors(evaluation.estimates, evaluation.ages)
    order = np.argsort(-errors, kind="stable")[:WORST]
    names = evaluation.labels["path"].astype(str).to_numpy(dtype=object)
    ages, estimates = evaluation.ages, evaluation.estimates
    table = Table(
        f"The {len(order)} largest errors",
        ("image", "true age", "estimate", "error (years)"),
        tuple(
            (names[k], f"{ages[k]:g}", f"{estimates[k]:.1f}", f"{estimates[k] - ages[k]:+.1f}") for k in order
        ),
    )
    if not thumbnails:
        note = Text("Their images are not shown: faces are personal (--thumbnails shows them).")
        return Section("Worst cases", (table, note))
    pictures, unreadable = _pictures(
        evaluation,
        order,
        [f"{n}. aged {ages[k]:g}, estimated {estimates[k]:.1f}" for n, k in enumerate(order, start=1)],
    )
    blocks: list[Block] = [table, Gallery(pictures)]
    if unreadable:
        blocks.append(Text(f"{unreadable} of these images cannot be read.", warning=True))
    return Section("Worst cases", tuple(blocks))


def mistaken_for(evaluation: Evaluation) -> Section:
    """Show the worst cases, each beside others of the age it was taken for.

    The case study of Zhao et al. 2020, Appendix D: who is estimated wrong often looks like the age that was
    estimated (or the label is wrong); the reader judges. Beside stand faces whose true age and
    estimate are nearest to it.
    """
    ages, estimates = evaluation.ages, evaluation.estimates
    persons = people(evaluation.labels)
    order = np.argsort(-metrics.absolute_errors(estimates, ages), kind="stable")
    galleries: list[Block] = []
    for k in order[:_MISTAKEN]:
        off = np.abs(ages - estimates[k])
        likely = np.flatnonzero((off <= _SAME_AGE) & (persons != persons[k]))
        distance = off[likely] + np.abs(estimates[likely] - estimates[k])
        beside = likely[np.argsort(distance, kind="stable")[:_BESIDE]]
        shown = np.array([k, *beside])
        captions = [f"aged {ages[k]:g}, taken for {estimates[k]:.0f}", *(f"aged {ages[j]:g}" for j in beside)]
        pictures, _ = _pictures(evaluation, shown, captions)
        if pictures and pictures[0][1] == captions[0]:  # else the face itself cannot be read
            galleries.append(Gallery(pictures))
    note = Text(
        "Each row begins with a face whose estimate is wrong, followed by other faces of the estimated age "
        "whose estimates are right. If the first face looks like the others, its label may be wrong, or the "
        "person may look that age."
    )
    return Section("Mistaken for", (note, *galleries))


def _pictures(
    evaluation: Evaluation, which: NDArray[np.int64], captions: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Thumbnails of some images with their captions, and how many of them cannot be read."""
    rows = evaluation.labels.iloc[which]
    rows.attrs = dict(evaluation.labels.attrs)
    pictures = []
    for path, caption in zip(image_paths(rows), captions, strict=True):
        with contextlib.suppress(ImageError):
            pictures.append((_thumbnail(path), caption))
    return tuple(pictures), len(which) - len(pictures)


def _thumbnail(path: Path) -> str:
    """A small picture as a ``data:`` address."""
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
