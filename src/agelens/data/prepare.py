"""From labelled images to aligned crops: detect, align, cut, and write a manifest of the crops.

Training data go through the same detector, alignment and crop code as a photograph does in use.

The output folder::

    out/
      crops/<first two digits>/<digest>.png   one aligned crop an image, lossless
      manifest.csv                            the crops, with everything that was known of the images
      failures.csv                            the images without a crop: path, row, reason
      geometry.json                           the geometry of the crops, which becomes part of a model
      journal.jsonl                           the finished images, a line each: where a later run goes on
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from agelens.data.duplicates import fingerprint_images, group_keys, near_identical_pairs
from agelens.data.geometry import GEOMETRY_NAME
from agelens.data.manifest import check_manifest, image_paths, write_manifest
from agelens.data.splits import default_split, names_people
from agelens.errors import ImageError, InputError, ManifestError, NoFaceError, OutputError
from agelens.faces.alignment import DEFAULT_GEOMETRY, CropGeometry, estimate_yaw
from agelens.faces.crops import Crop, ImageKind, crop_faces
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.detection import FaceDetector
from agelens.faces.detectors import make_detector
from agelens.faces.image import read_image
from agelens.files import write_atomically
from agelens.reading import IMAGE_BYTES, parse_json, read_bytes
from agelens.rehearsal import spread
from agelens.workers import follow_parent

__all__ = ["PREPARED_GEOMETRY", "PrepareSummary", "crop_path", "prepare"]

PREPARED_GEOMETRY = DEFAULT_GEOMETRY.with_size(128)
"""Crops are kept a little larger than networks want them: augmentation shrinks and shifts them."""

Progress = Callable[[int, int], None]

_FORMAT = 1
_BATCH = 16  # images a worker takes at once


@dataclass(frozen=True)
class PrepareSummary:
    """Outcome of preparing a manifest, in numbers of images.

    Attributes:
        images: Rows of the manifest.
        resumed: Of these, finished by an earlier run.
        landmarks: Crops aligned by five landmarks.
        eyes: Crops aligned by two eyes.
        fallback: Crops cut from where a face usually lies: on the chip, or in the detector's bare box.
        no_face: Images without a crop because no face was found.
        failed: Images without a crop because they could not be read.
        split: Number of crops by part of the default split, ``""`` for none; None where the manifest had a
            split, or its data set has protocols.
        by_person: Whether that split keeps people apart; else it goes by content.
    """

    images: int
    resumed: int
    landmarks: int
    eyes: int
    fallback: int
    no_face: int
    failed: int
    split: dict[str, int] | None = None
    by_person: bool = False


@dataclass(frozen=True)
class _Task:
    """One image to prepare."""

    key: str
    path: Path
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class _Settings:
    """Settings of a worker besides the image."""

    out: Path
    detector: str
    detector_settings: Mapping[str, Any]
    geometry: CropGeometry
    chips: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "detector": self.detector,
            "detector_settings": {name: str(value) for name, value in self.detector_settings.items()},
            "geometry": self.geometry.to_dict(),
            "chips": self.chips,
        }


def crop_path(out: str | Path, digest: str) -> Path:
    """Path of the crop of the image with this digest."""
    return Path(out) / "crops" / digest[:2] / f"{digest}.png"


def prepare(
    manifest: pd.DataFrame,
    out: str | Path,
    *,
    detector: str = DEFAULT_DETECTOR,
    detector_settings: Mapping[str, Any] | None = None,
    geometry: CropGeometry = PREPARED_GEOMETRY,
    chips: bool,
    workers: int = 1,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Detect and align the face of every image of a manifest, and write crops and their manifest.

    Of several faces in a photograph the one that overlaps the row's ``box`` most is taken, or the largest
    if the row has none. The new manifest keeps all columns, but ``path`` is the crop and ``source`` the
    image; ``digest``, ``box``, ``landmarks`` and ``pose`` are of the image. Byte-identical images keep
    their rows, each with a crop of its own.

    Data of one's own without a split get the default one (:func:`agelens.data.splits.default_split`).

    Stopped at any moment, it loses nothing: started again it goes on where it stopped. Images that failed
    or that changed since are done again.

    Args:
        manifest: From ``read_manifest`` or a data set; ``attrs["root"]`` is where its paths start.
        out: The folder to write.
        detector: A key of ``DETECTORS``.
        detector_settings: Arguments of its class.
        geometry: Of the crops.
        chips: The images are face chips: aligned, on the usual layout of a chip where no face is
            detected (`ImageKind.CHIP`).
        workers: Processes; 1 works in this one.
        progress: Called as ``progress(done, total)``.
    Returns:
        The numbers of images by outcome.
    Raises:
        ManifestError: The manifest breaks the contract.
        InputError: A setting cannot be used, or ``out`` was prepared with other settings.
        MissingExtraError: The detector needs a package that is missing.
        OutputError: Writing failed.
    """
    if workers < 1:
        raise InputError(f"workers is at least 1, not {workers}")
    out = Path(out).absolute()
    table = check_manifest(manifest, manifest.attrs.get("path", "manifest"))
    table = table.iloc[list(spread(len(table)))]
    settings = _Settings(out, detector, dict(detector_settings or {}), geometry, chips)
    make_detector(detector, **settings.detector_settings)  # wrong settings fail here, not in a worker

    tasks = [
        _Task(key=str(path), path=path, box=box)
        for path, box in zip(image_paths(table), _boxes(table), strict=True)
    ]
    with _Journal(out / "journal.jsonl", settings.to_dict()) as journal:
        pending = [task for task in tasks if not _finished(journal.done.get(task.key), task, out)]
        resumed = len(tasks) - len(pending)
        outcomes = {task.key: journal.done[task.key] for task in tasks if task.key in journal.done}
        if progress is not None:
            progress(resumed, len(tasks))
        for done, outcome in enumerate(_outcomes(pending, settings, workers), start=resumed + 1):
            journal.add(outcome)
            outcomes[outcome["key"]] = outcome
            if progress is not None:
                progress(done, len(tasks))
    journal.settle([task.key for task in tasks])
    with write_atomically(out / GEOMETRY_NAME) as temporary:
        temporary.write_text(json.dumps(geometry.to_dict()) + "\n", encoding="utf-8")
    return _finish(table, [outcomes[task.key] for task in tasks], out, resumed)


