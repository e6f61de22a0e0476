"""Faces are followed through motion, short occlusion and other people, and not over a cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.faces.detection import DetectedFace, FaceDetector, largest_first
from agelens.faces.mtcnn import MTCNN
from agelens.video.settings import TRACKING
from agelens.video.tracker import FaceTracker, Sighting, TrackedFrame

Frames = list[NDArray[np.uint8]]
GEOMETRY = DEFAULT_GEOMETRY.with_size(64)
RATE = 15


class Counted:
    """A detector that counts the searches of whole frames."""

    name = "counted"

    def __init__(self, detector: FaceDetector) -> None:
        self.detector, self.whole = detector, 0

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        self.whole += image.shape[:2] != (TRACKING.window, TRACKING.window)
        return self.detector.detect(image)


@pytest.fixture(scope="module")
def mtcnn() -> MTCNN:
    return MTCNN()


def followed(detector: FaceDetector, frames: Frames, rate: float = RATE) -> list[TrackedFrame]:
    tracker = FaceTracker(detector, GEOMETRY)
    return [tracker.step(frame, number / rate) for number, frame in enumerate(frames)]


def tracks(found: list[TrackedFrame]) -> list[list[int]]:
    return [[sighting.track for sighting in frame.sightings] for frame in found]


def other_person(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mirror image in other colours: another person, as far as looks go."""
    mirrored = frame[:, ::-1].astype(np.float64)
    mixed = 0.6 * mirrored[..., ::-1] + 0.4 * mirrored
    return np.clip(mixed * 0.7 + (0, 30, 10), 0, 255).astype(np.uint8)


def test_a_moving_face_is_one_track(mtcnn: MTCNN, moving_portrait: Callable[..., Frames]) -> None:
    detector = Counted(mtcnn)
    found = followed(detector, moving_portrait(45))
    assert tracks(found) == [[1]] * 45
    assert [frame.sightings[0].confirmed for frame in found] == [False] * 2 + [True] * 43
    assert detector.whole <= 3 / TRACKING.detect_every + 2
    assert not any(frame.cut or frame.ended for frame in found)


def test_windows_find_the_landmarks_of_the_whole_frame(
    mtcnn: MTCNN, moving_portrait: Callable[..., Frames]
) -> None:
    frames = moving_portrait(12)
    apart = []
    for frame, tracked in zip(frames, followed(mtcnn, frames), strict=True):
        face = tracked.sightings[0].crop.face
        whole = mtcnn.detect(frame)
        if whole and face is not None and face.landmarks is not None and whole[0].landmarks is not None:
            apart.append(np.abs(face.landmarks - whole[0].landmarks).mean() / (whole[0].eye_distance or 1))
            assert np.abs(np.subtract(face.box, whole[0].box)).max() < 0.3 * whole[0].width
    assert len(apart) > 8
    assert np.mean(apart) < 0.06


def test_a_hand_that_passes_ends_no_track(mtcnn: MTCNN, moving_portrait: Callable[..., Frames]) -> None:
    found = tracks(followed(mtcnn, moving_portrait(45, hand=True)))
    assert {track for frame in found for track in frame} == {1}
    assert found[0] == found[-1] == [1]
    assert found.count([]) > 2


def test_a_face_that_stays_away_ends_its_track(mtcnn: MTCNN, moving_portrait: Callable[..., Frames]) -> None:
    frames = moving_portrait(8)
    away = round((TRACKING.coast + 0.2) * RATE)
    found = followed(mtcnn, frames[:4] + [frames[4] * 0 + 90] * away + frames[4:])
    assert {track for frame in tracks(found[-4:]) for track in frame} == {2}
    assert [frame.ended for frame in found if frame.ended] == [(1,)]


def test_a_cut_ends_the_tracks_of_other_people(mtcnn: MTCNN, moving_portrait: Callable[..., Frames]) -> None:
    before, after = moving_portrait(6), [other_person(frame) for frame in moving_portrait(6)]
    found = followed(mtcnn, before + after)
    assert [frame.cut for frame in found] == [False] * 6 + [True] + [False] * 5
    assert tracks(found)[:6] == [[1]] * 6
    assert found[6].ended == (1,)
    assert {track for frame in tracks(found)[6:] for track in frame} == {2}
    assert tracks(found)[-1] == [2]


def test_a_flash_is_no_cut_for_a_face_that_stays(
    mtcnn: MTCNN, moving_portrait: Callable[..., Frames]
) -> None:
    frames = moving_portrait(6)
    frames[3] = np.clip(frames[3].astype(np.int16) + 70, 0, 255).astype(np.uint8)
    assert tracks(followed(mtcnn, frames)) == [[1]] * 6


def test_a_face_in_a_turned_clip_is_found_and_followed(
    mtcnn: MTCNN, moving_portrait: Callable[..., Frames]
) -> None:
    frames = [np.ascontiguousarray(np.rot90(frame)) for frame in moving_portrait(6)]
    assert tracks(followed(mtcnn, frames)) == [[1]] * 6


