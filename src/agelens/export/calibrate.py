"""Calibrates a model file anew, for the photographs it was made for and for those of another kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from numpy.typing import NDArray

from agelens.calibration import LEVEL_GRID, Calibration, conformal_levels, conformal_scores
from agelens.data.crop_set import CropSet, load_crops
from agelens.data.geometry import require_geometry
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import SplitError
from agelens.export.degraded import degraded
from agelens.export.shift_fit import Faces, fit_shift
from agelens.faces.alignment import CropGeometry
from agelens.faces.appearance import crop_appearance
from agelens.faces.crops import resize_aligned
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.inference.shipped_models import model_path, open_model
from agelens.label_distribution import AgeBins
from agelens.model_file import ModelCard
from agelens.terms import PERMISSIONS, read_terms, strictest
from agelens.training.provenance import set_terms

__all__ = ["CalibratedGroup", "calibrate", "calibrated_licence", "calibration_record"]

_BATCH = 32
_LEVEL = 0.9  # of the intervals that the answer tells of

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibratedGroup:
    """Change of the intervals of one group of faces; they were all used to fit it.

    Attributes:
        manifest: Where they come from.
        degraded: Whether they are degraded copies.
        faces: Their number.
        coverage_before, coverage_after: Of the 90 % interval, 0 … 1.
        width_before, width_after: Mean width of it, years.
    """

    manifest: str
    degraded: bool
    faces: int
    coverage_before: float
    coverage_after: float
    width_before: float
    width_after: float


def calibrate(
    model: str | Path,
    manifest: str | Path,
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    split: str = "val",
    progress: Progress | None = None,
) -> tuple[ModelCard, list[CalibratedGroup]]:
    """Write a model file with a new calibration; weights and estimates stay as they are.

    Where a data set that a manifest names permits less than the card, the card takes its terms.

    The correction of the distribution (`fit_shift`) is fitted on the pictures of all manifests and a degraded
    copy of each; then the intervals, on the first manifest's pictures as they are.

    Args:
        model: Model file, or the name of a shipped model.
        manifest: Aligned crops like the photographs the intervals must hold for, that the network was not
            trained on.
        out: The file to write.
        others: Manifests of aligned crops of other kinds.
        split: The rows to use of each; ``all`` for all.
        progress: Called with (faces done, all faces).
    Returns:
        The new card, and what changed in each group.
    Raises:
        ModelFileError: Not a model file of ours.
        InputError: The crops have another geometry than the model's.
        SplitError: A manifest has no such rows.
        OutputError: The file cannot be written, or is one of those to be read.
    """
    refuse_to_overwrite(out, [model_path(model), manifest, *others])
    session, card = open_model(model)
    content = onnx.load(model_path(model))
    places = [str(manifest), *map(str, others)]
    sets = [load_crops(_rows(place, split, card), cache=False) for place in places]
    done, total = 0, 2 * sum(map(len, sets))
    groups: list[Faces] = []
    for spoilt in (False, True):
        for crops in sets:
            groups.append(_answered(session, crops, card, spoilt=spoilt))
            done += len(crops)
            if progress is not None:
                progress(done, total)
    new = _fitted(groups, card, split)
    record = {
        "split": split,
        "manifests": [calibration_record(place, crops) for place, crops in zip(places, sets, strict=True)],
    }
    written = replace(
        card,
        calibration=new,
        licence=calibrated_licence(card.licence, sets),
        provenance={**card.provenance, "calibrated": record},
    )
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, written.to_metadata())
    with write_atomically(out) as temporary:
        temporary.write_bytes(content.SerializeToString())
    names = [(place, spoilt) for spoilt in (False, True) for place in places]
    reported = [_calibrated(name, group, card, new) for name, group in zip(names, groups, strict=True)]
    return written, reported


def _rows(place: str, split: str, card: ModelCard) -> pd.DataFrame:
    rows = read_manifest(place)
    require_geometry(rows, CropGeometry.from_dict(card.geometry))
    if split != "all" and ("split" not in rows or rows["split"].eq("").all()):
        raise SplitError(f"{place}: no row has a split; --split all takes all rows")
    return required_rows(rows, split, place)


def _answered(
    session: onnxruntime.InferenceSession, crops: CropSet, card: ModelCard, *, spoilt: bool
) -> Faces:
    """Run the network alone, on the crops or on degraded copies of them."""
    size = int(card.geometry["size"])
    distributions, appearances = [], []
    for start in range(0, len(crops), _BATCH):
        block = crops.crops(slice(start, start + _BATCH))
        if spoilt:
            block = np.stack(
                [degraded(crop, np.random.default_rng([1, start + i])) for i, crop in enumerate(block)]
            )
        images = np.stack([resize_aligned(crop, size) for crop in block])
        (distribution,) = session.run(["distribution"], {"images": images})
        distributions.append(distribution.astype(np.float64))
        appearances.append(crop_appearance(images))
    ages = crops.ages.astype(np.float64)
    bounds = np.stack([ages, ages], axis=1) if crops.bounds is None else crops.bounds.astype(np.float64)
    return Faces(np.concatenate(distributions), np.concatenate(appearances), ages, bounds)


def _fitted(groups: Sequence[Faces], card: ModelCard, split: str) -> Calibration:
    shift = fit_shift(groups, card.age_bins)
    own = groups[0]
    corrected = shift.corrected(own.distribution, card.age_bins, own.appearance)
    return Calibration(
        temperature=card.tau if card.calibration is None else card.calibration.temperature,
        level_grid=LEVEL_GRID,
        nominal_levels=conformal_levels(corrected, own.ages, card.age_bins, own.bounds),
        samples=len(own.ages),
        split=split,
        shift=shift,
    )


def _sets_of(crops: CropSet) -> list[str]:
    return [] if crops.sets is None else sorted({str(name) for name in crops.sets if name})


def calibrated_licence(licence: Mapping[str, Any], sets: Sequence[CropSet]) -> dict[str, Any]:
    """The licence of a model that was calibrated on these crops: no more than any data set of them permits.

    Photographs of no named set are the owner's, who knows their terms; they change nothing.
    """
    before = read_terms({"permits": licence.get("permits"), "text": licence.get("data")})
    names = dict.fromkeys(name for crops in sets for name in _sets_of(crops))
    parts = {name: set_terms(name) for name in names}
    permits = strictest([before.permits, *(part.permits for part in parts.values())])
    if permits == before.permits:
        return dict(licence)
    stricter = [part.text for part in parts.values() if part.permits == permits]
    caveat = str(licence.get("use", "")).removeprefix(PERMISSIONS[before.permits]).removeprefix("; ")
    return {
        **licence,
        "data": f"{before.text}; calibrated on {'; '.join(stricter)}",
        "permits": permits,
        "use": "; ".join(filter(None, (PERMISSIONS[permits], caveat))),
    }


def calibration_record(place: str, crops: CropSet) -> dict[str, object]:
    """The record of a manifest: its data sets, or the name of its folder."""
    names = _sets_of(crops)
    return {"data": names or [Path(place).absolute().parent.name], "images": len(crops)}


def _calibrated(name: tuple[str, bool], group: Faces, card: ModelCard, new: Calibration) -> CalibratedGroup:
    before, after = (
        _interval_facts(group, card.age_bins, calibration) for calibration in (card.calibration, new)
    )
    return CalibratedGroup(*name, len(group.ages), before[0], after[0], before[1], after[1])


def _interval_facts(group: Faces, bins: AgeBins, calibration: Calibration | None) -> tuple[float, float]:
    """Coverage and mean width of the 90 % interval."""
    if calibration is None:
        calibration = Calibration(1.0, LEVEL_GRID, LEVEL_GRID, 1, "")
    distribution: NDArray[np.float64] | NDArray[np.float32] = group.distribution
    if calibration.shift is not None:
        distribution = calibration.shift.corrected(distribution, bins, group.appearance)
    scores = conformal_scores(distribution, group.ages, bins, group.bounds)
    low, high = calibration.interval(distribution, bins, _LEVEL)
    return float((scores <= calibration.nominal_level(_LEVEL)).mean()), float((high - low).mean())
