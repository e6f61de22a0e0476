"""Faces in pictures that lie on a side or stand on their head."""

from __future__ import annotations

import numpy as np
import pytest

from agelens.faces.alignment import align_detected
from agelens.faces.detection import DetectedFace
from agelens.faces.detectors import ConfidentFaces, SoundFaces
from agelens.faces.image import read_image
from agelens.faces.turned import detect_turned
from agelens.faces.yunet_onet import YuNetONet


@pytest.fixture(scope="module")
def cascade():
    return YuNetONet()


class Found:
    """A detector that gives prepared answers in turn."""

    name = "found"

    def __init__(self, *answers):
        self.answers = list(answers)

    def detect(self, image):
        return self.answers.pop(0)


def face(confidence, points=True, upright=None):
    landmarks = np.array([(1, 1), (3, 1), (2, 2), (1, 3), (3, 3)], float) if points else None
    return DetectedFace((0, 0, 4, 4), confidence, landmarks, upright=upright)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_portrait_shows_the_same_face(cascade, portrait, quarters):
    image = read_image(portrait)
    (upright,) = cascade.detect(image)
    turned = np.ascontiguousarray(np.rot90(image, quarters))
    (found,) = detect_turned(turned, cascade)
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
        ([[face(0.75, upright=0.9)]], [0.75]),
        ([[face(0.99, upright=0.8)] * 3], [0.99] * 3),  # several small faces
        ([[face(0.99, upright=0.8)], [face(0.9, upright=0.87)], [face(0.8, upright=0.87)], [], []], [0.9]),
        ([[face(0.99, upright=0.8)], [face(0.9, upright=0.87)], [face(0.8, upright=0.8)], [], []], [0.99]),
        ([[face(0.99, upright=0.87)], [face(0.999, upright=0.865)], [], []], [0.99]),
    ],
)
def test_when_a_turned_picture_counts(answers, confidences):
    detector = Found(*answers)
    found = detect_turned(np.zeros((8, 6, 3), np.uint8), detector)
    assert [face.confidence for face in found] == confidences
    assert detector.answers == []


def test_a_picture_without_a_face_stays_one(cascade):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    assert detect_turned(noise, cascade) == []


class Reducing:
    """A cascade, which notes the sizes of the images that it is asked to make smaller and to search."""

    name = "reducing"

    def __init__(self, cascade, reduced, searched):
        self.cascade, self.asked, self.searched = cascade, reduced, searched

    def detect(self, image):
        self.searched.append(image.shape[:2])
        return self.cascade.detect(image)

    def reduced(self, image):
        self.asked.append(image.shape[:2])
        smaller, detector = self.cascade.reduced(image)
        return smaller, Reducing(detector, self.asked, self.searched)


@pytest.fixture(scope="module")
def small_search():
    """The detector, for which an image of more than 600 pixels is large."""
    return YuNetONet(max_side=600)


def test_a_large_picture_is_made_smaller_once(small_search):
    """Without a face, so that it is searched four times."""
    detector = Reducing(small_search, [], [])
    found = detect_turned(np.zeros((3000, 200, 3), np.uint8), SoundFaces(ConfidentFaces(detector, 0.1)))
    assert found == []
    assert detector.asked == [(3000, 200)]
    assert detector.searched == [(600, 40), (40, 600), (600, 40), (40, 600)]


def test_a_face_in_a_large_turned_picture_is_where_it_is(small_search, portrait):
    image = np.full((1000, 1200, 3), 128, np.uint8)
    image[300:812, 500:1012] = read_image(portrait)
    (upright,) = small_search.detect(image)
    (found,) = detect_turned(image, small_search)
    assert (found.box, found.confidence) == (upright.box, upright.confidence)
    assert np.array_equal(found.landmarks, upright.landmarks)
    (turned,) = detect_turned(np.ascontiguousarray(np.rot90(image)), small_search)
    x, y = turned.landmarks.T
    assert np.abs(np.stack([1200 - y, x], axis=1) - upright.landmarks).max() < 4


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_hints_name_the_way_that_stands_upright(cascade, portrait, quarters):
    turned = np.ascontiguousarray(np.rot90(read_image(portrait), quarters))
    hints = SoundFaces(ConfidentFaces(cascade, 0.1)).turns(turned)
    assert hints == ((4 - quarters,) if quarters else ())


def test_only_the_ways_of_a_hint_are_searched():
    detector = Found([], [face(0.999)], [face(0.999)])
    detector.turns = lambda image: (2,)
    (found,) = detect_turned(np.zeros((8, 6, 3), np.uint8), detector)
    assert found.confidence == 0.999
    assert detector.answers == []
