"""Prepared crops as one uint8 array: decoded once, kept in a file and mapped; it may exceed the memory."""

from __future__ import annotations

import hashlib
import math
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens.data.manifest import image_paths, is_band, label_bounds
from agelens.errors import ImageError, InputError, ManifestError, OutputError
from agelens.faces.image import read_image
from agelens.files import write_atomically

__all__ = ["CropSet", "crop_side", "load_crops"]

Progress = Callable[[int, int], None]

_BLOCK = 2**23  # bytes of crops decoded at a time
_IN_MEMORY = 2**30  # bytes of crops that are not kept
_MARGIN = 8 / 7  # of crops over the network's input: augmentation shrinks and shifts them


@dataclass(frozen=True)
class CropSet:
    """Aligned crops and their labels; splits of one manifest share one array.

    Attributes:
        pixels: (M, S, S, 3) uint8, RGB; a memory map where they come from a file.
        ages: (N,) float32, years; NaN where the label is a band.
        rows: (N,) the row of ``pixels`` of each crop.
        subjects: (N,) the person on each crop, as the manifest names people; None if it does not. Ages of
            a manifest that names people only are NaN.
        stored: File that keeps the pixels, of a name no other pixels have; None: none does.
        bounds: (N, 2) float32, both ends of the labels in years where some are bands (an open one ends at
            130); the age twice for the others. None: all are ages.
        deviations: (N,) float32, deviations of apparent ages, NaN for the others; None: there are none.
        sets: (N,) the data set of each crop, as the manifest names it; None if it does not.
    """

    pixels: NDArray[np.uint8]
    ages: NDArray[np.float32]
    rows: NDArray[np.int64]
    subjects: NDArray[np.str_] | None = None
    stored: Path | None = None
    bounds: NDArray[np.float32] | None = None
    deviations: NDArray[np.float32] | None = None
    sets: NDArray[np.str_] | None = None

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

    def crops(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy some of the crops, by their places: (B, S, S, 3)."""
        copied = np.array(self.pixels[self.rows[rows]])
        if isinstance(self.pixels.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.pixels.base.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, not in ours
        return copied

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
            None if self.sets is None else self.sets[mask],
        )


def load_crops(
    manifest: pd.DataFrame,
    *,
    cache: bool | str | Path = True,
    threads: int = 2,
    progress: Progress | None = None,
) -> CropSet:
    """Decode every crop of a prepared manifest, a block at a time, into a file that is mapped.

    The file is ``<key>.npy`` in the folder ``.crops`` beside the manifest, or in a folder of one's own (key:
    paths, sizes and times of the images). It is used again the next time; processes of one machine share it.
    Resident memory holds a block of crops, however many there are.

    Args:
        manifest: Rows of one size of square crop, from ``read_manifest``.
        cache: Whether to keep the decoded crops, or the folder to keep them in. Crops that are not kept are
            in memory up to 1 GiB, and beyond that in a file without a name.
        threads: Decoding threads.
        progress: Called with (done, total).
    Returns:
        The crops in the manifest's order.
    Raises:
        ManifestError: No rows, or crops of different sizes or not square (path, row).
        ImageError: A crop that cannot be read.
        OutputError: The folder has no room for the decoded crops, or cannot be written.
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
    subjects, sets = (
        manifest[name].to_numpy(dtype=np.str_) if name in manifest else None
        for name in ("subject", "dataset")
    )
    side = crop_side(manifest)
    shape = (count, side, side, 3)
    beside = Path(manifest.attrs.get("root", "."))
    stored = None
    if cache:
        folder = beside / ".crops" if cache is True else Path(cache)
        stored = folder / f"{_key(paths)}.npy"
    pixels = None if stored is None else _mapped(stored, shape)
    if pixels is None:
        blocks = _blocks(paths, shape, source, threads, progress)
        pixels = _kept(blocks, shape, stored) if stored is not None else _passing(blocks, shape, beside)
    return CropSet(pixels, ages, np.arange(count), subjects, stored, bounds, deviations, sets)


def crop_side(manifest: pd.DataFrame, at_least: int = 0) -> int:
    """Read the side of a prepared manifest's first crop, which all others must have.

    Args:
        manifest: From ``read_manifest``.
        at_least: Side of the network's input, pixels: smaller crops are refused, since enlarged ones have no
            more detail.
    Returns:
        Pixels.
    Raises:
        ManifestError: No rows, or the crop is not square.
        InputError: It is smaller than ``at_least``.
        ImageError: It cannot be read.
    """
    source = manifest.attrs.get("path", "manifest")
    if manifest.empty:
        raise ManifestError(source, "no rows to load")
    height, width, _ = read_image(image_paths(manifest.iloc[:1])[0]).shape
    if height != width:
        raise ManifestError(source, f"crops must be square, not {width}x{height}: prepare it first", row=1)
    if width < at_least:
        wanted = math.ceil(at_least * _MARGIN / 16) * 16
        raise InputError(
            f"{source}: crops of {width} px are smaller than the network's input of {at_least} px: prepare "
            f"them again with --size {wanted} (or --set network.enlarge=true, which adds no detail)"
        )
    return int(width)


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Decoded crops of an earlier run; None if there are none, or other ones."""
    try:
        pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _blocks(
    paths: Sequence[Path],
    shape: tuple[int, ...],
    source: Path | str,
    threads: int,
    progress: Progress | None,
) -> Iterator[NDArray[np.uint8]]:
    """Decode crops in order, (B, S, S, 3) at a time; a block is overwritten by the next one."""
    length = max(1, min(_BLOCK // math.prod(shape[1:]), len(paths)))
    block = np.empty((length, *shape[1:]), np.uint8)

    def decode(index: int) -> None:
        image = read_image(paths[index])
        if image.shape != shape[1:]:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise ManifestError(source, f"crop is {size}, the first is {shape[2]}x{shape[1]}", row=index + 1)
        block[index % length] = image

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), length):
            stop = min(start + length, len(paths))
            for _ in pool.map(decode, range(start, stop)):
                pass
            yield block[: stop - start]
            if progress is not None:
                progress(stop, len(paths))


def _kept(blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], path: Path) -> NDArray[np.uint8]:
    """Write decoded crops to a file and map it.

    They are written, not stored through a map: a full disk is then an error and not the end of the process.
    """
    with write_atomically(path) as temporary, open(temporary, "wb") as handle:
        free = shutil.disk_usage(temporary.parent).free
        if free < math.prod(shape):
            raise OutputError(
                path,
                f"the decoded crops need {math.prod(shape) / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                "--cache DIR names another folder",
            )
        _write(handle, blocks, shape)
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def _passing(blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], folder: Path) -> NDArray[np.uint8]:
    """Decoded crops that nobody needs again: in memory, or mapped from a file without a name."""
    if math.prod(shape) <= _IN_MEMORY:
        pixels, done = np.empty(shape, np.uint8), 0
        for block in blocks:
            pixels[done : done + len(block)] = block
            done += len(block)
        return pixels
    with tempfile.TemporaryFile(dir=folder) as handle:
        _write(handle, blocks, shape)
        handle.flush()
        offset = handle.tell() - math.prod(shape)
        return np.memmap(handle, dtype=np.uint8, mode="r", offset=offset, shape=shape)


def _write(handle: IO[bytes], blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)
    for block in blocks:
        handle.write(block.data)


def _key(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            facts = path.stat()
        except OSError as error:
            raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