class Discs:
    """Finds saturated discs that nothing hides: faces with five points about their middles."""

    name = "discs"

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        found = []
        pixels = image.astype(np.int16)
        strong = pixels.max(axis=2) - pixels.min(axis=2) > 120
        for channel in range(3):
            rows, columns = np.nonzero(strong & (pixels.argmax(axis=2) == channel))
            if len(rows) > 30 and len(rows) > 0.7 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1):
                x, y, r = float(columns.mean()), float(rows.mean()), float(np.sqrt(len(rows) / np.pi))
                points = np.array([(-0.4, -0.4), (0.4, -0.4), (0, 0), (-0.35, 0.45), (0.35, 0.45)]) * r + (
                    x,
                    y,
                )
                found.append(DetectedFace((x - r, y - r, x + r, y + r), 0.9, points))
        return largest_first(found)


def discs(*places: tuple[float, float, int]) -> NDArray[np.uint8]:
    """A grey frame with discs ``x, y, channel``; later ones lie in front."""
    frame = np.full((120, 200, 3), 90, np.uint8)
    y, x = np.mgrid[:120, :200]
    for middle, height, channel in places:
        frame[(x - middle) ** 2 + (y - height) ** 2 < 100] = np.eye(3, dtype=np.uint8)[channel] * 220
    return frame


def test_people_who_pass_each_other_keep_their_numbers() -> None:
    frames = [discs((20 + 4 * step, 60, 0), (180 - 4 * step, 62, 1)) for step in range(40)]
    found = followed(Discs(), frames)
    starts = {sighting.track: middle(sighting) for sighting in found[0].sightings}
    assert set(starts.values()) == {20, 180}
    for step, frame in enumerate(found):
        for sighting in frame.sightings:
            if abs(160 - 8 * step) > 30:  # not while one hides the other
                own = 20 + 4 * step if starts[sighting.track] == 20 else 180 - 4 * step
                assert abs(middle(sighting) - own) < 8
    assert tracks(found)[-1] == [1, 2]


def test_somebody_in_the_place_of_an_unseen_face_is_nobody_until_that_one_has_gone() -> None:
    before, between, after = ([discs((60, 60, channel))] * 6 for channel in (0, 1, 0))
    found = followed(Discs(), before + between + after)
    sightings = [sighting for frame in found for sighting in frame.sightings]
    assert {sighting.track for sighting in sightings} == {1, 2}
    assert {sighting.track for sighting in sightings if sighting.confirmed} == {1}
    assert tracks(found)[-1] == [1]
    stays = followed(Discs(), before + between * 4)
    assert stays[-1].sightings[0].confirmed


def middle(sighting: Sighting) -> int:
    assert sighting.crop.face is not None
    return round((sighting.crop.face.box[0] + sighting.crop.face.box[2]) / 2)


def test_two_hundred_faces() -> None:
    class Crowd:
        name = "crowd"

        def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
            if image.shape[:2] == (TRACKING.window, TRACKING.window):
                return []
            boxes = [(40.0 * (n % 20), 40.0 * (n // 20)) for n in range(200)]
            return [DetectedFace((x, y, x + 30, y + 30), 0.9) for x, y in boxes]

    frame = np.random.default_rng(0).integers(0, 255, (400, 800, 3), dtype=np.uint8)
    found = followed(Crowd(), [frame] * 3, rate=2)
    assert [len(set(frame)) for frame in tracks(found)] == [200] * 3
    assert tracks(found)[0] == tracks(found)[-1]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (16, 16)])
def test_frames_too_small_for_a_face(mtcnn: MTCNN, size: tuple[int, int]) -> None:
    frames = [np.full((*size, 3), level, np.uint8) for level in (0, 255, 30)]
    assert tracks(followed(mtcnn, frames)) == [[]] * 3


def test_neighbouring_frames_are_not_looked_at_twice(
    mtcnn: MTCNN, moving_portrait: Callable[..., Frames]
) -> None:
    frames = moving_portrait(12, rate=60)
    found = followed(mtcnn, frames, rate=60)
    assert [frame.looked for frame in found] == [True, False, False] * 4
    assert tracks(found) == [[1], [], []] * 4
    cut = followed(mtcnn, [*frames[:4], other_person(frames[4])], rate=60)
    assert cut[4].cut
    assert cut[4].looked


def test_the_rate_of_the_frames_does_not_matter(mtcnn: MTCNN, portrait: object) -> None:
    with Image.open(str(portrait)) as opened:
        frame = np.asarray(opened.convert("RGB").resize((160, 160)))
    detector = Counted(mtcnn)
    assert tracks(followed(detector, [frame] * 4, rate=1)) == [[1]] * 4
    assert detector.whole == 4
