"""Runs whose network only regresses an age: they have no distribution, so no model file; torch is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.manifest import image_paths
from agelens.data.predictions import Predictions, check_predictions
from agelens.errors import ImageError, InputError, MissingExtraError, RunError
from agelens.evaluation.predict import image_kind, refuse_other_crops, selected_rows
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import Crop, ImageKind, crop_faces
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.detectors import make_detector
from agelens.faces.image import read_image
from agelens.reading import NETWORK_BYTES, read_bytes

__all__ = ["Regressor", "open_regressor"]

_BATCH = 32


def open_regressor(folder: str | Path) -> Regressor | None:
    """Open the best stage of a run if its network gives no distribution; else None.

    Raises:
        RunError: Not a run, or none of its stages estimates ages.
        CheckpointError: The network is missing or damaged.
        MissingExtraError: torch is not installed.
    """
    try:
        from agelens.training.run import Run, best_stage, load_stage
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    run = Run.open(folder)
    stage = best_stage(run)
    network = load_stage(run, stage)
    if network.head.has_distribution:
        return None
    size = run.recipe.network.input_size

    def ages(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        import torch

        from agelens.training.transforms import network_input

        with torch.inference_mode():
            outputs = network(network_input(crops, size))
            return network.head.decode(outputs).age.numpy().astype(np.float64)

    facts = run.facts.get("geometry")
    geometry = None if not facts else CropGeometry.from_dict(facts).with_size(size)
    digest = hashlib.sha256(read_bytes(run.network_file(stage), NETWORK_BYTES)).hexdigest()
    return Regressor(run.path, run.recipe.name, geometry, ages, digest)


class Regressor:
    """Estimates ages with the network of a run.

    Args:
        folder: The run, for messages.
        name: Of its recipe.
        geometry: Of its crops; None where it is not known.
        ages: (B, S, S, 3) uint8 crops to (B,) years.
        digest: Of its stored network.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        geometry: CropGeometry | None,
        ages: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
        digest: str,
    ) -> None:
        self.name, self.digest = name, digest
        self._folder, self._geometry, self._ages = folder, geometry, ages

    def predict(
        self,
        manifest: pd.DataFrame,
        *,
        split: str | None = None,
        images: ImageKind | str = ImageKind.ALIGNED,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Estimate the age on each image of a manifest; a photo's largest face counts.

        Args:
            manifest: Checked manifest.
            split: Only these rows; None for all.
            images: Content of the images.
            progress: Called with the number of images done so far, and of all.
        Returns:
            ``path``, ``age`` and ``error`` of each image, in the manifest's order.
        Raises:
            InputError: An argument cannot be used, the manifest has no row of this split, or its crops are of
                another geometry.
            RunError: The run was trained on crops of unknown geometry.
        """
        if self._geometry is None:
            raise RunError(
                self._folder, "was trained on crops of unknown geometry (no geometry.json beside them)"
            )
        kind = image_kind(images)
        rows = selected_rows(manifest, split)
        refuse_other_crops(rows, kind, self._geometry)
        detector = None if kind is ImageKind.ALIGNED else make_detector(DEFAULT_DETECTOR)
        errors = [""] * len(rows)
        ages = np.full(len(rows), np.nan)
        waiting: list[tuple[int, Crop]] = []
        for place, path in enumerate(image_paths(rows)):
            try:
                crops = crop_faces(read_image(path), kind, detector, self._geometry, most=1).crops
                if crops:
                    waiting.append((place, crops[0]))
                else:
                    errors[place] = "no face found"
            except (ImageError, InputError) as error:
                errors[place] = str(getattr(error, "reason", error))
            if len(waiting) == _BATCH:
                self._estimate(waiting, ages)
                waiting = []
            if progress is not None:
                progress(place + 1, len(rows))
        self._estimate(waiting, ages)
        frame = pd.DataFrame({"path": rows["path"].to_numpy(), "age": ages, "error": errors})
        return Predictions(check_predictions(frame, self.name), None, None, self.name)

    def _estimate(self, waiting: Sequence[tuple[int, Crop]], ages: NDArray[np.float64]) -> None:
        if waiting:
            ages[[place for place, _ in waiting]] = self._ages(np.stack([crop.pixels for _, crop in waiting]))
