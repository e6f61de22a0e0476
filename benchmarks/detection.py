"""Faces missed, landmark error and time of a detector on FG-NET's scans and dlib's example photographs.

FG-NET: every photograph has one face with 68 known points. Photographs: the annotated boxes and points of
the two XML files; faces over 40 px count for the misses. The landmark error is the median distance, over
faces and points, in distances between the eyes. Turned: every tenth scan of FG-NET turned by 90, 180 and 270
degrees, through the search that turns pictures. Small faces (with ``--small``): 200 faces of LFW, made 40, 48
and 60 pixels high and laid into four of the photographs.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from PIL import Image

from agelens.data.adapt import read_dataset
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.detection import FaceDetector
from agelens.faces.detectors import make_detector
from agelens.faces.image import read_image
from agelens.faces.turned import detect_turned


def errors(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(5,) distances of the landmarks in distances between the eyes."""
    return np.linalg.norm(landmarks - truth, axis=1) / np.linalg.norm(truth[1] - truth[0])


def fgnet(folder: Path, detector: object) -> None:
    rows = read_dataset("fgnet", folder, content=False)
    found, seconds = [], 0.0
    for path, text in zip(rows["path"], rows["landmarks"], strict=True):
        truth = np.array(text.split(), float).reshape(5, 2)
        image = read_image(Path(rows.attrs["root"]) / path)
        started = time.thread_time()
        faces = detector.detect(image)
        seconds += time.thread_time() - started
        candidates = [errors(face.landmarks, truth) for face in faces if face.landmarks is not None]
        best = min(candidates, key=np.mean, default=np.full(5, np.inf))
        if best.mean() <= 0.5:
            found.append(best)
    missed = len(rows) - len(found)
    print(f"FG-NET: {missed} of {len(rows)} faces missed ({missed / len(rows):.2%}), ", end="")
    print(f"landmark error {np.median(found):.3f}, {1e3 * seconds / len(rows):.1f} ms of processor each")


def photos(folder: Path, detector: object) -> None:
    large = missed = 0
    found: list[np.ndarray] = []
    for file in sorted(folder.glob("*.xml")):
        for entry in ElementTree.parse(file).getroot().iter("image"):
            faces = detector.detect(read_image(folder / entry.get("file")))
            for box in entry.iter("box"):
                points = np.array([(int(p.get("x")), int(p.get("y"))) for p in box.iter("part")], float)
                truth = np.stack([points[36:42].mean(0), points[42:48].mean(0), *points[[30, 48, 54]]])
                candidates = [errors(face.landmarks, truth) for face in faces]
                best = min(candidates, key=np.mean, default=np.full(5, np.inf))
                side = max(int(box.get("width")), int(box.get("height")))
                large += side > 40
                missed += side > 40 and best.mean() > 0.5
                if best.mean() <= 0.5:
                    found.append(best)
    print(f"photographs: {missed} of {large} faces over 40 px missed, ", end="")
    print(f"landmark error {np.median(found):.3f} on {len(found)} faces of any size, ", end="")
    print(f"{len(detector.detect(read_image(folder / 'dogs.jpg')))} dogs taken for faces")


def turned(folder: Path, detector: FaceDetector) -> None:
    rows = read_dataset("fgnet", folder, content=False).iloc[::10]
    right = wrong = 0
    for path, text in zip(rows["path"], rows["landmarks"], strict=True):
        truth = np.array(text.split(), float).reshape(5, 2)
        image = read_image(Path(rows.attrs["root"]) / path)
        height, width = image.shape[:2]
        for quarters in (1, 2, 3):
            faces = detect_turned(np.ascontiguousarray(np.rot90(image, quarters)), detector)
            x, y = truth.T
            places = {1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[quarters]
            found = [errors(face.landmarks, np.stack(places, axis=1)).mean() < 0.5 for face in faces]
            right += any(found)
            wrong += bool(found) and not any(found)
    whole = 3 * len(rows)
    print(f"turned: {right} of {whole} right, {wrong} wrong, {whole - right - wrong} without a face")


def small(folder: Path, photos: Path, detector: FaceDetector) -> None:
    reference = make_detector("mtcnn")
    names = ("dogs.jpg", "bald_guys.jpg", "2007_007763.jpg", "2008_002079.jpg")
    grounds = [read_image(photos / name) for name in names]
    known = []
    for path in sorted(folder.glob("*/*.jpg"))[::12]:
        image = read_image(path)
        if len(faces := reference.detect(image)) == 1:
            known.append((Image.fromarray(image), faces[0]))
    for side in (40, 48, 60):
        random, missed = np.random.default_rng(0), 0
        for start in range(0, 200, 4):
            ground = Image.fromarray(grounds[start // 4 % 4])
            column, truths = ground.width // 4, []
            for number, (image, face) in enumerate(known[start : start + 4]):
                scale = side / max(face.width, face.height)
                size = (round(image.width * scale), round(image.height * scale))
                y = int(random.integers(0, ground.height - size[1]))
                x = column * number + int(random.integers(0, max(1, column - size[0])))
                ground.paste(image.resize(size, Image.Resampling.BOX), (x, y))
                truths.append(face.landmarks * scale + (x, y))
            faces = detector.detect(np.asarray(ground))
            for truth in truths:
                missed += not any(errors(face.landmarks, truth).mean() < 0.5 for face in faces)
        print(f"small faces of {side} px: {missed} of 200 missed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("fgnet", type=Path)
    parser.add_argument("--detector", default=DEFAULT_DETECTOR)
    parser.add_argument("--small", type=Path, help="folder of LFW: one folder a person")
    arguments = parser.parse_args()
    detector = make_detector(arguments.detector)
    photos(arguments.photos, detector)
    fgnet(arguments.fgnet, detector)
    turned(arguments.fgnet, detector)
    if arguments.small is not None:
        small(arguments.small, arguments.photos, detector)


if __name__ == "__main__":
    main()
