"""Maps of evidence: for each face and each stage of a system, where it saw the age.

[1] Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import InputError
from agelens.faces.alignment import CropGeometry
from agelens.label_distribution import AgeBins

__all__ = ["Explainer", "MapKind", "StageMaps", "check_age", "normalised_map"]

FloatArray = NDArray[np.float64]

MapKind = Literal["cam", "gradcam", "integrated-gradients", "occlusion"]
"""``cam``: evidence for the estimated age; ``gradcam``: last feature map weighted by the gradient of the
estimate; ``integrated-gradients``: pixels, from the mean colour of training on; ``occlusion``: how far the
estimate moves when a patch is hidden [1]."""


@dataclass(frozen=True, eq=False)
class StageMaps:
    """Estimates of one stage for N faces, and where it saw them.

    Attributes:
        stage: ``generation-2`` …, or the name of the model.
        bins: K age bins.
        ages: (N,) estimates, years.
        distribution: (N, K) at the training temperature; None without that head.
        explained: (N,) age bin that the map is evidence for, years; NaN where it explains the estimate.
        maps: (N, h, w) evidence, larger speaks for it; any scale.
    """

    stage: str
    bins: AgeBins
    ages: FloatArray
    distribution: FloatArray | None
    explained: FloatArray
    maps: FloatArray


class Explainer(Protocol):
    """Explains the estimates of a run or a model file.

    Attributes:
        name: Of the system, for the report.
        geometry: Of the crops it takes.
        kind: Of the maps.
    """

    name: str
    geometry: CropGeometry
    kind: MapKind

    def __call__(self, crops: NDArray[np.uint8]) -> list[StageMaps]:
        """Explain (N, S, S, 3) crops, stage by stage."""


def check_age(age: float | None, kind: MapKind, bins: AgeBins) -> None:
    """Check the age that a map is asked to be evidence for.

    Raises:
        InputError: It is given for maps other than class activation maps, or lies outside the bins.
    """
    if age is None:
        return
    if kind != "cam":
        raise InputError(f"only cam explains a given age; {kind} explains the estimate")
    if not bins.minimum <= age <= bins.maximum:
        raise InputError(f"the system knows no age {age:g}, only {bins}")


def normalised_map(values: FloatArray, size: int) -> FloatArray:
    """Stretch a map to 0 … 1 and to (size, size) by bilinear interpolation; a constant map is 0.

    Args:
        values: (h, w).
        size: Pixels.
    Returns:
        (size, size).
    """
    low, high = float(values.min()), float(values.max())
    scaled = np.zeros_like(values) if high <= low else (values - low) / (high - low)
    picture = Image.fromarray(scaled.astype(np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)
