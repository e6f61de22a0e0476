"""Quality of a face: size, blur, pose, truncation, and the warnings of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

pytest.importorskip("fastapi", reason="the service needs the extra serve")


from agelens.faces.alignment import CHIP_LANDMARKS
from agelens.faces.detection import DetectedFace
from agelens.faces.quality import FaceQuality, blur_effect, estimate_pitch, face_quality, share_outside
from agelens.faces.quality_warnings import THRESHOLDS, face_warnings, photo_warnings


def at(points: NDArray[np.float64]) -> DetectedFace:
    return DetectedFace((0.0, 0.0, 100.0, 100.0), 1.0, landmarks=points)


def turned(yaw: float = 0.0, pitch: float = 0.0) -> NDArray[np.float64]:
    """Landmarks of a head with eyes 1 apart, turned and seen from afar; the nose stands out by half of it."""
    mouth = 0.403 / 0.393
    points = np.array(
        [(-0.5, 0, 0), (0.5, 0, 0), (0, 0.576 * mouth, 0.5), (-0.4, mouth, 0), (0.4, mouth, 0)], np.float64
    )
    a, b = np.radians([yaw, pitch])
    sideways = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    upwards = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turned_points: NDArray[np.float64] = (points @ sideways.T @ upwards.T)[:, :2] * 40 + 50
    return turned_points


@pytest.mark.parametrize("pitch", [-40.0, -10.0, 0.0, 25.0])
@pytest.mark.parametrize("tilt", [0.0, 90.0, 200.0])
def test_pitch_of_a_turned_head(pitch: float, tilt: float) -> None:
    a = np.radians(tilt)
    points = turned(pitch=pitch) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    assert estimate_pitch(points) == pytest.approx(pitch, abs=0.2)


def test_pitch_of_impossible_landmarks() -> None:
    flat = np.array([(0, 0), (1, 0), (0.5, 0.5), (0, 0), (1, 0)], np.float64)
    assert estimate_pitch(flat) == 0
    with pytest.raises(ValueError, match="coincide"):
        estimate_pitch(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="landmarks are"):
        estimate_pitch(np.zeros((4, 2)))


def test_blur_by_plain_loops() -> None:
    """Crété's measure, written as in the paper, along the rows and columns of one image."""
    image = np.random.default_rng(0).integers(0, 256, (14, 17, 3), dtype=np.uint8)
    grey_level = image @ np.array([0.299, 0.587, 0.114])

    def along(rows: NDArray[np.float64]) -> float:
        before = lost = 0.0
        for row in rows:
            padded = [row[min(max(x, 0), len(row) - 1)] for x in range(-4, len(row) + 4)]
            mean = [sum(padded[x : x + 9]) / 9 for x in range(len(row))]
            for x in range(1, len(row)):
                difference = abs(row[x] - row[x - 1])
                before += difference
                lost += max(0.0, difference - abs(mean[x] - mean[x - 1]))
        return (before - lost) / before

    assert blur_effect(image) == pytest.approx(max(along(grey_level), along(grey_level.T)), abs=1e-4)


def test_blur_rises_with_blurring_and_ignores_contrast(portrait: Path) -> None:
    picture = Image.open(portrait).convert("RGB").crop((160, 50, 290, 180)).resize((96, 96))
    blurs = [
        blur_effect(np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma)))) for sigma in (0, 1, 2, 4)
    ]
    assert blurs == sorted(blurs)
    assert blurs[0] < THRESHOLDS["blur"] < blurs[2]
    faint = np.asarray(picture, np.float32) * 0.5 + 60
    assert blur_effect(faint.astype(np.uint8)) == pytest.approx(blurs[0], abs=0.02)
    assert blur_effect(np.full((20, 20, 3), 7, np.uint8)) == 1
    with pytest.raises(ValueError, match="an image is"):
        blur_effect(np.zeros((4, 4), np.uint8))


def test_share_outside() -> None:
    assert share_outside((10, 10, 20, 20), 100, 100) == 0
    assert share_outside((-5, 0, 5, 10), 100, 100) == pytest.approx(0.5)
    assert share_outside((95, 95, 105, 105), 100, 100) == pytest.approx(0.75)
    assert share_outside((200, 0, 210, 10), 100, 100) == 1
    assert share_outside((5, 5, 5, 9), 100, 100) == 0


def test_quality_without_landmarks() -> None:
    crop = np.zeros((16, 16, 3), np.uint8)
    assert face_quality(crop, None, 50, 50) == FaceQuality(None, 1.0, None, None, None)
    found = face_quality(crop, DetectedFace((0, 0, 60, 50), 1.0), 50, 50)
    assert (found.eye_distance, found.yaw, found.pitch) == (None, None, None)
    assert found.outside == pytest.approx(1 / 6)
    coinciding = face_quality(crop, at(np.zeros((5, 2))), 50, 50)
    assert (coinciding.yaw, coinciding.pitch) == (None, None)


def test_warnings_of_faces() -> None:
    good = FaceQuality(60.0, 0.4, 3.0, -5.0, 0.0)
    assert face_warnings(good) == []
    cases = {
        "too_small": FaceQuality(15.0, 0.4, 3.0, -5.0, 0.0),
        "blurred": FaceQuality(60.0, 0.8, 3.0, -5.0, 0.0),
        "extreme_pose": FaceQuality(60.0, 0.4, -50.0, None, 0.0),
        "truncated": FaceQuality(60.0, 0.4, None, None, 0.2),
    }
    for code, quality in cases.items():
        assert [warning.code for warning in face_warnings(quality)] == [code]
    assert [warning.code for warning in face_warnings(FaceQuality(60.0, 0.4, 0.0, 45.0, 0.0))] == [
        "extreme_pose"
    ]
    assert face_warnings(FaceQuality(None, 0.4, None, None, None)) == []
    assert photo_warnings(1, 0) == []


def test_template_face_is_frontal() -> None:
    assert estimate_pitch(CHIP_LANDMARKS * 200) == pytest.approx(0, abs=1)
