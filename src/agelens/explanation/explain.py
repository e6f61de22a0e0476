"""Explanations of faces: maps of every stage, the evolution of the distribution, mean maps by age group.

As LRN draws them: class activation maps per generation ([1], Fig. 4), the distribution over generations
(Fig. 3). A run has both (:mod:`agelens.explanation.network_maps`, torch); a model file has the maps of its
one network (:mod:`agelens.explanation.model_maps`). :mod:`agelens.reports.explanation` draws them.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agelens.errors import ImageError, InputError
from agelens.explanation.maps import StageMaps, normalised_map
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import ImageKind, crop_faces
from agelens.faces.detection import FaceDetector
from agelens.faces.image import read_image
from agelens.label_distribution import AgeBins

__all__ = [
    "MEAN_MAP_GROUPS",
    "Explanation",
    "FaceCrop",
    "FaceExplanation",
    "MeanMaps",
    "explain",
    "face_crops",
]

FloatArray = NDArray[np.float64]

_BATCH = 16

MEAN_MAP_GROUPS = (
    ("infants", 0, 2),
    ("children and teenagers", 3, 17),
    ("adults", 18, 59),
    ("older people", 60, None),
)
"""Name, first and last completed year of the groups of mean maps; the last is open."""


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """One face to explain.

    Attributes:
        path: The image.
        number: Which face of it, from 1.
        pixels: (S, S, 3) uint8 RGB in the model's geometry.
    """

    path: str
    number: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FaceExplanation:
    """One face, stage by stage (T stages).

    Attributes:
        face: The crop.
        ages: (T,) estimates, years.
        explained: (T,) the age a map is evidence for; NaN where it explains the estimate.
        distributions: (K,) of each stage, or None.
        maps: (h, w) of each stage.
    """

    face: FaceCrop
    ages: tuple[float, ...]
    explained: tuple[float, ...]
    distributions: tuple[FloatArray | None, ...]
    maps: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """The faces of one age group (of the last stage's estimates).

    Attributes:
        group: Name, with its ages.
        count: Number of faces.
        crop: (S, S, 3) mean face, 0 … 255.
        maps: (S, S) mean of the normalised maps, of each stage.
    """

    group: str
    count: int
    crop: FloatArray
    maps: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Everything that :func:`agelens.reports.explanation.write_explanation` draws.

    Attributes:
        system: Run or model.
        kind: Of the maps.
        stages: Their names.
        bins: K age bins.
        faces: Those that get a figure of their own.
        count: Number of all faces.
        failed: Path and reason of the images that could not be used.
        means: Age groups that have a face; empty for a single face.
    """

    system: str
    kind: str
    stages: tuple[str, ...]
    bins: AgeBins
    faces: tuple[FaceExplanation, ...]
    count: int
    failed: tuple[tuple[str, str], ...]
    means: tuple[MeanMaps, ...]


def face_crops(
    paths: Iterable[str | Path],
    geometry: CropGeometry,
    detector: Callable[[], FaceDetector],
    images: ImageKind | str = ImageKind.PHOTO,
    failed: list[tuple[str, str]] | None = None,
) -> Iterator[FaceCrop]:
    """Read images and cut out their faces.

    Args:
        paths: Images.
        geometry: Of the crops.
        detector: Makes the detector; not called for aligned images.
        images: Their content: ``photos`` (every face), ``chips`` or ``aligned``.
        failed: Gets path and reason of every image that cannot be used.
    Yields:
        The faces in order.
    """
    kind = ImageKind(images)
    finder = None if kind is ImageKind.ALIGNED else detector()
    for path in paths:
        try:
            crops = crop_faces(read_image(path), kind, finder, geometry).crops
        except (ImageError, InputError) as error:
            if failed is not None:
                failed.append((str(path), str(getattr(error, "reason", error))))
            continue
        if not crops and failed is not None:
            failed.append((str(path), "no face found"))
        for number, crop in enumerate(crops, start=1):
            yield FaceCrop(str(path), number, crop.pixels)


def explain(
    faces: Iterable[FaceCrop],
    explainer: Callable[[NDArray[np.uint8]], Sequence[StageMaps]],
    *,
    system: str,
    kind: str,
    shown: int = 24,
    failed: Sequence[tuple[str, str]] = (),
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Explain faces, a batch at a time; all count in the mean maps, the first ones get a figure each.

    Args:
        faces: Crops of one size.
        explainer: Crops (N, S, S, 3) to the maps of every stage.
        system: Name, for the report.
        kind: Of the maps, for the report.
        shown: Most faces with a figure of their own.
        failed: Path and reason of the images left out; read when all faces are done.
        progress: Called with the number of faces done so far.
    Returns:
        The explanation.
    Raises:
        InputError: There is no face.
    """
    kept: list[FaceExplanation] = []
    groups: dict[str, _Sums] = {}
    stages: tuple[str, ...] = ()
    count, bins = 0, None
    for batch in _batches(faces):
        explained = explainer(np.stack([face.pixels for face in batch]))
        stages, bins = tuple(stage.stage for stage in explained), explained[-1].bins
        for row, face in enumerate(batch):
            maps = tuple(stage.maps[row] for stage in explained)
            name = _group(float(explained[-1].ages[row]))
            groups.setdefault(name, _Sums()).add(face.pixels, maps)
            if len(kept) < shown:
                kept.append(
                    FaceExplanation(
                        face,
                        tuple(float(stage.ages[row]) for stage in explained),
                        tuple(float(stage.explained[row]) for stage in explained),
                        tuple(
                            None if stage.distribution is None else stage.distribution[row]
                            for stage in explained
                        ),
                        maps,
                    )
                )
        count += len(batch)
        if progress is not None:
            progress(count)
    if bins is None:
        reason = f" ({failed[0][0]}: {failed[0][1]})" if failed else ""
        raise InputError(f"there is no face to explain in {len(failed)} images{reason}")
    names = [_group_name(*group) for group in MEAN_MAP_GROUPS]
    means = [groups[name].mean(name) for name in names if name in groups] if count > 1 else []
    return Explanation(system, kind, stages, bins, tuple(kept), count, tuple(failed), tuple(means))


class _Sums:
    """Running sums of the faces of a group."""

    def __init__(self) -> None:
        self.count = 0
        self.crop: FloatArray = np.zeros(())
        self.maps: list[FloatArray] = []

    def add(self, pixels: NDArray[np.uint8], maps: Sequence[FloatArray]) -> None:
        stretched = [normalised_map(values, len(pixels)) for values in maps]
        if self.count:
            stretched = [old + new for old, new in zip(self.maps, stretched, strict=True)]
        self.crop = self.crop + pixels
        self.maps = stretched
        self.count += 1

    def mean(self, name: str) -> MeanMaps:
        return MeanMaps(name, self.count, self.crop / self.count, tuple(m / self.count for m in self.maps))


def _batches(faces: Iterable[FaceCrop]) -> Iterator[list[FaceCrop]]:
    batch: list[FaceCrop] = []
    for face in faces:
        batch.append(face)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _group_name(name: str, first: int, last: int | None) -> str:
    return f"{name}, {first}+" if last is None else f"{name}, {first}-{last}"


def _group(age: float) -> str:
    completed = math.floor(max(age, 0.0))
    for name, first, last in MEAN_MAP_GROUPS:
        if completed >= first and (last is None or completed <= last):
            return _group_name(name, first, last)
    raise ValueError(f"no age group holds {age}")
