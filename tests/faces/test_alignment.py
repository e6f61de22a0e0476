"""Crop geometry, similarity, cropping, yaw, chips."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agelens.faces.alignment import (
    CHIP_LANDMARKS,
    DEFAULT_GEOMETRY,
    GEOMETRIES,
    CropGeometry,
    align_chip,
    align_face,
    estimate_yaw,
    similarity_transform,
)
from agelens.faces.detection import DetectedFace
from agelens.faces.none import WholeImage

TEMPLATE = np.asarray(DEFAULT_GEOMETRY.template)


class Found:
    """A detector that always finds the same faces."""

    name = "found"

    def __init__(self, *faces: DetectedFace) -> None:
        self.faces = faces
        self.shape: tuple[int, ...] = ()

    def detect(self, image):
        self.shape = image.shape
        return list(self.faces)


def turned(points, degrees, scale, shift):
    radians = math.radians(degrees)
    turn = np.array([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]])
    return scale * points @ turn.T + shift


def smooth_image(width=400, height=300):
    """Slow waves: what is interpolated in them is known to a grey level or two."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([wave(x, y, channel) for channel in range(3)], axis=2).round().astype(np.uint8)


def wave(x, y, channel):
    return 128 + 100 * np.sin(x / (40 + 10 * channel)) * np.cos(y / (55 - 8 * channel))


def test_geometry_survives_json_and_other_sizes():
    larger = DEFAULT_GEOMETRY.with_size(224)
    assert CropGeometry.from_dict(json.loads(json.dumps(larger.to_dict()))) == larger
    assert larger.template == DEFAULT_GEOMETRY.template
    assert (larger.size, larger.name, DEFAULT_GEOMETRY.size) == (224, "agelens-v1", 112)


def test_the_geometry_of_identity_networks_is_arcfaces():
    points = [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)]  # of 112 px
    assert sorted(GEOMETRIES) == ["agelens-v1", "arcface"]
    np.testing.assert_allclose(112 * np.asarray(GEOMETRIES["arcface"].template), points, atol=0.01)
    image = smooth_image()
    for dot in points:  # a face that lies in the photo as in the crop, twice as large
        x, y = (round(2 * value) for value in dot)
        image[y - 3 : y + 3, x - 3 : x + 3] = (255, 0, 255)
    crop = align_face(image, 2 * np.array(points), GEOMETRIES["arcface"])
    np.testing.assert_allclose([crop[round(y), round(x)] for x, y in points], [(255, 0, 255)] * 5, atol=40)


@pytest.mark.parametrize(
    "damage",
    [
        {"size": 0},
        {"template": [[0, 0]] * 4},
        {"template": [[0, math.nan]] * 5},
        {"template": 3},
        {"size": "x"},
    ],
)
def test_damaged_geometry_is_refused(damage):
    with pytest.raises(ValueError, match=r"crop|template|size"):
        CropGeometry.from_dict(DEFAULT_GEOMETRY.to_dict() | damage)


def test_geometry_without_a_key_is_refused():
    with pytest.raises(ValueError, match="not a crop geometry"):
        CropGeometry.from_dict({"name": "x", "size": 112})


def test_template_is_symmetric_and_inside():
    mirrored = TEMPLATE[[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
    np.testing.assert_allclose(TEMPLATE, mirrored, atol=1e-9)
    assert TEMPLATE.min() > 0
    assert TEMPLATE.max() < 1


def test_crop_of_the_median_chip_lies_inside_the_chip():
    matrix = similarity_transform(TEMPLATE, CHIP_LANDMARKS)
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)]) @ matrix[:, :2].T + matrix[:, 2]
    assert corners.min() >= 0
    assert corners.max() <= 1
    assert np.ptp(corners[:, 0]) > 0.9  # and fills it


@settings(deadline=None)  # no clock: machines are busy
@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.01, 100),
    x=st.floats(-1e3, 1e3),
    y=st.floats(-1e3, 1e3),
    count=st.integers(2, 5),
)
def test_similarity_finds_the_transform_that_was_applied(degrees, scale, x, y, count):
    source = TEMPLATE[:count] * 100
    target = turned(source, degrees, scale, (x, y))
    matrix = similarity_transform(source, target)
    np.testing.assert_allclose(source @ matrix[:, :2].T + matrix[:, 2], target, atol=1e-6 * (1 + scale))


