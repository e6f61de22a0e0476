"""The age of every face in a photo: image → faces → alignment → network → age. onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import AgelensError, ImageError, InputError
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import Crop, crop_aligned, crop_chip, crop_photo
from agelens.faces.detection import FaceDetector
from agelens.faces.detectors import make_detector
from agelens.faces.image import MAX_PIXELS, read_image
from agelens.inference.face import Face, Photo
from agelens.inference.models import open_model

__all__ = ["AgeEstimator", "Source"]

Source = str | Path | bytes | BinaryIO | Image.Image | NDArray[Any]


class AgeEstimator:
    """Estimates ages with one model file, whose card is in ``card`` and crop geometry in ``geometry``.

    Args:
        model: Name of a shipped model, or a model file; None is the default model.
        detector: Name of a face detector, or one of your own.
        threads: Threads that compute one batch.
        max_pixels: Larger images are refused before they are decoded.
        batch_size: Most crops that the network sees at once.
    Raises:
        ModelFileError: No such model, or not one of ours.
        InputError: Another argument cannot be used.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        detector: str | FaceDetector = "mtcnn",
        threads: int = 1,
        max_pixels: int = MAX_PIXELS,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("threads", threads), ("max_pixels", max_pixels), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name} is at least 1, not {value}")
        self._session, self.card = open_model(model, threads=threads)
        self.geometry = CropGeometry.from_dict(self.card.geometry)
        self._detector, self._threads = detector, threads
        self._max_pixels, self._batch_size = max_pixels, batch_size

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector; its networks are loaded when the first photo needs them."""
        if isinstance(self._detector, str):
            return make_detector(self._detector, threads=self._threads)
        return self._detector

    def estimate(self, image: Source, *, crops: bool = False, aligned: bool = False) -> list[Face]:
        """Estimate the age of every face in an image.

        Args:
            image: A path, an encoded image, a Pillow image, or (H, W, 3) uint8 RGB.
            crops: It is a face chip: search it as one, and assume a chip's layout if no face is found.
            aligned: It is a crop in the model's geometry already, of any size: estimate it as it is.
        Returns:
            The faces, the largest first; empty if there is none.
        Raises:
            ImageError: The image cannot be read.
            InputError: ``aligned``, and it is not square.
        """
        (photo,) = self.estimate_many([image], crops=crops, aligned=aligned)
        if photo.error is not None:
            raise photo.error
        return list(photo.faces)

    def estimate_chip(self, image: Source) -> Face:
        """Estimate the age of the one face of a face chip: `estimate` with ``crops``."""
        return self.estimate(image, crops=True)[0]

    def estimate_many(
        self, sources: Iterable[Source], *, crops: bool = False, aligned: bool = False
    ) -> Iterator[Photo]:
        """Estimate many images, the faces of several in one batch.

        Yields:
            A `Photo` for each of the sources, in order; one that cannot be used has its ``error``.
        """
        waiting: list[tuple[Source, list[Crop], AgelensError | None]] = []
        for source in sources:
            try:
                waiting.append((source, self._crops(source, crops, aligned), None))
            except (ImageError, InputError) as error:
                waiting.append((source, [], error))
            if sum(max(1, len(found)) for _, found, _ in waiting) >= self._batch_size:
                yield from self._answer(waiting)
                waiting = []
        yield from self._answer(waiting)

    def _crops(self, source: Source, crops: bool, aligned: bool) -> list[Crop]:
        """Read, detect and align: a crop for every face of one image."""
        image = read_image(source, max_pixels=self._max_pixels)
        if aligned:
            return crop_aligned(image, self.geometry)
        if crops:
            return crop_chip(image, self.detector, self.geometry)
        return crop_photo(image, self.detector, self.geometry)

    def _answer(self, waiting: list[tuple[Source, list[Crop], AgelensError | None]]) -> Iterator[Photo]:
        faces = self._faces([crop for _, found, _ in waiting for crop in found])
        for source, found, error in waiting:
            yield Photo(source, tuple(islice(faces, len(found))), error)

    def _faces(self, crops: list[Crop]) -> Iterator[Face]:
        if not crops:
            return
        ages, distributions = self.estimate_aligned(np.stack([crop.pixels for crop in crops]))
        card = self.card
        for (_, found, alignment), age, distribution in zip(crops, ages, distributions, strict=True):
            where = (found.box, found.landmarks, found.confidence) if found else (None, None, None)
            yield Face(float(age), distribution, card.age_bins, card.calibration, alignment, *where)

    def estimate_aligned(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Estimate (N, S, S, 3) uint8 RGB crops in the model's geometry: the network alone.

        Returns:
            (N,) ages in years and (N, K) distributions.
        Raises:
            ValueError: ``crops`` has another shape or type.
        """
        size, batch = self.geometry.size, self._batch_size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise ValueError(f"crops are (N, {size}, {size}, 3) uint8, not {crops.shape} {crops.dtype}")
        starts = range(0, len(crops) or 1, batch)
        outputs = [self._session.run(None, {"images": crops[start : start + batch]}) for start in starts]
        if len(outputs) == 1:
            return outputs[0][0], outputs[0][1]
        ages, distributions = zip(*outputs, strict=True)
        return np.concatenate(ages), np.concatenate(distributions)