def _boxes(table: pd.DataFrame) -> Iterator[tuple[float, float, float, float] | None]:
    if "box" not in table:
        yield from [None] * len(table)
        return
    for text in table["box"]:
        x1, y1, x2, y2 = map(float, text.split()) if text else (0.0, 0.0, 0.0, 0.0)
        yield (x1, y1, x2, y2) if text else None


class _Journal:
    """Append-only record of finished images; the first line holds the settings."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        self._settings = settings

    def __enter__(self) -> _Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._load()
            self._handle = open(self.path, "r+b" if whole else "wb")
            self._handle.truncate(whole)  # a killed run may leave half a line
            self._handle.seek(whole)
        except OSError as error:
            raise OutputError(self.path, f"cannot write: {error.strerror or error}") from error
        if not whole:
            self._write(self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def add(self, outcome: dict[str, Any]) -> None:
        """Record a finished image; it is on its way to the disk when this returns."""
        self._write(outcome)
        self.done[outcome["key"]] = outcome

    def settle(self, keys: list[str]) -> None:
        """Write a line an image, in this order, however often it was stopped; the journal is closed."""
        records = [self._settings, *(self.done[key] for key in dict.fromkeys([*keys, *self.done]))]
        content = b"".join(map(_line, records))
        if content != self.path.read_bytes():
            with write_atomically(self.path) as temporary:
                temporary.write_bytes(content)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._handle.write(_line(line))
            self._handle.flush()
        except OSError as error:
            raise OutputError(self.path, f"cannot write: {error.strerror or error}") from error

    def _load(self) -> int:
        """Read the finished lines; return the length in bytes of its whole lines."""
        whole = 0
        if not self.path.exists():
            return whole
        with open(self.path, "rb") as handle:
            for number, line in enumerate(handle):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = parse_json(line)
                except ValueError:
                    break
                if not isinstance(record, dict) or (number and "key" not in record):
                    break
                if number == 0 and record != self._settings:
                    raise InputError(
                        f"{self.path.parent} was prepared with other settings ({json.dumps(record)}); "
                        f"choose another folder or remove it"
                    )
                if number:
                    self.done[record["key"]] = record
                whole += len(line)
        return whole


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _finished(outcome: dict[str, Any] | None, task: _Task, out: Path) -> bool:
    """Tell whether an earlier run's crop is there and the image is still the same."""
    if outcome is None or "reason" in outcome:
        return False
    try:
        return outcome["stamp"] == _stamp(task.path) and crop_path(out, outcome["digest"]).is_file()
    except OSError:
        return False


