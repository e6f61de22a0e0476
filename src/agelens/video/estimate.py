"""From the frames of a clip to the ages of its people."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from agelens.errors import InputError
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.detection import FaceDetector
from agelens.inference.estimator import AgeEstimator
from agelens.inference.face import Face
from agelens.video.ahead import ahead
from agelens.video.fusion import RunningAge, frame_weight, mean_absolute_deviation
from agelens.video.person import FrameAges, PersonAge, SeenPerson
from agelens.video.reader import Frame, VideoReader
from agelens.video.settings import FUSION, TRACKING
from agelens.video.tracker import FaceTracker, TrackedFrame

__all__ = ["People", "estimate_video"]


def estimate_video(
    source: str | Path | IO[bytes],
    *,
    model: str | Path | None = None,
    detector: str | FaceDetector = DEFAULT_DETECTOR,
    every: int = 1,
    seconds: float | None = None,
    threads: int = 1,
    on_frame: Callable[[FrameAges], None] | None = None,
) -> list[PersonAge]:
    """Estimate the age of every person in a clip: one steady age for each, of all its frames.

    Needs the extra ``video``. The interval is as wide as that of one frame, and wider where the frames
    disagree: frames of one person err together, so many of them are no more certain than one. A person
    who comes back after a cut, or after more than a second, counts anew.

    Args:
        source: Path of a file that FFmpeg reads, a camera (``/dev/video0``), or an open binary stream.
        model: Name of a shipped model, or a model file; None is the default model.
        detector: Name of a face detector, or one of your own.
        every: Look only at every such frame.
        seconds: Leave the clip, or the camera, after this time; None: at its end.
        threads: Threads of each network; at most the usable cores.
        on_frame: Called with each `FrameAges`, in order: number, time, pixels, the people with their ages.
    Returns:
        A `PersonAge` a person, in the order of first sight: ``person, first, last, frames, age,
        distribution, deviation, interval(level), probability_at_least(threshold), to_dict()``; empty if no
        face was found. A clip that breaks off gives the people up to there.
    Raises:
        VideoError: The clip cannot be read at all, or has no pictures.
        MissingExtraError: PyAV is not installed.
        ModelFileError: No such model, or not a model file of agelens.
        InputError: Another argument cannot be used.
    """
    estimator = AgeEstimator(model, detector=detector, threads=threads)
    with VideoReader(source, every=every) as reader:
        people = People(reader, estimator, depth=reader.depth, seconds=seconds, leave=reader.leave)
        for frame in people:
            if on_frame is not None:
                on_frame(frame)
        return people.finished


@dataclass
class _Followed:
    """A track with its age so far."""

    first: float
    last: float = 0.0
    person: int | None = None
    running: RunningAge = field(default_factory=RunningAge)
    ages: array[float] = field(default_factory=lambda: array("d"))
    shown: array[float] = field(default_factory=lambda: array("d"))


class People:
    """The people of one clip, frame by frame; iterate once.

    Frames are decoded, searched and estimated in three threads, each a few frames ahead of the next.

    Args:
        frames: The frames, in order.
        estimator: Estimates the ages; its detector finds the faces.
        depth: Frames that may wait between two threads.
        seconds: The first frame at this time or later is the last; None: all are taken.
        leave: Called when no more frames are wanted: it lets go of a thread that waits for one.
    Raises:
        InputError: ``seconds`` is negative or no number.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        estimator: AgeEstimator,
        *,
        depth: int = 2,
        seconds: float | None = None,
        leave: Callable[[], object] = lambda: None,
    ) -> None:
        if seconds is not None and not 0 <= seconds < math.inf:
            raise InputError(f"a clip is left after a number of seconds, not {seconds}")
        self._frames, self._estimator, self._depth, self._leave = frames, estimator, depth, leave
        self._seconds = seconds
        self._tracker = FaceTracker(estimator.detector, estimator.geometry, together=True)
        self._followed: dict[int, _Followed] = {}
        self._persons = self._looks = 0
        self._seen: tuple[SeenPerson, ...] = ()
        self.finished: list[PersonAge] = []
        """The people whose tracks have ended, in the order of their numbers; all of them at the end."""

    def __iter__(self) -> Iterator[FrameAges]:
        """Estimate frame by frame.

        Yields:
            The frames with their people.
        Raises:
            AgelensError: The frames cannot be read, or the detector fails; ``finished`` has the people up to
                there.
        """
        with (
            contextlib.closing(ahead(self._frames, self._depth, self._leave)) as decoded,
            contextlib.closing(ahead(self._tracked(decoded), self._depth, self._leave)) as found,
        ):
            try:
                for frame, tracked in found:
                    yield self._estimated(frame, tracked)
                    if self._seconds is not None and frame.time >= self._seconds:
                        return
            finally:
                self._end(list(self._followed))

    def _tracked(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, TrackedFrame]]:
        for frame in frames:
            yield frame, self._tracker.step(frame.pixels, frame.time)

    def _estimated(self, frame: Frame, tracked: TrackedFrame) -> FrameAges:
        """Estimate the faces of a frame, and add each to its person."""
        if not tracked.looked:
            return FrameAges(frame.number, frame.time, frame.pixels, self._seen, cut=False, looked=False)
        self._looks += 1
        self._end(tracked.ended)
        seen = []
        faces = self._faces(tracked)
        for sighting, face in zip(tracked.sightings, faces, strict=True):
            quality = face.quality
            assert quality is not None
            weight = frame_weight(quality)
            followed = self._followed.setdefault(sighting.track, _Followed(frame.time))
            followed.last = frame.time
            followed.running.add(face.age, face.distribution, weight)
            followed.ages.append(face.age)
            if sighting.confirmed:
                if followed.person is None:
                    self._persons += 1
                    followed.person = self._persons
                followed.shown.append(followed.running.age)
                shown = self._fused(followed)
                settled = frame.time - followed.first >= FUSION.settled
                seen.append(SeenPerson(followed.person, face, shown, weight, settled))
        self._seen = tuple(sorted(seen, key=lambda person: person.person))
        return FrameAges(frame.number, frame.time, frame.pixels, self._seen, tracked.cut, looked=True)

    def _faces(self, tracked: TrackedFrame) -> list[Face]:
        if not tracked.sightings:
            return []
        crops = [sighting.crop for sighting in tracked.sightings]
        results = self._estimator.estimate_aligned(np.stack([crop.pixels for crop in crops]))
        card = self._estimator.card
        return [
            Face.of_crop(crop, age, distribution, card)
            for crop, age, distribution in zip(crops, *results, strict=True)
        ]

    def _fused(self, followed: _Followed) -> Face:
        card, running = self._estimator.card, followed.running
        return Face(running.age, running.distribution, card.age_bins, card.calibration, "landmarks")

    def _end(self, tracks: Iterable[int]) -> None:
        """Finish tracks; one that was seen too rarely to be a person counts in the shortest clips alone."""
        for track in tracks:
            followed = self._followed.pop(track)
            if followed.person is None:
                if self._looks >= TRACKING.confirm:
                    continue
                self._persons += 1
                followed.person = self._persons
                followed.shown.append(followed.running.age)
            self.finished.append(
                PersonAge(
                    person=followed.person,
                    first=followed.first,
                    last=followed.last,
                    frames=followed.running.frames,
                    estimate=self._fused(followed),
                    deviation=mean_absolute_deviation(followed.ages),
                    shown_deviation=mean_absolute_deviation(followed.shown),
                )
            )
        self.finished.sort(key=lambda person: person.person)
