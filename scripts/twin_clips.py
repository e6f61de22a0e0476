"""Write the golden results that the page's tracks and running ages are held against.

The page follows faces in JavaScript: ``tracker.js`` and ``fusion.js`` of its folder ``estimation`` are twins
of ``agelens.video``. A scene of drawn faces is followed by the Python code, and what its detector was asked
and answered is kept with the result; ``node --test tests/serve/twin`` replays it in JavaScript.

    python scripts/twin_clips.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agelens.faces.alignment import CHIP_LANDMARKS, DEFAULT_GEOMETRY
from agelens.faces.detection import DetectedFace
from agelens.faces.quality import FaceQuality
from agelens.video.fusion import RunningAge, frame_weight, mean_absolute_deviation
from agelens.video.settings import TRACKING
from agelens.video.tracker import FaceTracker

GOLDEN = Path(__file__).parents[1] / "tests" / "serve" / "twin" / "clips.json"
GEOMETRY = DEFAULT_GEOMETRY.with_size(32)
SETTINGS = {"window": 64, "turned_every": 0.5, "look_every": 0.09}
SIZE = (200, 120)  # width and height of a frame
SIDE = 48  # of a drawn face, which looks like a chip
RATE = 10  # frames a second


class Drawn(NamedTuple):
    """A face in a frame: which of them, and where its upper left corner lies."""

    face: int
    x: int
    y: int


def scene() -> list[tuple[int, list[Drawn]]]:
    """Background and faces of each frame: one comes, is hidden, passes another, leaves; then a cut.

    At last another face stands in the place of the one that was there, until that one comes back.
    """
    frames: list[tuple[int, list[Drawn]]] = []
    for number in range(50):
        faces = []
        if 2 <= number < 21 and not 8 <= number < 12:
            faces.append(Drawn(0, 10 + 4 * number, 20))
        if number >= 5:
            faces.append(Drawn(1, 140 - 4 * (number - 5) if number < 24 else 64, 60))
        if number >= 36:
            faces = [Drawn(0 if number < 42 or number > 46 else 1, 100, 40)]
        frames.append((0 if number < 36 else 1, faces))
    return frames


def draw(background: int, faces: list[Drawn]) -> NDArray[np.uint8]:
    """Draw a frame: (H, W, 3) uint8; ``golden.mjs`` draws the same.

    A face is a square of four coloured quarters; its blue says which face it is.
    """
    width, height = SIZE
    image = np.empty((height, width, 3), np.uint8)
    image[:] = ((40, 60, 0), (200, 20, 0))[background]
    for face, left, top in faces:
        for row in range(SIDE):
            for column in range(SIDE):
                y, x = top + row, left + column
                if not (0 <= y < height and 0 <= x < width):
                    continue
                quarter = (row * 2 // SIDE) * 2 + column * 2 // SIDE
                red, green = 30 + 50 * ((quarter + face) % 4), 30 + 50 * ((quarter * (1 + 2 * face)) % 4)
                image[y, x] = (red, green, 100 + 100 * face)
    return image


class PaintedFaces:
    """A detector that finds the drawn faces by their blue, in a frame and in an upright window of it.

    It records size and mean of every image that it is asked to search, and its answers.
    """

    name = "painted"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find each drawn face that shows at least half of itself."""
        found = []
        for face in (0, 1):
            rows, columns = np.nonzero(np.abs(image[..., 2].astype(int) - (100 + 100 * face)) < 30)
            if len(rows) < 60:
                continue
            x1, x2, y1, y2 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
            if not 0.6 < (x2 - x1) / (y2 - y1) < 1.7:
                continue
            box = (float(x1), float(y1), float(x2), float(y2))
            landmarks = np.array(box[:2]) + CHIP_LANDMARKS * (box[2] - box[0], box[3] - box[1])
            found.append(DetectedFace(box, 0.999, landmarks))
        found.sort(key=lambda face: -face.width * face.height)
        self.calls.append(
            {
                "width": image.shape[1],
                "height": image.shape[0],
                "mean": float(image.mean()),
                "faces": [_told(face) for face in found],
            }
        )
        return found


def _told(face: DetectedFace) -> dict[str, Any]:
    landmarks = np.asarray(face.landmarks).tolist()
    return {"box": list(face.box), "confidence": face.confidence, "landmarks": landmarks}


def golden() -> dict[str, Any]:
    """Compute the golden results."""
    found: dict[str, Any] = _rounded({"tracks": _tracks(), "weights": _weights(), "ages": _ages()})
    return found


def _rounded(value: Any) -> Any:
    """Numbers to six digits after the point, at any depth."""
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def _tracks() -> dict[str, Any]:
    detector = PaintedFaces()
    tracker = FaceTracker(detector, GEOMETRY, replace(TRACKING, **SETTINGS))
    frames = []
    for number, (background, faces) in enumerate(scene()):
        asked = len(detector.calls)
        tracked = tracker.step(draw(background, faces), _time(number))
        frames.append(
            {
                "time": _time(number),
                "background": background,
                "drawn": [list(face) for face in faces],
                "calls": detector.calls[asked:],
                "sightings": [
                    {
                        "track": sighting.track,
                        "confirmed": sighting.confirmed,
                        "face": _told(sighting.crop.face),
                        "crop": _coarse(sighting.crop.pixels),
                    }
                    for sighting in tracked.sightings
                ],
                "ended": list(tracked.ended),
                "cut": tracked.cut,
                "searched": tracked.searched,
                "looked": tracked.looked,
            }
        )
    return {
        "size": SIZE,
        "side": SIDE,
        "rate": RATE,
        "geometry": GEOMETRY.to_dict(),
        "settings": SETTINGS,
        "frames": frames,
    }


def _time(number: int) -> float:
    """Seconds of a frame: some follow another too soon to be looked at."""
    return number / RATE - (0.04 if number in (15, 22) else 0.0)


def _coarse(crop: NDArray[np.uint8]) -> list[float]:
    """The mean colours of the quarters of a crop."""
    half = crop.shape[0] // 2
    return crop.reshape(2, half, 2, half, 3).mean(axis=(1, 3)).ravel().round(3).tolist()


def _weights() -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    cases = []
    for number in range(24):
        quality = {
            "eye_distance": float(random.uniform(4, 30)),
            "blur": float(random.uniform(0.3, 0.95)),
            "yaw": float(random.uniform(-70, 70)),
            "pitch": float(random.uniform(-60, 60)),
            "outside": float(max(0, random.uniform(-0.3, 0.4))),
        }
        if number < 12:
            quality |= {"yaw": quality["yaw"] / 4, "pitch": quality["pitch"] / 4, "outside": 0.0}
        cases.append({"quality": quality, "weight": frame_weight(FaceQuality(**quality))})
    return cases


def _ages() -> dict[str, Any]:
    random = np.random.default_rng(6)
    running = RunningAge()
    frames = []
    for _ in range(8):
        age, weight = float(random.uniform(20, 40)), float(random.uniform(0.02, 1))
        distribution = random.dirichlet(np.full(101, 0.1)).astype(np.float32)
        running.add(age, distribution, weight)
        shown = {"age": running.age, "distribution": running.distribution.tolist()}
        frames.append({"age": age, "distribution": distribution.tolist(), "weight": weight, "shown": shown})
    return {"frames": frames, "deviation": mean_absolute_deviation([frame["age"] for frame in frames])}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
