"""The estimator: image → faces → alignment → network → ages and distributions, on onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.cores import bounded_threads, check_count
from agelens.errors import AgelensError
from agelens.faces.alignment import CropGeometry
from agelens.faces.appearance import crop_appearance
from agelens.faces.crops import ImageKind, crop_faces
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.detection import FaceDetector
from agelens.faces.detectors import make_detector
from agelens.faces.image import MAX_PIXELS, Channels, Source, check_channels, check_sources, load_image
from agelens.inference.face import Face, Photo
from agelens.inference.shipped_models import ReopenableModel
from agelens.inference.waiting import WaitingPhoto, WaitingPhotos

__all__ = ["AgeEstimator", "Source"]


class AgeEstimator:
    """Estimates ages with one model file, whose card is in ``card`` and crop geometry in ``geometry``.

    It can be copied and pickled; the copy opens the model again, from its name or the bytes of its file.

    Args:
        model: Name of a shipped model, or a model file; None is the default model.
        detector: Name of a face detector, or one of your own.
        threads: Threads that compute one batch; at most the usable cores.
        max_pixels: Larger images are refused before they are decoded.
        batch_size: Most crops that the network sees at once.
        provider: Part of onnxruntime that computes the ages: ``cpu``, ``cuda``, ``openvino`` or ``coreml``;
            faces are detected on the CPU.
    Raises:
        ModelFileError: No such model, or not one of ours.
        InputError: Another argument cannot be used; a provider that is not there is never replaced.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        detector: str | FaceDetector = DEFAULT_DETECTOR,
        threads: int = 1,
        max_pixels: int = MAX_PIXELS,
        batch_size: int = 32,
        provider: str = "cpu",
    ) -> None:
        self._max_pixels = check_count(max_pixels, "max_pixels")
        self._batch_size = check_count(batch_size, "batch_size")
        self._model, self._threads = ReopenableModel(model), bounded_threads(threads)
        self._provider = provider
        self._session, self.card = self._model.open(self._threads, provider)
        self.geometry = CropGeometry.from_dict(self.card.geometry)
        self._detector = detector

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in {"_session", "detector"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._session, _ = self._model.open(self._threads, self._provider)

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector; its networks are loaded when the first photo needs them."""
        given = self._detector
        return make_detector(given, threads=self._threads) if isinstance(given, str) else given

    def estimate(
        self, image: Source, *, crops: bool = False, aligned: bool = False, channels: Channels = "rgb"
    ) -> list[Face]:
        """Estimate the age of every face in an image.

        Args:
            image: A path, an encoded image, a Pillow image, or (H, W, 3) uint8: `read_image`.
            crops: It is a face chip: search it as one, and assume a chip's layout if no face is detected.
            aligned: It is a crop in the model's geometry already, of any size: estimate it as it is.
            channels: Order of an array's colours: ``rgb``, or ``bgr`` as OpenCV has them.
        Returns:
            The faces, the largest first; empty if there is none.
        Raises:
            ImageError: The image cannot be read.
            InputError: It is of a type that is no image, ``aligned`` and not square, or options contradict.
        """
        (photo,) = self.estimate_many([image], crops=crops, aligned=aligned, channels=channels)
        if photo.error is not None:
            raise photo.error
        return list(photo.faces)

    def estimate_chip(self, image: Source) -> Face:
        """Estimate the age of the one face of a face chip: `estimate` with ``crops``."""
        return self.estimate(image, crops=True)[0]

    def estimate_many(
        self,
        sources: Iterable[Source],
        *,
        crops: bool = False,
        aligned: bool = False,
        channels: Channels = "rgb",
    ) -> Iterator[Photo]:
        """Estimate many images, the faces of several in one batch; the options are those of `estimate`.

        Returns:
            A `Photo` for each source, in order, as batches fill; one that cannot be used has its ``error``.
        """
        kind = ImageKind.of(crops=crops, aligned=aligned)
        return self._batches(check_sources(sources), kind, check_channels(channels))

    def _batches(self, sources: Iterable[Source], kind: ImageKind, channels: Channels) -> Iterator[Photo]:
        waiting = WaitingPhotos(self._batch_size)
        detector = None if kind is ImageKind.ALIGNED else self.detector
        for source in sources:
            try:
                image = load_image(source, max_pixels=self._max_pixels, channels=channels)
                cropped = crop_faces(image.pixels, kind, detector, self.geometry, full_size=image.full_size)
                waiting.add(WaitingPhoto(source, cropped, image.remarks))
            except AgelensError as error:
                waiting.add(WaitingPhoto(source, error=error))
            if waiting.full:
                yield from waiting.answers(self.estimate_aligned, self.card)
                waiting = WaitingPhotos(self._batch_size)
        yield from waiting.answers(self.estimate_aligned, self.card)

    def estimate_aligned(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Estimate (N, S, S, 3) uint8 RGB crops in the model's geometry: the network and its calibration.

        Returns:
            (N,) ages in years and (N, K) calibrated distributions. Another shape or type is a ValueError.
        """
        size, some = self.geometry.size, self._batch_size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise ValueError(f"crops are (N, {size}, {size}, 3) uint8, not {crops.shape} {crops.dtype}")
        parts = (crops[start : start + some] for start in range(0, len(crops) or 1, some))
        outputs = (self._session.run(None, {"images": part}) for part in parts)
        ages, distributions = (np.concatenate(output) for output in zip(*outputs, strict=True))
        shift = None if self.card.calibration is None else self.card.calibration.shift
        if shift is not None:
            distributions = shift.corrected(distributions, self.card.age_bins, crop_appearance(crops))
        return ages, distributions
