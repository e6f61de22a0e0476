"""Tracks of faces over the frames of a clip: detection now and then, search around the last place between.

Between two searches of the whole frame every known face is searched in a small upright window, cut by its
last points with the code that aligns faces, so a face that is tilted, small or large looks the same to the
detector. Any detector serves; one that finds nothing in the window is asked for the whole frame more often.
A face that is not seen keeps its track for a while. `docs/video.md` describes every step for the page's twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agelens.faces.alignment import (
    CHIP_LANDMARKS,
    CropGeometry,
    align_detected,
    align_face,
    similarity_transform,
)
from agelens.faces.crops import Crop
from agelens.faces.detection import DetectedFace, FaceDetector
from agelens.faces.detectors import SoundFaces
from agelens.faces.turned import detect_turned
from agelens.video.settings import TRACKING, TrackingSettings
from agelens.video.windows import search_windows

__all__ = ["FaceTracker", "Sighting", "TrackedFrame"]

_Points = NDArray[np.float64]


class _Place(NamedTuple):
    """The mean of a face's points, and their root mean square distance from it: at least a pixel."""

    x: float
    y: float
    scale: float


class Sighting(NamedTuple):
    """A face in a frame that belongs to a track.

    Attributes:
        track: Number of the track, from 1 in the order of first sight.
        crop: The aligned crop, with the face in pixels of the frame.
        confirmed: It was seen often enough to count as a person, and no unseen face may still come back in
            its place.
    """

    track: int
    crop: Crop
    confirmed: bool


class TrackedFrame(NamedTuple):
    """The faces of a frame.

    Attributes:
        sightings: In the order of their tracks.
        ended: Tracks that end before this frame: their face was not seen for long enough, or a cut came.
        cut: The picture changed at once.
        searched: The whole frame was searched.
        looked: Faces were looked for; else there are no sightings, for the last look was just before.
    """

    sightings: tuple[Sighting, ...] = ()
    ended: tuple[int, ...] = ()
    cut: bool = False
    searched: bool = False
    looked: bool = True


@dataclass
class _Track:
    number: int
    points: _Points
    look: NDArray[np.float64]
    seen: float
    velocity: _Points
    rivals: frozenset[int]
    sightings: int = 0


@dataclass
class _Candidate:
    face: DetectedFace
    points: _Points
    place: _Place
    crop: Crop
    look: NDArray[np.float64]


