"""Faces in pictures that lie on a side or stand on their head."""

from __future__ import annotations

import numpy as np
import pytest

from agelens.faces.alignment import align_detected
from agelens.faces.detection import DetectedFace
from agelens.faces.image import read_image
from agelens.faces.mtcnn import MTCNN
from agelens.faces.turned import detect_turned


@pytest.fixture(scope="module")
def mtcnn():
    return MTCNN()


class Found:
    """A detector that gives prepared answers in turn."""

    name = "found"

    def __init__(self, *answers):
        self.answers = list(answers)

    def detect(self, image):
        return self.answers.pop(0)


def face(confidence, points=True):
    landmarks = np.array([(1, 1), (3, 1), (2, 2), (1, 3), (3, 3)], float) if points else None
    return DetectedFace((0, 0, 4, 4), confidence, landmarks)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_portrait_shows_the_same_face(mtcnn, portrait, quarters):
    image = read_image(portrait)
    (upright,) = mtcnn.detect(image)
    turned = np.ascontiguousarray(np.rot90(image, quarters))
    (found,) = detect_turned(turned, mtcnn)
    crop = align_detected(turned, found).crop.astype(int)
    assert np.abs(crop - align_detected(image, upright).crop).mean() < 3
    x1, y1, x2, y2 = found.box
    assert x1 < found.landmarks[:, 0].min() < found.landmarks[:, 0].max() < x2
    assert y1 < found.landmarks[:, 1].min() < found.landmarks[:, 1].max() < y2


def test_an_upright_picture_is_searched_once():
    detector = Found([face(0.99)])
    (found,) = detect_turned(np.zeros((8, 6, 3), np.uint8), detector)
    assert found.confidence == 0.99
    assert detector.answers == []


@pytest.mark.parametrize(
    ("answers", "confidences"),
    [
        ([[], [face(0.999)], [face(0.999)], [], []], [0.999]),
        ([[], [face(0.999)], [], [], []], []),  # the mirror image disagrees
        ([[], [face(0.99)], [], []], []),  # not certain enough
        ([[face(0.9)], [face(0.99)], [], []], [0.9]),
        ([[face(0.9)], [], [face(0.997)], [face(0.997)], []], [0.997]),
        ([[], [face(0.996)], [face(0.996)], [face(0.999)], [face(0.999)], []], [0.999]),
        ([[], [face(0.999, points=False)], [], []], []),  # nothing to align it by
        ([[face(0.5, points=False)]], [0.5]),
    ],
)
def test_when_a_turned_picture_counts(answers, confidences):
    detector = Found(*answers)
    found = detect_turned(np.zeros((8, 6, 3), np.uint8), detector)
    assert [face.confidence for face in found] == confidences
    assert detector.answers == []


def test_a_picture_without_a_face_stays_one(mtcnn):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    assert detect_turned(noise, mtcnn) == []
