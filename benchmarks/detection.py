"""Faces missed, landmark error and time of a detector on FG-NET's scans and dlib's example photographs.

FG-NET: every photograph has one face with 68 known points. Photographs: the annotated boxes and points of
the two XML files; faces over 40 px count for the misses. The landmark error is the median distance, over
faces and points, in distances between the eyes.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from agelens.data.adapt import read_dataset
from agelens.faces.detectors import make_detector
from agelens.faces.image import read_image


def errors(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(5,) distances of the landmarks in distances between the eyes."""
    return np.linalg.norm(landmarks - truth, axis=1) / np.linalg.norm(truth[1] - truth[0])


def fgnet(folder: Path, detector: object) -> None:
    rows = read_dataset("fgnet", folder, content=False)
    found, seconds = [], 0.0
    for path, text in zip(rows["path"], rows["landmarks"], strict=True):
        truth = np.array(text.split(), float).reshape(5, 2)
        image = read_image(Path(rows.attrs["root"]) / path)
        started = time.perf_counter()
        faces = detector.detect(image)
        seconds += time.perf_counter() - started
        candidates = [errors(face.landmarks, truth) for face in faces if face.landmarks is not None]
        best = min(candidates, key=np.mean, default=np.full(5, np.inf))
        if best.mean() <= 0.5:
            found.append(best)
    missed = len(rows) - len(found)
    print(f"FG-NET: {missed} of {len(rows)} faces missed ({missed / len(rows):.2%}), ", end="")
    print(f"landmark error {np.median(found):.3f}, {1e3 * seconds / len(rows):.1f} ms a photograph")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("fgnet", type=Path)
    parser.add_argument("--detector", default="mtcnn")
    arguments = parser.parse_args()
    detector = make_detector(arguments.detector)
    photos(arguments.photos, detector)
    fgnet(arguments.fgnet, detector)


if __name__ == "__main__":
    main()
