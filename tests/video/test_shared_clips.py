"""Real clips with several people: no track changes its person. The times were read off the pictures."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("av", reason="clips need the extra video")

import agelens
from agelens.video.person import FrameAges

MODEL = "student-strided-fairface-int8"

# Seconds in which a camera that swings from face to face shows each of three people.
SEEN = {
    "orange coat": ((0.0, 1.75), (4.5, 7.25), (8.85, 11.2), (14.7, 15.8)),
    "red jacket": ((1.35, 2.5), (3.6, 4.75), (7.1, 7.8), (8.65, 9.7)),
    "green jacket": ((2.4, 3.6), (7.65, 8.7)),
}


def courses(clip: Path) -> dict[int, list[tuple[float, float]]]:
    """Times and places (the middle of the box, from left) of each person."""
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)

    def take(frame: FrameAges) -> None:
        for person in frame.people:
            assert person.face.box is not None
            if frame.looked:
                found[person.person].append((frame.time, (person.face.box[0] + person.face.box[2]) / 2))

    agelens.estimate_video(clip, model=MODEL, on_frame=take)
    return found


def test_a_group(shared: Path) -> None:
    found = courses(shared / "data" / "clips" / "video_01.mp4")
    whole = [course for course in found.values() if len(course) > 35]
    assert len(whole) == 4
    for course in whole:
        places = [place for _, place in course]
        assert max(places) - min(places) < 40  # the people stand 60 to 160 pixels apart
    starts = [round(course[0][1]) for course in whole]
    assert starts == pytest.approx([117, 261, 330, 420], abs=20)


@pytest.mark.slow
def test_a_camera_that_swings_from_face_to_face(shared: Path) -> None:
    found = courses(shared / "data" / "clips" / "new_face_video-90.mp4")
    assert 8 <= len(found) <= 12
    for course in found.values():
        shows = {
            who
            for who, spans in SEEN.items()
            if all(any(start <= time <= end for start, end in spans) for time, _ in course)
        }
        assert shows, f"a track that shows nobody alone: {course[0][0]:.2f} to {course[-1][0]:.2f}"
    assert sum(map(len, found.values())) > 120
