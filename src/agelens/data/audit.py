"""Audit of a data set, before anyone trains on it.

Everything wrong with an image, a label or a split is a finding in the report, never a traceback: only a
source that cannot be opened as a manifest or folder at all raises.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from agelens.data.adapt import read_dataset
from agelens.data.dataset import Finding
from agelens.data.datasets import data_set
from agelens.data.duplicates import (
    Fingerprints,
    Pairs,
    Progress,
    fingerprint_images,
    group_keys,
    near_identical_pairs,
)
from agelens.data.manifest import band_text, image_paths, inspect_manifest, is_band, label_bounds
from agelens.data.owner_files import images_below
from agelens.data.splits import labels_conflict
from agelens.errors import InputError, ManifestError

__all__ = ["KINDS", "SUSPICIOUS_AGE", "AuditReport", "audit"]

KINDS = {
    "missing-file": "the file is not there",
    "unreadable": "the file is no image that can be decoded",
    "malformed-name": "the data set's naming rule is broken",
    "too-few-images": "a person with fewer images than are needed to compare two",
    "missing-points": "an image without its file of points",
    "bad-points": "a damaged file of points",
    "bad-value": "a value outside the manifest's contract",
    "impossible-age": "missing, not a number, negative or above 130",
    "overlapping-bands": "two age bands of one set that share ages",
    "suspicious-age": "above 116, which one person in a thousand million reaches",
    "changed-file": "the file's bytes are not those the manifest was made from",
    "byte-identical": "the same file more than once",
    "near-identical": "the same photograph saved again, perhaps mirrored",
    "conflicting-ages": "one photograph with different ages",
    "image-on-two-sides": "one photograph in two of train, val, test",
    "subject-on-two-sides": "one person in two of train, val, test",
}
"""Every kind of finding, in the order of the report."""

SUSPICIOUS_AGE = 116.0
"""Years; the age of the oldest person in UTKFace."""


@dataclass(frozen=True)
class AuditReport:
    """Findings of an audit, and numbers of images.

    Attributes:
        source: The manifest or folder.
        images: How many images it names.
        findings: In the order of :data:`KINDS`, then of the rows.
        ages: Number of images by ten years (``0-9``, …), those of known age only.
        years: Number of images by completed year of age, the youngest first.
        bands: Number of images by age band (``20-29``, ``70+``), those whose label is a band.
        groups: For ``split``, ``gender`` and ``ethnicity`` where the source has them: number of images by
            value, ``""`` for none.
    """

    source: str
    images: int
    findings: list[Finding]
    ages: dict[str, int]
    years: dict[int, int]
    bands: dict[str, int]
    groups: dict[str, dict[str, int]]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by kind, of those that occur."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    def to_frame(self) -> pd.DataFrame:
        """The findings as a table.

        Returns:
            One row a finding: ``kind``, ``paths`` (joined by `` | ``), ``detail``.
        """
        rows = [(f.kind, " | ".join(f.paths), f.detail) for f in self.findings]
        return pd.DataFrame(rows, columns=["kind", "paths", "detail"], dtype=object)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values.

        Returns:
            The attributes and ``counts``.
        """
        return {**asdict(self), "counts": self.counts}