def _stamp(path: Path) -> list[int]:
    """Size and time of a file: changes when the file does."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def _outcomes(tasks: list[_Task], settings: _Settings, workers: int) -> Iterator[dict[str, Any]]:
    """The outcome of every task, in any order."""
    if workers == 1 or not tasks:
        detector = make_detector(settings.detector, **settings.detector_settings)
        for task in tasks:
            yield _outcome(task, detector, settings)
        return
    batches = iter([tasks[start : start + _BATCH] for start in range(0, len(tasks), _BATCH)])
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(settings,)
    )
    running: set[Future[list[dict[str, Any]]]] = set()
    try:
        while True:
            for batch in batches:
                running.add(executor.submit(_work, batch))
                if len(running) >= 2 * workers:
                    break
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process ended unexpectedly (out of memory?); what is finished is kept: "
            "start again to go on, perhaps with fewer workers"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_worker: tuple[FaceDetector, _Settings]


def _start_worker(settings: _Settings) -> None:
    global _worker
    follow_parent()
    _worker = make_detector(settings.detector, **settings.detector_settings), settings


def _work(tasks: Iterable[_Task]) -> list[dict[str, Any]]:
    detector, settings = _worker
    return [_outcome(task, detector, settings) for task in tasks]


def _outcome(task: _Task, detector: FaceDetector, settings: _Settings) -> dict[str, Any]:
    """Prepare one image: write its crop and say how it was made, or why there is none."""
    try:
        try:
            stamp, content = _stamp(task.path), read_bytes(task.path, IMAGE_BYTES)
        except OSError as error:
            raise ImageError(task.path, error.strerror or str(error)) from error
        image = read_image(content)
        crop = _crop(image, task, detector, settings)
    except (ImageError, NoFaceError) as error:
        return {"key": task.key, "reason": error.reason, "no_face": isinstance(error, NoFaceError)}
    digest = hashlib.sha256(content).hexdigest()
    with write_atomically(crop_path(settings.out, digest)) as temporary:
        Image.fromarray(crop.pixels).save(temporary, compress_level=4)
    outcome: dict[str, Any] = {
        "key": task.key,
        "stamp": stamp,
        "digest": digest,
        "alignment": crop.alignment,
    }
    if (face := crop.face) is not None:
        outcome["box"] = _text(face.box)
        if face.landmarks is not None:
            outcome["landmarks"] = _text(face.landmarks.ravel())
            outcome["pose"] = round(estimate_yaw(face.landmarks), 2)
    return outcome


def _text(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.2f}" for number in numbers)


def _crop(image: NDArray[np.uint8], task: _Task, detector: FaceDetector, settings: _Settings) -> Crop:
    """The crop of the face that is meant."""
    kind = ImageKind.CHIP if settings.chips else ImageKind.PHOTO
    crops = crop_faces(image, kind, detector, settings.geometry, most=1, box=task.box).crops
    if not crops:
        where = "" if task.box is None else " at the manifest's box"
        raise NoFaceError(task.path, f"no face found{where}")
    return crops[0]


def _finish(table: pd.DataFrame, outcomes: list[dict[str, Any]], out: Path, resumed: int) -> PrepareSummary:
    """Write the manifest and the list of failures; count."""
    failures = pd.DataFrame(
        [
            (path, row, outcome["reason"])
            for row, (path, outcome) in enumerate(zip(table["path"], outcomes, strict=True), start=1)
            if "reason" in outcome
        ],
        columns=["path", "row", "reason"],
    )
    with write_atomically(out / "failures.csv") as temporary:
        failures.to_csv(temporary, index=False, errors="surrogateescape", lineterminator="\n")

    cut = np.array(["reason" not in outcome for outcome in outcomes])
    made = [outcome for outcome in outcomes if "reason" not in outcome]
    if not made:
        raise ManifestError(
            table.attrs.get("path", "manifest"), f"no image has a usable face; see {out / 'failures.csv'}"
        )
    crops = table[cut].reset_index(drop=True)
    crops["source"] = [outcome["key"] for outcome in made]
    crops["path"] = list(_crop_names(made, out))
    for name in ("box", "landmarks", "digest", "alignment"):
        crops[name] = [outcome.get(name, "") for outcome in made]
    crops["pose"] = [outcome.get("pose", np.nan) for outcome in made]
    crops.attrs = {"root": out}
    own = not any(
        (crops[name] != "").any() for name in ("dataset", "split", "official_split") if name in crops
    )
    if own:
        pairs = near_identical_pairs(fingerprint_images(image_paths(crops))).indices
        crops = default_split(crops, group_keys(crops["digest"].tolist(), pairs))
        crops.attrs = {"root": out}
    write_manifest(crops, out / "manifest.csv")

    count = Counter(outcome["alignment"] for outcome in made)
    no_face = sum(outcome.get("no_face", False) for outcome in outcomes)
    return PrepareSummary(
        images=len(outcomes),
        resumed=resumed,
        landmarks=count["landmarks"],
        eyes=count["eyes"],
        fallback=count["fallback"],
        no_face=no_face,
        failed=len(failures) - no_face,
        split=dict(Counter(crops["split"])) if own else None,
        by_person=own and names_people(crops),
    )


def _crop_names(made: list[dict[str, Any]], out: Path) -> Iterator[str]:
    """Path of every crop, relative to ``out``; a copy of an image gets a copy of its crop."""
    seen: Counter[str] = Counter()
    for outcome in made:
        original = crop_path(out, outcome["digest"])
        seen[outcome["digest"]] += 1
        path = original
        if (number := seen[outcome["digest"]]) > 1:
            path = original.with_stem(f"{original.stem}-{number}")
            if not path.is_file():
                with write_atomically(path) as temporary:
                    shutil.copyfile(original, temporary)
        yield path.relative_to(out).as_posix()