def test_similarity_is_the_least_squares_one():
    random = np.random.default_rng(0)
    source, target = random.normal(size=(5, 2)), random.normal(size=(5, 2))

    def error(matrix):
        return np.sum((source @ matrix[:, :2].T + matrix[:, 2] - target) ** 2)

    # The same problem as a linear one: x' = a x - b y + c, y' = b x + a y + d.
    design = np.zeros((10, 4))
    design[0::2] = np.column_stack([source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)])
    design[1::2] = np.column_stack([source[:, 1], source[:, 0], np.zeros(5), np.ones(5)])
    a, b, c, d = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    matrix = similarity_transform(source, target)
    np.testing.assert_allclose(matrix, [[a, -b, c], [b, a, d]], atol=1e-12)
    for change in np.eye(4) * 1e-3:
        p, q, r, s = np.array([a, b, c, d]) + change
        assert error(np.array([[p, -q, r], [q, p, s]])) > error(matrix)


def test_similarity_never_mirrors():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(similarity_transform(TEMPLATE, mirrored)[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (np.zeros((1, 2)), np.zeros((1, 2)), "N >= 2"),
        (np.zeros((5, 2)), np.zeros((4, 2)), "N >= 2"),
        (np.zeros((5, 3)), np.zeros((5, 3)), "N >= 2"),
        (np.ones((5, 2)), TEMPLATE, "coincide"),
        (TEMPLATE, TEMPLATE * np.nan, "finite"),
    ],
)
def test_similarity_refuses(source, target, reason):
    with pytest.raises(ValueError, match=reason):
        similarity_transform(source, target)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.7, 2.4])
@pytest.mark.parametrize("degrees", [0, 25, -140])
def test_aligned_crop_shows_the_right_pixels(count, zoom, degrees):
    geometry = DEFAULT_GEOMETRY.with_size(64)
    centred = (TEMPLATE - 0.5) * geometry.size
    points = turned(centred, degrees, zoom, (200, 150))[:count]
    crop = align_face(smooth_image(), points, geometry)
    assert (crop.shape, crop.dtype) == ((64, 64, 3), np.uint8)
    y, x = np.mgrid[:64, :64] + 0.5
    where = turned(np.stack([x, y], axis=-1) - 32, degrees, zoom, (200, 150))
    for channel in range(3):
        expected = wave(where[..., 0], where[..., 1], channel)
        assert np.abs(crop[..., channel] - expected).max() < 4


def test_shrinking_does_not_alias():
    board = np.where((np.indices((800, 800)).sum(axis=0) % 2)[..., None], 255, 0).astype(np.uint8)
    image = np.repeat(board, 3, axis=2)
    for zoom in (2.0, 2.3, 6.1):
        geometry = DEFAULT_GEOMETRY.with_size(100)
        points = turned((TEMPLATE - 0.5) * 100, 10, zoom, (400, 400))
        crop = align_face(image, points, geometry)
        assert crop.std() < 12, f"zoom {zoom}"


def test_border_is_repeated_outside_the_image():
    image = np.full((50, 60, 3), (10, 200, 90), np.uint8)
    points = TEMPLATE * 100 - 20  # the crop reaches far beyond all four borders
    crop = align_face(image, points)
    assert np.abs(crop.astype(int) - (10, 200, 90)).max() == 0


@pytest.mark.parametrize("shift", [(-500, 0), (0, -900), (500, 0), (3000, 3000), (-70, 30)])
def test_face_outside_the_image_still_gives_a_crop(shift):
    image = smooth_image(60, 50)
    crop = align_face(image, TEMPLATE * 80 + shift, DEFAULT_GEOMETRY.with_size(32))
    y, x = np.mgrid[:32, :32] + 0.5
    column = np.clip((x * 80 / 32 + shift[0]).astype(int), 0, 59)
    row = np.clip((y * 80 / 32 + shift[1]).astype(int), 0, 49)
    assert np.abs(crop.astype(int) - image[row, column]).max() < 8


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 1, 3), (7, 5, 3)])
def test_tiny_images_give_a_crop(shape):
    image = np.full(shape, 77, np.uint8)
    crop = align_face(image, CHIP_LANDMARKS * (shape[1], shape[0]) + [[0, 0], [1, 0], [0, 0], [0, 0], [0, 0]])
    assert np.all(crop == 77)


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.zeros((5, 2)), np.zeros((2, 2))])
def test_align_face_refuses_points(points):
    with pytest.raises(ValueError, match=r"points"):
        align_face(smooth_image(), points)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_align_face_refuses_images(image):
    with pytest.raises(ValueError, match=r"an image is \(H, W, 3\) uint8"):
        align_face(image, TEMPLATE)