def audit(
    source: str | Path,
    *,
    dataset: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Audit a manifest or a folder of images.

    Every image is decoded once. A folder without ``dataset`` is searched with its sub-folders for images
    by suffix and has no labels.

    Args:
        source: A manifest (``.csv``, ``.parquet``) or a folder.
        dataset: The reader of a folder's labels: a name that :func:`~agelens.data.datasets.data_set` takes.
        workers: Threads that read; by default one a processor.
        progress: Called as ``progress(done, total)`` after each image.
    Returns:
        The report.
    Raises:
        ManifestError: The manifest cannot be read as a table, or lacks a required column or any row.
        InputError: No such source, no image in the folder, an unknown data set, or a data set named for a
            manifest.
        MissingExtraError: A Parquet file without pyarrow.
    """
    source = Path(source)
    table, findings = _open(source, dataset)
    fingerprints = fingerprint_images(image_paths(table), workers=workers, progress=progress)
    pairs = near_identical_pairs(fingerprints)
    findings += _file_findings(table, fingerprints)
    findings += _age_findings(table)
    findings += _band_findings(table)
    findings += _copy_findings(table, fingerprints, pairs)
    findings += _subject_findings(table)
    order = list(KINDS)
    years = Counter(int(age // 1) for age in table["age"].dropna())
    ages: Counter[int] = Counter()
    for year, count in years.items():
        ages[year // 10] += count
    return AuditReport(
        source=str(source),
        images=len(table),
        findings=sorted(findings, key=lambda finding: order.index(finding.kind)),
        ages={f"{10 * decade}-{10 * decade + 9}": ages[decade] for decade in sorted(ages)},
        years=dict(sorted(years.items())),
        bands={band_text(*band): len(rows) for band, rows in _bands(table).items()},
        groups={
            column: dict(sorted(Counter(table[column]).items()))
            for column in ("split", "gender", "ethnicity")
            if column in table
        },
    )


def _open(source: Path, dataset: str | None) -> tuple[pd.DataFrame, list[Finding]]:
    """The rows to audit, and findings from their names and values alone."""
    opened = None if dataset is None else data_set(dataset)
    if source.is_dir():
        if opened is not None:
            table = read_dataset(opened, source, content=False)
            if "age" not in table:  # a set of identities
                table["age"] = float("nan")
            return table, list(table.attrs.pop("problems"))
        paths = sorted(images_below(source))
        if not paths:
            raise InputError(f"{source}: no image in the folder or below it")
        table = pd.DataFrame({"path": pd.Series(paths, dtype=object), "age": float("nan")})
        table.attrs = {"root": source.absolute()}
        return table, []
    if dataset is not None:
        raise InputError(f"{source}: a data set ({dataset}) is read from its folder, and this is none")
    table, problems = inspect_manifest(source)
    return table, [_value_finding(table, problem) for problem in problems]


def _value_finding(table: pd.DataFrame, problem: ManifestError) -> Finding:
    assert problem.row is not None
    kind = "impossible-age" if problem.column == "age" else "bad-value"
    detail = f"row {problem.row}, {problem.column}: {problem.reason} (value: {problem.value!r})"
    return Finding(kind, (table["path"][problem.row - 1],), detail)


def _file_findings(table: pd.DataFrame, fingerprints: Fingerprints) -> Iterator[Finding]:
    expected = table["digest"] if "digest" in table else [""] * len(table)
    files = image_paths(table)
    for k, path in enumerate(table["path"]):
        if error := fingerprints.errors[k]:
            missing = not fingerprints.digests[k] and not os.path.exists(files[k])
            yield Finding("missing-file" if missing else "unreadable", (path,), str(error))
        if expected[k] and fingerprints.digests[k] and expected[k] != fingerprints.digests[k]:
            yield Finding(
                "changed-file", (path,), f"digest {fingerprints.digests[k]}, the manifest has {expected[k]}"
            )


def _age_findings(table: pd.DataFrame) -> Iterator[Finding]:
    for path, age in zip(table["path"], table["age"], strict=True):
        if age > SUSPICIOUS_AGE:
            yield Finding("suspicious-age", (path,), f"{age:g} years")


def _bands(table: pd.DataFrame) -> dict[tuple[float, float], list[int]]:
    """The rows of each band, the youngest band first."""
    bounds = label_bounds(table)
    members: dict[tuple[float, float], list[int]] = {}
    for row in is_band(table).nonzero()[0]:
        members.setdefault((float(bounds[row, 0]), float(bounds[row, 1])), []).append(int(row))
    return dict(sorted(members.items()))


def _band_findings(table: pd.DataFrame) -> Iterator[Finding]:
    """Different bands of one set that share ages; ``dataset`` names the sets of a joined manifest."""
    paths = table["path"].tolist()
    parts = table.groupby("dataset", sort=True) if "dataset" in table else [("", table)]
    for _, part in parts:
        members = {band: part.index[rows] for band, rows in _bands(part).items()}
        bands = list(members)
        for k, (low, high) in enumerate(bands):
            for other in bands[k + 1 :]:
                if other[0] <= high:
                    named = (paths[members[band][0]] for band in ((low, high), other))
                    shown = f"{band_text(low, high)} and {band_text(*other)}"
                    yield Finding("overlapping-bands", tuple(named), f"{shown}: the first of each")


def _copy_findings(table: pd.DataFrame, fingerprints: Fingerprints, pairs: Pairs) -> Iterator[Finding]:
    paths = table["path"].tolist()
    labels = [(float(low), float(high)) for low, high in label_bounds(table)]
    sides = table["split"].tolist() if "split" in table else [""] * len(table)
    readable = [k for k, digest in enumerate(fingerprints.digests) if digest]
    for rows in _members(readable, fingerprints.digests):
        yield Finding("byte-identical", tuple(paths[k] for k in rows), f"{len(rows)} copies")
    for (i, j), correlation, mirrored in zip(pairs.indices, pairs.correlation, pairs.mirrored, strict=True):
        detail = f"correlation {correlation:.2f}{', mirrored' if mirrored else ''}"
        yield Finding("near-identical", (paths[i], paths[j]), detail)
    groups = group_keys(fingerprints.digests, pairs.indices)
    for rows in _members(readable, groups):
        dated = [k for k in rows if not math.isnan(labels[k][0])]
        if dated and labels_conflict([labels[k] for k in dated], [fingerprints.digests[k] for k in dated]):
            shown = "/".join(band_text(*labels[k]) for k in dated)
            yield Finding("conflicting-ages", tuple(paths[k] for k in dated), f"ages {shown}")
        used = [k for k in rows if sides[k]]
        if len({sides[k] for k in used}) > 1:
            shown = "/".join(sides[k] for k in used)
            yield Finding("image-on-two-sides", tuple(paths[k] for k in used), shown)


def _subject_findings(table: pd.DataFrame) -> Iterator[Finding]:
    if "subject" not in table or "split" not in table:
        return
    used = table[(table["subject"] != "") & (table["split"] != "")]
    for subject, rows in used.groupby("subject", sort=True):
        counts = Counter(rows["split"])
        if len(counts) > 1:
            shown = ", ".join(f"{counts[side]} in {side}" for side in sorted(counts))
            yield Finding("subject-on-two-sides", tuple(rows["path"]), f"subject {subject}: {shown}")


def _members(rows: list[int], keys: list[str]) -> list[list[int]]:
    """The rows that share a key, for keys of more than one row, in the order of their first row."""
    members: dict[str, list[int]] = {}
    for k in rows:
        members.setdefault(keys[k], []).append(k)
    return [group for group in members.values() if len(group) > 1]
