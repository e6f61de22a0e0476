"""Faces and five landmarks by YuNet's proposals, which the last networks of MTCNN judge.

YuNet [1] sees faces of 20 pixels, at a third of the cost of MTCNN's own proposals; but it is not certain of
the small ones, it takes some dogs for faces, and its landmarks are half as exact. So MTCNN's second network
[2] judges its uncertain proposals, and the third all of them; that one places the landmarks, as in the crops
that our models were trained on.

[1] Wu et al., YuNet: a tiny millisecond-level face detector, Machine Intelligence Research 2023.
[2] Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks,
    IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.cores import bounded_threads
from agelens.errors import InputError
from agelens.faces.detection import DetectedFace, Reopened, check_image
from agelens.faces.mtcnn_networks import Level, OutputNetwork, RefinementNetwork, squared
from agelens.faces.search_size import SearchSize
from agelens.faces.turned import BY_UPRIGHT
from agelens.faces.yunet import YUNET_FILE, YuNetNetwork

__all__ = ["YuNetONet"]

_PROPOSED_FACE = 20  # pixels of the smallest face as YuNet sees it
_OUTPUT_SIDE = 48  # pixels of the output network's input
_CERTAIN = 0.5  # score of a proposal that the second network need not judge
_LEAST_SIDE = 15  # pixels, as YuNet sees it, of an uncertain proposal that is judged
_MOST_UNCERTAIN = 16  # uncertain proposals that are judged, the best ones
_HINT_MARGIN = 0.05  # of scores, by which a turned small picture and the small turned picture may differ
_TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}

_SHIFT = (-0.046, -0.016)
_SIDE = 0.954
"""From the square about a box of YuNet to the one that MTCNN's second network would give: a shift and a side,
in sides of the square. Median over 826 photographs of LFW."""


class YuNetONet(Reopened):
    """YuNet's proposals [1], confirmed and aligned by MTCNN's output network [2].

    The confidence of a face is the output network's. YuNet is nearly as sure of a face on its side, and the
    output network is not: their product tells whether the face stands upright.

    Args:
        min_face_size: Smallest face that is looked for, in pixels of the image; smaller ones are left out. By
            default 40, in images of more than 5.8 megapixels a 60th of the side of a square of the same area;
            smaller ones that are found, too, stay.
        thresholds: Lowest score of a proposal, and of a face by MTCNN's second and third network.
        max_side: A larger image is shrunk to this length of its longer side before it is searched. By default
            an image is shrunk until the smallest face has 40 pixels, 20 for the proposals.
        threads: Threads of onnxruntime; at most the usable cores.
    Raises:
        InputError: A setting is out of range, or the package with MTCNN's network is not installed.
    """

    name = "yunet-onet"

    def __init__(
        self,
        min_face_size: float | None = None,
        thresholds: tuple[float, float, float] = (0.02, 0.6, 0.7),
        max_side: int | None = None,
        threads: int = 1,
    ) -> None:
        if len(thresholds) != 3 or not all(0 < threshold < 1 for threshold in thresholds):
            raise InputError(f"thresholds are three numbers between 0 and 1, not {thresholds}")
        self.size = SearchSize(min_face_size, max_side)
        self.least_side = min_face_size or 0.0
        self.thresholds = thresholds
        self.threads = bounded_threads(threads)
        self._open()

    def _open(self) -> None:
        self._yunet = YuNetNetwork(YUNET_FILE, self.threads)
        self._rnet = RefinementNetwork(self.thresholds[1], self.threads)
        self._onet = OutputNetwork(self.thresholds[2], self.threads)

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces with their landmarks; see `FaceDetector`."""
        check_image(image)
        height, width = image.shape[:2]
        picture, smallest = self.size.searched(image)
        small = _divided(picture, max(1, int(smallest // _PROPOSED_FACE)))
        boxes, scores, _ = self._yunet.propose(small, self.thresholds[0], _LEAST_SIDE, _CERTAIN)
        number = int(np.count_nonzero(scores >= _CERTAIN))
        boxes = boxes[: number + _MOST_UNCERTAIN]
        if len(boxes) == 0:
            return []
        ratio = (picture.width / small.width, picture.height / small.height)
        squares = _output_squares(boxes * (ratio * 2))
        levels = _levels(picture, small, float((squares[:, 2] - squares[:, 0]).max()))
        refined = squared(self._rnet.refine(levels, squares[number:]))
        found = self._onet.confirm(levels, np.concatenate([squares[:number], refined]))
        upright = np.append(scores[:number], np.full(len(refined), _CERTAIN))
        faces = found.faces(width / picture.width, height / picture.height, upright)
        return [face for face in faces if max(face.width, face.height) >= self.least_side]

    def turns(self, image: NDArray[np.uint8]) -> tuple[int, ...]:
        """List the quarters by which YuNet alone sees a face that may be certain; see `TurnHints`."""
        picture, smallest = self.size.searched(image)
        small = _divided(picture, max(1, int(smallest // _PROPOSED_FACE)))
        least = BY_UPRIGHT.turned - _HINT_MARGIN
        turned = ((quarters, small.transpose(method)) for quarters, method in _TURNS.items())
        return tuple(quarters for quarters, side in turned if len(self._yunet.propose(side, least)[0]))

    def reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], YuNetONet]:
        """Make a large image smaller; see `ReducingSearch`."""
        if self.size.of(image.shape[1], image.shape[0])[1] == 1:
            return image, self
        picture, smallest = self.size.searched(image)
        detector = object.__new__(YuNetONet)  # with the same open networks
        least_side = self.least_side * picture.width / image.shape[1]
        detector.__dict__.update(self.__dict__, size=SearchSize(smallest), least_side=least_side)
        return np.asarray(picture), detector

    def smallest_face(self, width: int, height: int) -> float:
        """Compute the smallest face that is looked for; see `SizedSearch`."""
        return self.size.smallest_face(width, height)


def _output_squares(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) squares, as the last networks expect them, of boxes of YuNet."""
    boxes = squared(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + sides * _SHIFT
    return np.concatenate([centres - sides * (_SIDE / 2), centres + sides * (_SIDE / 2)], axis=1)


def _divided(picture: Image.Image, factor: int) -> Image.Image:
    """A picture at a whole part of its scale."""
    if factor == 1:
        return picture
    size = (max(1, round(picture.width / factor)), max(1, round(picture.height / factor)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)


def _levels(picture: Image.Image, small: Image.Image, largest: float) -> list[Level]:
    """The picture, the smaller one, and halves of it until the largest box fits the output network."""
    levels = [(1.0, picture)]
    if small is not picture:
        levels.append((small.width / picture.width, small))
    while levels[-1][0] * largest >= 2 * _OUTPUT_SIDE:
        scale, level = levels[-1]
        levels.append((scale / 2, _divided(level, 2)))
    return levels
