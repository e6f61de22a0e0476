"""The one decision from an image to its crops."""

from __future__ import annotations

import numpy as np
import pytest

from agelens.errors import InputError
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.faces.crops import ImageKind, crop_faces
from agelens.faces.detection import DetectedFace

GEOMETRY = DEFAULT_GEOMETRY.with_size(16)


class Boxes:
    """A detector that finds given boxes."""

    name = "boxes"

    def __init__(self, *boxes):
        self.boxes = boxes

    def detect(self, image):
        return [DetectedFace(box, 0.5, landmarks=None) for box in self.boxes]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_kinds_of_the_public_options():
    assert ImageKind.of(crops=False, aligned=False) is ImageKind.PHOTO
    assert ImageKind.of(crops=True, aligned=False) is ImageKind.CHIP
    assert ImageKind.of(crops=False, aligned=True) is ImageKind.ALIGNED
    with pytest.raises(InputError, match="crops and aligned exclude each other"):
        ImageKind.of(crops=True, aligned=True)


def test_a_photo_gives_a_crop_a_face(image):
    detector = Boxes((0, 0, 40, 40), (30, 10, 60, 40), (5, 5, 15, 15))
    cropped = crop_faces(image, ImageKind.PHOTO, detector, GEOMETRY, most=2)
    assert [crop.face.box for crop in cropped.crops] == [(0, 0, 40, 40), (30, 10, 60, 40)]
    assert cropped.left_out == 1
    assert {crop.pixels.shape for crop in cropped.crops} == {(16, 16, 3)}
    assert {crop.image_size for crop in cropped.crops} == {(80, 60)}
    assert crop_faces(image, ImageKind.PHOTO, Boxes(), GEOMETRY).crops == ()


def test_a_box_selects_the_face_that_overlaps_most(image):
    detector = Boxes((0, 0, 40, 40), (30, 10, 60, 40))
    (crop,) = crop_faces(image, ImageKind.PHOTO, detector, GEOMETRY, box=(35, 12, 58, 38)).crops
    assert crop.face.box == (30, 10, 60, 40)
    assert crop_faces(image, ImageKind.PHOTO, detector, GEOMETRY, box=(70, 50, 80, 60)).crops == ()


def test_a_chip_gives_one_crop_whatever_is_detected(image):
    (crop,) = crop_faces(image, ImageKind.CHIP, Boxes(), GEOMETRY).crops
    assert (crop.face, crop.alignment) == (None, "fallback")


def test_an_aligned_image_needs_no_detector(image):
    square = image[:32, :32]
    (crop,) = crop_faces(square, ImageKind.ALIGNED, None, GEOMETRY).crops
    assert (crop.face, crop.alignment, crop.image_size) == (None, "aligned", (32, 32))
    with pytest.raises(InputError, match="square; this image is 80 x 60"):
        crop_faces(image, ImageKind.ALIGNED, None, GEOMETRY)
    for kind in (ImageKind.PHOTO, ImageKind.CHIP):
        with pytest.raises(ValueError, match="need a detector"):
            crop_faces(image, kind, None, GEOMETRY)


def test_faces_of_a_reduced_image_are_in_pixels_of_the_full_one(image):
    detector = Boxes((10, 10, 30, 40))
    plain = crop_faces(image, ImageKind.PHOTO, detector, GEOMETRY).crops[0]
    crop = crop_faces(image, ImageKind.PHOTO, detector, GEOMETRY, full_size=(160, 240)).crops[0]
    assert crop.face.box == (20, 40, 60, 160)
    assert crop.image_size == (160, 240)
    np.testing.assert_array_equal(crop.pixels, plain.pixels)


def test_boxes_are_clipped_to_the_image():
    assert DetectedFace((-5, 10, 90, 70), 1.0).box_inside(80, 60) == (0, 10, 80, 60)
    assert DetectedFace((5, 10, 20, 30), 1.0).box_inside(80, 60) == (5, 10, 20, 30)


def landmarks(*points):
    return np.array(points, float)


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), np.nan),
        np.full((5, 2), 12.0),
        landmarks((20, 20), (30, 20), (25, 25), (21, 30), (np.inf, 30)),
        np.zeros((5, 3)),
        np.zeros(10),
    ],
)
@pytest.mark.parametrize("kind", [ImageKind.PHOTO, ImageKind.CHIP])
def test_landmarks_that_cannot_align_leave_the_box(image, points, kind):
    class Odd(Boxes):
        def detect(self, image):
            return [DetectedFace((10, 10, 40, 40), 0.5, points)]

    (crop,) = crop_faces(image, kind, Odd(), GEOMETRY).crops
    assert crop.alignment == "fallback"
    if kind is ImageKind.PHOTO:
        (plain,) = crop_faces(image, kind, Boxes((10, 10, 40, 40)), GEOMETRY).crops
        np.testing.assert_array_equal(crop.pixels, plain.pixels)


@pytest.mark.parametrize("box", [(np.nan, 0, 5, 5), (0, 0, np.inf, 5), (5, 5, 5, 9), (9, 0, 5, 5)])
def test_a_face_without_a_box_is_the_detectors_fault(image, box):
    with pytest.raises(InputError, match="the detector 'boxes' returned a face whose box is"):
        crop_faces(image, ImageKind.PHOTO, Boxes(box), GEOMETRY)