def test_one_geometry_at_two_sizes_shows_the_same():
    points = turned((TEMPLATE - 0.5) * 100, 12, 1.2, (200, 150))
    large = align_face(smooth_image(), points, DEFAULT_GEOMETRY.with_size(128))
    small = align_face(smooth_image(), points, DEFAULT_GEOMETRY.with_size(64))
    shrunk = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BOX))
    assert np.abs(shrunk.astype(int) - small).max() <= 4


def head(yaw, roll=0.0, pitch=0.0):
    """Landmarks of a head whose nose stands out half an eye distance, seen from afar."""
    points = np.array([(-1, 0, 0), (1, 0, 0), (0, 1.1, 1.0), (-0.8, 2, 0), (0.8, 2, 0)], float) * 50
    y, p = math.radians(yaw), math.radians(pitch)
    points = points @ np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]).T
    points = points @ np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]).T
    return turned(points[:, :2], roll, 1.0, (300, 200))


@pytest.mark.parametrize("yaw", [-60, -15, 0, 30, 75])
@pytest.mark.parametrize("roll", [0, 40, -90])
def test_yaw_of_a_mean_head_is_exact(yaw, roll):
    assert estimate_yaw(head(yaw, roll)) == pytest.approx(yaw, abs=1e-6)


def test_yaw_is_positive_towards_the_images_right():
    landmarks = np.array([(100, 100), (160, 100), (150, 130), (110, 160), (155, 160)])
    assert estimate_yaw(landmarks) == pytest.approx(math.degrees(math.atan(20 / 30)))


@pytest.mark.parametrize(
    ("landmarks", "reason"), [(np.zeros((2, 2)), "landmarks"), (np.ones((5, 2)), "coincide")]
)
def test_yaw_refuses(landmarks, reason):
    with pytest.raises(ValueError, match=reason):
        estimate_yaw(landmarks)


def face_at(x, y, side, points=True, eyes=False):
    landmarks = CHIP_LANDMARKS * side + (x, y)
    return DetectedFace(
        box=(x, y, x + side, y + side),
        confidence=0.9,
        landmarks=landmarks if points else None,
        eyes=landmarks[:2] if eyes else None,
    )


def test_chip_is_searched_with_padding_and_answers_in_its_own_pixels():
    chip = smooth_image(200, 200)
    detector = Found(face_at(20, 20, 200))  # in the padded image: the chip itself
    aligned = align_chip(chip, detector)
    assert detector.shape == (240, 240, 3)
    assert aligned.alignment == "landmarks"
    assert aligned.face.box == (0, 0, 200, 200)
    np.testing.assert_allclose(aligned.face.landmarks, CHIP_LANDMARKS * 200)
    np.testing.assert_array_equal(aligned.crop, align_face(chip, CHIP_LANDMARKS * 200))


def test_chip_takes_the_large_central_face():
    central, corner, small = face_at(60, 60, 150), face_at(0, 0, 170), face_at(130, 130, 20)
    aligned = align_chip(smooth_image(200, 200), Found(corner, central, small))
    np.testing.assert_allclose(aligned.face.landmarks, central.landmarks - 20)


def test_chip_with_eyes_only():
    chip = smooth_image(200, 200)
    aligned = align_chip(chip, Found(face_at(20, 20, 200, points=False, eyes=True)))
    assert aligned.alignment == "eyes"
    np.testing.assert_array_equal(aligned.crop, align_face(chip, CHIP_LANDMARKS[:2] * 200))


def test_chip_is_searched_again_with_more_padding():
    class Late(Found):
        def detect(self, image):
            return super().detect(image) if image.shape[0] > 250 else []

    aligned = align_chip(smooth_image(200, 200), Late(face_at(40, 40, 200)))
    assert (aligned.alignment, aligned.face.box) == ("landmarks", (0, 0, 200, 200))


@pytest.mark.parametrize("detector", [Found(), Found(face_at(0, 0, 50, points=False)), WholeImage()])
def test_chip_without_points_falls_back(detector):
    chip = smooth_image(200, 200)
    aligned = align_chip(chip, detector)
    assert (aligned.alignment, aligned.face) == ("fallback", None)
    np.testing.assert_array_equal(aligned.crop, align_face(chip, CHIP_LANDMARKS * 200))