class FaceTracker:
    """Follows the faces of one clip, frame by frame.

    Args:
        detector: Finds faces.
        geometry: Of the crops.
        settings: The constants.
        together: Search the windows of a frame side by side in one picture (`search_windows`).
    """

    def __init__(
        self,
        detector: FaceDetector,
        geometry: CropGeometry,
        settings: TrackingSettings = TRACKING,
        *,
        together: bool = False,
    ) -> None:
        self._together = together
        self._detector, self._geometry, self._settings = SoundFaces(detector), geometry, settings
        self._template = np.asarray(geometry.template)
        self._window = _window_geometry(geometry, settings)
        self._tracks: list[_Track] = []
        self._number = 0
        self._scene: NDArray[np.int16] | None = None
        self._looked = self._searched = self._turned = -math.inf
        self._turned_after = settings.turned_every

    @property
    def live(self) -> tuple[int, ...]:
        """The tracks that have not ended."""
        return tuple(track.number for track in self._tracks)

    def step(self, image: NDArray[np.uint8], time: float) -> TrackedFrame:
        """Find the known faces, and new ones where it is time, in the next frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            time: Seconds, rising from frame to frame.
        Returns:
            The faces.
        Raises:
            InputError: The detector returned a face without a box.
        """
        cut = self._cut(image)
        if time - self._looked < self._settings.look_every and not cut:
            return TrackedFrame(looked=False)
        self._looked = time
        seen = self._follow(image, time, cut=cut)
        self._resolve(seen)
        ended = self._end(seen, time, cut=True) if cut else []
        searched = self._due(time, seen, cut)
        if searched:
            self._search(image, time, seen)
        ended += self._end(seen, time, cut=False)
        for track in self._tracks:
            if track.number in seen:
                self._update(track, seen[track.number], time)
        live = {track.number for track in self._tracks}
        sightings = tuple(
            Sighting(
                track.number,
                seen[track.number].crop,
                track.sightings >= self._settings.confirm and not track.rivals & live,
            )
            for track in self._tracks
            if track.number in seen
        )
        return TrackedFrame(sightings, tuple(ended), cut, searched)

    def _end(self, seen: dict[int, _Candidate], time: float, *, cut: bool) -> list[int]:
        """End tracks that were not seen: all of them, or those whose face was not for too long."""
        settings = self._settings

        def goes_on(track: _Track) -> bool:
            patience = settings.coast if track.sightings >= settings.confirm else settings.gap
            return track.number in seen or (not cut and time - track.seen <= patience)

        ended = [track.number for track in self._tracks if not goes_on(track)]
        self._tracks = [track for track in self._tracks if track.number not in ended]
        return ended

    def _cut(self, image: NDArray[np.uint8]) -> bool:
        """Compare the frame with the last one at a grid of points."""
        side = self._settings.scene
        rows = (2 * np.arange(side) + 1) * image.shape[0] // (2 * side)
        columns = (2 * np.arange(side) + 1) * image.shape[1] // (2 * side)
        scene = image[rows[:, None], columns].reshape(-1, 3).astype(np.int16)
        before, self._scene = self._scene, scene
        if before is None:
            return False
        if np.abs(scene - before).mean() < self._settings.cut_levels:
            return False
        levels = self._settings.scene_colours
        counts = [
            np.bincount(points // (256 // levels) @ [levels**2, levels, 1], minlength=levels**3)
            for points in (scene, before)
        ]
        changed = np.abs(counts[0] - counts[1]).sum() / (2 * len(scene))
        return bool(changed >= self._settings.cut_colours)

    def _follow(self, image: NDArray[np.uint8], time: float, *, cut: bool) -> dict[int, _Candidate]:
        """Search the known faces around the places where they should be."""
        expected = []
        for track in self._tracks:
            points = self._expected(track, time)
            x, y, _ = _place(points)
            if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
                expected.append((track, points))
        windows = [align_face(image, points, self._window) for _, points in expected]
        found = search_windows(self._detector, windows, together=self._together)
        seen = {}
        for (track, points), faces in zip(expected, found, strict=True):
            candidate = self._nearest(image, track, points, faces, time, cut=cut)
            if candidate is not None:
                seen[track.number] = candidate
        return seen

    def _nearest(
        self,
        image: NDArray[np.uint8],
        track: _Track,
        expected: _Points,
        faces: list[DetectedFace],
        time: float,
        *,
        cut: bool,
    ) -> _Candidate | None:
        """The nearest of the faces of a window that may be the known one."""
        settings, place = self._settings, _place(expected)
        to_image = similarity_transform(np.asarray(self._window.template) * settings.window, expected)
        candidates = []
        for found in faces:
            face = _moved(found, to_image)
            points = _five_points(face, self._template)
            gone, growth = _apart(_place(points), place)
            if gone <= settings.reach and growth <= settings.growth:
                candidates.append((gone, face, points))
        if not candidates:
            return None
        _, face, points = min(candidates, key=lambda candidate: candidate[0])
        candidate = self._candidate(image, face, points)
        unseen = time - track.seen
        least = settings.alike_unseen if unseen > settings.gap else settings.alike
        if float(candidate.look @ track.look) < (settings.alike_cut if cut else least):
            return None
        return candidate

    def _resolve(self, seen: dict[int, _Candidate]) -> None:
        """Leave a face that two tracks found to the one that it looks like."""
        tracks = {track.number: track for track in self._tracks}
        for first, second in combinations(sorted(seen), 2):
            if first not in seen or second not in seen:
                continue
            if _overlap(seen[first].face.box, seen[second].face.box) >= self._settings.overlap:
                likeness = [float(seen[n].look @ tracks[n].look) for n in (first, second)]
                del seen[second if likeness[0] >= likeness[1] else first]

    def _due(self, time: float, seen: dict[int, _Candidate], cut: bool) -> bool:
        since = time - self._searched
        lost = len(seen) < len(self._tracks)
        return cut or since >= self._settings.detect_every or (lost and since >= self._settings.detect_again)

    def _search(self, image: NDArray[np.uint8], time: float, seen: dict[int, _Candidate]) -> None:
        """Search the whole frame: faces go to tracks that were not seen, the rest begin new ones."""
        self._searched = time
        known = list(seen.values())
        candidates = []
        for face in self._detected(image, time):
            points = _five_points(face, self._template)
            place = _place(points)
            if all(
                _apart(place, other.place)[0] > 1
                and _overlap(face.box, other.face.box) < self._settings.overlap
                for other in known
            ):
                candidates.append(self._candidate(image, face, points))
        pairs = []
        for track in self._tracks:
            if track.number not in seen:
                expected = _place(self._expected(track, time))
                for index, candidate in enumerate(candidates):
                    cost = self._cost(track, expected, candidate, time)
                    if cost is not None:
                        pairs.append((cost, track.number, index))
        taken: set[int] = set()
        for _, number, index in sorted(pairs):
            if number not in seen and index not in taken:
                seen[number] = candidates[index]
                taken.add(index)
        begun: list[_Track] = []
        for index, candidate in enumerate(candidates):
            if index not in taken:
                begun.append(self._begun(candidate, time, seen))
                seen[begun[-1].number] = candidate
        self._tracks += begun

    def _begun(self, candidate: _Candidate, time: float, seen: dict[int, _Candidate]) -> _Track:
        """A new track; unseen ones in whose place it begins are its rivals."""
        rivals = frozenset(
            track.number
            for track in self._tracks
            if track.number not in seen
            and _apart(candidate.place, _place(self._expected(track, time)))[0] <= self._settings.reach
        )
        self._number += 1
        return _Track(self._number, candidate.points, candidate.look, time, np.zeros(2), rivals)

    def _detected(self, image: NDArray[np.uint8], time: float) -> list[DetectedFace]:
        """The faces of a frame; of a turned one too, while nothing or only turned faces are known."""
        tilted = bool(self._tracks) and all(_is_turned(track.points) for track in self._tracks)
        if tilted:
            return detect_turned(image, self._detector)
        if self._tracks or time - self._turned < self._turned_after:
            return self._detector.detect(image)
        faces = detect_turned(image, self._detector)
        self._turned = time
        longer = min(2 * self._turned_after, self._settings.turned_longest)
        self._turned_after = self._settings.turned_every if faces else longer
        return faces

    def _cost(self, track: _Track, expected: _Place, candidate: _Candidate, time: float) -> float | None:
        """The cost of giving a face to a track that was not seen; None where it cannot be the same."""
        settings, unseen = self._settings, time - track.seen
        gone, growth = _apart(candidate.place, expected)
        reach = min(settings.reach + settings.reach_per_second * unseen, settings.farthest)
        if gone > reach or growth > settings.growth_unseen:
            return None
        likeness = float(candidate.look @ track.look)
        if likeness < (settings.alike_unseen if unseen > settings.gap else settings.alike):
            return None
        return gone / reach + math.log(growth) + (1 - likeness)

    def _expected(self, track: _Track, time: float) -> _Points:
        """The points where a face should be, by its velocity, which fades while it is not seen."""
        fade = self._settings.velocity_fade
        seconds = fade * (1 - math.exp(-(time - track.seen) / fade))
        return track.points + track.velocity * seconds

    def _candidate(self, image: NDArray[np.uint8], face: DetectedFace, points: _Points) -> _Candidate:
        aligned = align_detected(image, face, self._geometry)
        crop = Crop(aligned.crop, face, aligned.alignment, (image.shape[1], image.shape[0]))
        return _Candidate(face, points, _place(points), crop, _look(aligned.crop, self._settings.grid))

    def _update(self, track: _Track, candidate: _Candidate, time: float) -> None:
        memory, elapsed = self._settings.velocity_memory, time - track.seen
        if track.sightings and elapsed > 0:
            moved = (candidate.points.mean(axis=0) - track.points.mean(axis=0)) / elapsed
            track.velocity = memory * track.velocity + (1 - memory) * moved
        kept = self._settings.look_memory if track.sightings else 0.0
        look = kept * track.look + (1 - kept) * candidate.look
        track.look = look / max(float(np.linalg.norm(look)), 1e-12)
        track.points, track.seen = candidate.points, time
        track.sightings += 1


def _window_geometry(geometry: CropGeometry, settings: TrackingSettings) -> CropGeometry:
    """The geometry of the window: that of the crop, smaller, with its surroundings."""
    template = (np.asarray(geometry.template) - 0.5) * settings.window_template + 0.5
    return CropGeometry("window", settings.window, tuple((float(x), float(y)) for x, y in template))


def _five_points(face: DetectedFace, template: _Points) -> _Points:
    """(5, 2) points of a face: its landmarks, else what its eyes or its box make probable."""
    if face.landmarks is not None:
        return np.asarray(face.landmarks, np.float64)
    if face.eyes is not None:
        matrix = similarity_transform(template[:2], face.eyes)
        return np.asarray(template @ matrix[:, :2].T + matrix[:, 2])
    return np.array(face.box[:2]) + CHIP_LANDMARKS * (face.width, face.height)


def _moved(face: DetectedFace, to_image: NDArray[np.float64]) -> DetectedFace:
    """A face of a window in pixels of the frame; its box keeps its sides and stands upright."""

    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(points @ to_image[:, :2].T + to_image[:, 2])

    corners = np.array(face.box).reshape(2, 2)
    centre = moved(corners.mean(axis=0, keepdims=True))[0]
    half = np.ptp(corners, axis=0) / 2
    across, down = np.abs(to_image[:, :2]) @ half
    if abs(to_image[0, 1]) < abs(to_image[0, 0]):  # less than 45 degrees: the sides, not the hull
        across, down = half * math.hypot(to_image[0, 0], to_image[1, 0])
    return DetectedFace(
        (centre[0] - across, centre[1] - down, centre[0] + across, centre[1] + down),
        face.confidence,
        None if face.landmarks is None else moved(face.landmarks),
        None if face.eyes is None else moved(face.eyes),
    )


def _place(points: _Points) -> _Place:
    x, y = points.mean(axis=0).tolist()
    return _Place(x, y, max(float(np.sqrt(((points - (x, y)) ** 2).sum(axis=1).mean())), 1.0))


def _apart(place: _Place, other: _Place) -> tuple[float, float]:
    """Distance of two faces in scales of the larger one, and the ratio of their scales, at least 1."""
    smaller, larger = sorted((place.scale, other.scale))
    return math.hypot(place.x - other.x, place.y - other.y) / larger, larger / smaller


def _is_turned(points: _Points) -> bool:
    """Whether the line from eye to eye is steeper than 45 degrees, or upside down."""
    x, y = points[1] - points[0]
    return bool(abs(y) > x)


def _look(crop: NDArray[np.uint8], grid: int) -> NDArray[np.float64]:
    """A face's look: the mean colours of ``grid`` x ``grid`` blocks, of mean 0 and length 1."""
    if crop.shape[0] < grid:
        crop = np.repeat(np.repeat(crop, grid, axis=0), grid, axis=1)
    side = crop.shape[0] // grid
    columns = crop[: side * grid, : side * grid].reshape(grid, side, -1).sum(axis=1, dtype=np.uint32)
    look = columns.reshape(grid, grid, side, 3).sum(axis=2).ravel() / side**2
    look -= look.mean()
    return np.asarray(look / max(float(np.linalg.norm(look)), 1e-12))


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(sides[2] - sides[0]) * (sides[3] - sides[1]) for sides in (box, other)]
    return both / (sum(areas) - both)
