"""Detection and landmarks against annotated photographs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from agelens.faces.alignment import CHIP_LANDMARKS, align_chip
from agelens.faces.image import read_image
from agelens.faces.mtcnn import MTCNN
from agelens.faces.yunet_onet import YuNetONet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[YuNetONet, MTCNN])
def cascade(request):
    return request.param()


def overlap(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)]
    return width * height / (sum(areas) - width * height)


def distances(landmarks, truth):
    """(5,) errors in eye distances."""
    return np.linalg.norm(landmarks - truth, axis=1) / np.linalg.norm(truth[1] - truth[0])


def annotated_photos(folder):
    """Image path, and the boxes and 68 points of its faces."""
    for file in sorted(folder.glob("*.xml")):
        for image in ElementTree.parse(file).getroot().iter("image"):
            faces = []
            for box in image.iter("box"):
                x, y, width, height = (int(box.get(key)) for key in ("left", "top", "width", "height"))
                points = np.array(
                    [(int(part.get("x")), int(part.get("y"))) for part in box.iter("part")], float
                )
                faces.append(((x, y, x + width, y + height), points))
            yield folder / image.get("file"), faces


def five_of_68(points):
    """dlib's order: eyes' outlines 36-41 and 42-47, nose tip 30, mouth corners 48 and 54."""
    return np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), *points[[30, 48, 54]]])


def test_every_annotated_face_and_its_landmarks(shared, cascade):
    large, errors = 0, []
    for path, annotated in annotated_photos(shared / "data" / "photos"):
        found = cascade.detect(read_image(path))
        for box, points in annotated:
            best = max(found, key=lambda face: overlap(face.box, box))
            hit = overlap(best.box, box) > 0.3
            if max(box[2] - box[0], box[3] - box[1]) > 40:
                large += 1
                assert hit, f"{path.name}: {box}"
            if hit:
                errors.append(distances(best.landmarks, five_of_68(points)))
    assert large > 15
    assert len(errors) > 35
    assert np.median(errors) < 0.08


def test_no_dog_is_a_face(shared, cascade):
    assert cascade.detect(read_image(shared / "data" / "photos" / "dogs.jpg")) == []


def test_fgnet_photographs(shared, cascade):
    """Every tenth of the 1,002 scans; in FG-NET's order the eyes are 31 and 36, the nose tip 67."""
    missed, errors = 0, []
    folder = shared / "data" / "FG-NET"
    paths = sorted((folder / "images").iterdir())[::10]
    for path in paths:
        text = (folder / "points" / f"{path.stem.lower()}.pts").read_text()
        numbers = text[text.index("{") + 1 : text.index("}")].split()
        truth = np.array(numbers, float).reshape(68, 2)[[31, 36, 67, 48, 54]]
        found = [distances(face.landmarks, truth) for face in cascade.detect(read_image(path))]
        best = min(found, key=np.mean, default=np.full(5, np.inf))
        if best.mean() > 0.5:
            missed += 1
        else:
            errors.append(best)
    assert len(paths) > 90
    assert missed <= 0.02 * len(paths)
    assert np.median(errors) < 0.08


def test_utkface_chips(shared, cascade):
    paths = sorted((shared / "data" / "UTKFace").iterdir())[::250]
    chips = [align_chip(read_image(path), cascade) for path in paths]
    fallbacks = sum(chip.alignment == "fallback" for chip in chips)
    assert fallbacks <= 0.04 * len(chips)
    median = np.median([chip.face.landmarks / 200 for chip in chips if chip.face], axis=0)
    np.testing.assert_allclose(median, CHIP_LANDMARKS, atol=0.012)
