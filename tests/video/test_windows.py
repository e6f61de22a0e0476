"""Windows that are searched side by side give the faces of each."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agelens.faces.detection import DetectedFace
from agelens.video.windows import search_windows

SIDE = 20


class BrightPixels:
    """Finds every white pixel as a face of six pixels' side."""

    name = "bright"

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        self.calls += 1
        rows, columns = np.nonzero(image[..., 0] == 255)
        return [
            DetectedFace(
                (x - 3.0, y - 3.0, x + 3.0, y + 3.0), 1.0, np.full((5, 2), (x, y), float), np.zeros((2, 2))
            )
            for x, y in zip(columns.tolist(), rows.tolist(), strict=True)
        ]


@pytest.mark.parametrize("number", [0, 1, 2, 5, 16, 37])
def test_side_by_side_is_as_one_by_one(number: int) -> None:
    random = np.random.default_rng(number)
    windows = [np.full((SIDE, SIDE, 3), 100, np.uint8) for _ in range(number)]
    for window in windows[: number // 2 + 1]:  # the others are empty
        window[tuple(random.integers(0, SIDE, 2))] = 255
    together, alone = BrightPixels(), BrightPixels()
    found = search_windows(together, windows, together=True)
    wanted = search_windows(alone, windows, together=False)
    assert (together.calls, alone.calls) == (-(-number // 16), number)
    assert [[face.box for face in faces] for faces in found] == [
        [face.box for face in faces] for faces in wanted
    ]
    for faces, others in zip(found, wanted, strict=True):
        for face, other in zip(faces, others, strict=True):
            np.testing.assert_array_equal(face.landmarks, other.landmarks)


def test_a_face_where_no_window_is_belongs_to_none() -> None:
    class Everywhere:
        name = "everywhere"

        def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
            places = [
                (-9.0, 5.0),
                (30.0, 30.0),
                (5.0, 5.0),
            ]  # outside, in the empty fourth place, in the first
            return [DetectedFace((x - 2, y - 2, x + 2, y + 2), 1.0) for x, y in places]

    found = search_windows(Everywhere(), [np.zeros((SIDE, SIDE, 3), np.uint8)] * 3, together=True)
    assert [len(faces) for faces in found] == [1, 0, 0]
    assert found[0][0].landmarks is None
