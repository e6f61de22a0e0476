"""Prepared crops in memory: one uint8 array, decoded once and kept beside the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.manifest import image_paths, is_band, label_bounds
from agelens.errors import ImageError, ManifestError
from agelens.faces.image import read_image
from agelens.files import write_atomically

__all__ = ["CropSet", "load_crops"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CropSet:
    """Aligned crops and their labels; splits of one manifest share one array.

    Attributes:
        pixels: (M, S, S, 3) uint8, RGB; may be a memory map.
        ages: (N,) float32, years; NaN where the label is a band.
        rows: (N,) the row of ``pixels`` of each crop.
        subjects: (N,) the person on each crop, as the manifest names people; None if it does not. Ages of
            a manifest that names people only are NaN.
        bounds: (N, 2) float32, both ends of the labels in years where some are bands (an open one ends at
            130); the age twice for the others. None: all are ages.
        deviations: (N,) float32, deviations of apparent ages, NaN for the others; None: there are none.
        stored: Where the pixels are kept beside the manifest, a name no other pixels have; None: nowhere.
    """

    pixels: NDArray[np.uint8]
    ages: NDArray[np.float32]
    rows: NDArray[np.int64]
    subjects: NDArray[np.str_] | None = None
    stored: Path | None = None
    bounds: NDArray[np.float32] | None = None
    deviations: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != self.pixels.shape[2] or self.pixels.shape[3] != 3:
            raise ValueError(f"pixels must be (M, S, S, 3), not {self.pixels.shape}")
        if self.ages.shape != self.rows.shape:
            raise ValueError(f"ages {self.ages.shape} for rows {self.rows.shape}")

    def __len__(self) -> int:
        return len(self.ages)

    def labels(self) -> NDArray[np.float32]:
        """(N, 4) age (NaN for a band), deviation (NaN without one), lower and upper end, in years."""
        absent = np.full(len(self), np.nan, np.float32)
        bounds = np.stack([self.ages, self.ages], axis=1) if self.bounds is None else self.bounds
        deviations = absent if self.deviations is None else self.deviations
        return np.column_stack([self.ages, deviations, bounds])

    @property
    def side(self) -> int:
        """Side of the crops, pixels."""
        return int(self.pixels.shape[1])

    def crops(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """(B, S, S, 3) a copy of the chosen crops."""
        return np.array(self.pixels[self.rows[chosen]])

    def select(self, mask: NDArray[np.bool_]) -> CropSet:
        """The crops where ``mask`` (N,) is true."""
        return CropSet(
            self.pixels,
            self.ages[mask],
            self.rows[mask],
            None if self.subjects is None else self.subjects[mask],
            self.stored,
            None if self.bounds is None else self.bounds[mask],
            None if self.deviations is None else self.deviations[mask],
        )


def load_crops(
    manifest: pd.DataFrame, *, cache: bool = True, threads: int = 2, progress: Progress | None = None
) -> CropSet:
    """Decode every crop of a prepared manifest.

    With ``cache`` the decoded array is kept as ``.crops/<key>.npy`` beside the manifest (key: paths,
    sizes and times of the files) and mapped, not read, the next time; processes of one machine share it.

    Args:
        manifest: Rows of one size of square crop, from ``read_manifest``.
        cache: Keep and use the decoded array.
        threads: Decoding threads.
        progress: Called with (done, total).
    Returns:
        The crops in the manifest's order.
    Raises:
        ManifestError: No rows, or crops of different sizes or not square (path, row).
        ImageError: A crop that cannot be read.
    """
    source = manifest.attrs.get("path", "manifest")
    if manifest.empty:
        raise ManifestError(source, "no rows to load")
    paths = image_paths(manifest)
    count = len(manifest)
    ages = np.full(count, np.nan, np.float32)
    bounds = deviations = None
    if "age" in manifest:
        ages = manifest["age"].to_numpy(dtype=np.float32)
        if is_band(manifest).any():
            bounds = label_bounds(manifest).astype(np.float32)
        if "age_std" in manifest and manifest["age_std"].notna().any():
            deviations = manifest["age_std"].to_numpy(dtype=np.float32)
    subjects = manifest["subject"].to_numpy(dtype=np.str_) if "subject" in manifest else None
    stored = Path(manifest.attrs["root"]) / ".crops" / f"{_key(paths)}.npy" if cache else None
    if stored is not None and stored.exists():
        crops: NDArray[Any] = np.load(stored, mmap_mode="r")
        if len(crops) == len(paths):
            return CropSet(crops, ages, np.arange(count), subjects, stored, bounds, deviations)
    first = read_image(paths[0])
    height, width = first.shape[:2]
    if height != width:
        raise ManifestError(source, f"crops must be square, not {width}x{height}: prepare it first", row=1)
    crops = np.empty((len(paths), height, width, 3), np.uint8)

    def decode(index: int) -> None:
        image = read_image(paths[index])
        if image.shape != first.shape:
            shape = f"{image.shape[1]}x{image.shape[0]}"
            raise ManifestError(source, f"crop is {shape}, the first is {width}x{height}", row=index + 1)
        crops[index] = image

    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(paths))), start=1):
            if progress is not None and (done % 256 == 0 or done == len(paths)):
                progress(done, len(paths))
    if stored is not None:
        with write_atomically(stored) as temporary:
            np.save(temporary, crops)
    return CropSet(crops, ages, np.arange(count), subjects, stored, bounds, deviations)


def _key(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            facts = path.stat()
        except OSError as error:
            raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
