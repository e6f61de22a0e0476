"""Faces and five landmarks by YuNet, on onnxruntime.

Its network comes with agelens: ``networks/yunet.onnx``, described in ``networks/yunet.md``. The file is
written for images of 640 x 640 pixels; it is opened for images of any size, which the network can take.

[1] Wu et al., YuNet: a tiny millisecond-level face detector, Machine Intelligence Research 2023.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.cores import bounded_threads
from agelens.errors import InputError
from agelens.faces.detection import DetectedFace, Reopened, check_image, largest_first
from agelens.faces.mtcnn_networks import open_network, suppress
from agelens.protocol_buffer import encoded, fields, has_external_data, varint

__all__ = ["LARGE", "STRIDES", "YUNET_FILE", "Proposals", "YuNet", "YuNetNetwork", "free_sizes"]

YUNET_FILE = Path(__file__).parent / "networks" / "yunet.onnx"
"""The network's file."""

STRIDES = (8, 16, 32)
"""Pixels between the cells of the network's three maps."""
LARGE = 320
"""Longer side of an image from which it is searched at a quarter of its scale too, for faces of 300 pixels
and more: the network was trained on smaller ones."""

_MAPS = [f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
_PADDING = STRIDES[-1]
_OVERLAP = 0.3
_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 11, 12, 13

Proposals = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""(N, 4) boxes, (N,) scores 0 to 1, and (N, 5, 2) landmarks."""


class YuNetNetwork:
    """The network of YuNet [1].

    Args:
        model: Its ONNX file of 2023.
        threads: Threads of onnxruntime.
    Raises:
        InputError: The file is missing or not such a network.
    """

    def __init__(self, model: Path, threads: int) -> None:
        try:
            content = model.read_bytes()
        except OSError as error:
            raise InputError(f"{model}: {error.strerror} (the model of the detector 'yunet')") from error
        try:
            if has_external_data(content):
                raise InputError(f"{model}: keeps tensors in other files, which are not read")
            self._session = open_network(free_sizes(content), threads)
        except InputError:
            raise
        except Exception as error:  # onnxruntime has errors of every kind
            raise InputError(f"{model}: cannot be read as a YuNet model") from error
        if [i.name for i in self._session.get_inputs()] != ["input"] or not set(_MAPS) <= {
            output.name for output in self._session.get_outputs()
        }:
            raise InputError(f"{model}: is not a YuNet model of 2023, whose maps are cls_8, obj_8, bbox_8, …")

    def propose(
        self, picture: Image.Image, threshold: float, least_side: float = 0.0, certain: float = 0.0
    ) -> Proposals:
        """Find faces of about 10 pixels and more.

        Args:
            picture: RGB.
            threshold: Lowest score of a face.
            least_side: Lowest longer side of a face whose score is below ``certain``, pixels of the picture.
            certain: See ``least_side``.
        Returns:
            The faces in pixels of the picture, the best first.
        """
        found = [self._propose(picture, threshold)]
        if max(picture.size) > LARGE:
            size = tuple(max(1, round(side / 4)) for side in picture.size)
            smaller = picture.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=1.0)
            boxes, scores, landmarks = self._propose(smaller, threshold)
            ratio = np.array([picture.width / smaller.width, picture.height / smaller.height])
            found.append((boxes * np.tile(ratio, 2), scores, landmarks * ratio))
        boxes, scores, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if least_side:
            judged = (scores >= certain) | ((boxes[:, 2:] - boxes[:, :2]).max(axis=1) >= least_side)
            boxes, scores, landmarks = boxes[judged], scores[judged], landmarks[judged]
        kept = suppress(boxes, scores, _OVERLAP)
        return boxes[kept], scores[kept], landmarks[kept]

    def _propose(self, picture: Image.Image, threshold: float) -> Proposals:
        """The faces at one scale, not yet suppressed."""
        width, height = picture.size
        columns, rows = (-(-side // _PADDING) * _PADDING for side in (width, height))
        pixels = np.zeros((1, 3, rows, columns), np.float32)  # black on the right and below
        for plane, band in zip(pixels[0, ::-1], picture.split(), strict=True):  # BGR
            plane[:height, :width] = np.asarray(band)
        maps = self._session.run(_MAPS, {"input": pixels})
        boxes, scores, landmarks = [np.empty((0, 4))], [np.empty(0)], [np.empty((0, 5, 2))]
        for index, stride in enumerate(STRIDES):
            face, here, box, points = (part[0] for part in maps[index :: len(STRIDES)])
            score = face[:, 0] * here[:, 0]
            passed = np.nonzero(score >= threshold**2)[0]
            if len(passed) == 0:
                continue
            y, x = np.divmod(passed, columns // stride)
            cell = np.stack([x, y], axis=1).astype(np.float64)
            centre = (cell + box[passed, :2]) * stride
            half = np.exp(box[passed, 2:].astype(np.float64)) * (stride / 2)
            boxes.append(np.concatenate([centre - half, centre + half], axis=1))
            scores.append(np.sqrt(score[passed].astype(np.float64)))
            landmarks.append((points[passed].reshape(-1, 5, 2) + cell[:, None]) * stride)
        return np.concatenate(boxes), np.concatenate(scores), np.concatenate(landmarks)


class YuNet(Reopened):
    """YuNet [1] by itself.

    Args:
        model: The network's ONNX file of 2023; by default the one that comes with agelens.
        score_threshold: Lowest confidence of a face.
        max_side: A larger image is shrunk to this length of its longer side before it is searched.
        threads: Threads of onnxruntime; at most the usable cores.
    Raises:
        InputError: The model file is missing or cannot be used, or a setting is out of range.
    """

    name = "yunet"

    def __init__(
        self,
        model: str | Path | None = None,
        score_threshold: float = 0.7,
        max_side: int = 1280,
        threads: int = 1,
    ) -> None:
        if not 0 < score_threshold < 1:
            raise InputError(f"score_threshold is between 0 and 1, not {score_threshold}")
        if max_side < 32:
            raise InputError(f"max_side is at least 32 pixels, not {max_side}")
        self.model = YUNET_FILE if model is None else Path(model)
        self.score_threshold = score_threshold
        self.max_side = max_side
        self.threads = bounded_threads(threads)
        self._open()

    def _open(self) -> None:
        self._network = YuNetNetwork(self.model, self.threads)

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces with their landmarks; see `FaceDetector`."""
        check_image(image)
        height, width = image.shape[:2]
        shrink = min(1.0, self.max_side / max(height, width))
        picture = Image.fromarray(image)
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        across, down = width / picture.width, height / picture.height
        proposals = zip(*self._network.propose(picture, self.score_threshold), strict=True)
        return largest_first(
            [
                DetectedFace(tuple(box.tolist()), float(score), landmarks).scaled(across, down)
                for box, score, landmarks in proposals
            ]
        )


def free_sizes(model: bytes) -> bytes:
    """Rewrite an ONNX model whose input is images of one size for images of any size.

    Args:
        model: An ONNX file whose images are called ``input``.
    Returns:
        The file with (1, 3, height, width) images, and outputs of any shape.
    Raises:
        ValueError: Not a protocol buffer.
    """
    parts = []
    for number, field, content in fields(model):
        if number == _MODEL_GRAPH:
            field = encoded(_MODEL_GRAPH, b"".join(_freed(*part) for part in fields(content)))
        parts.append(field)
    return b"".join(parts)


def _freed(number: int, field: bytes, content: bytes) -> bytes:
    """A field of a graph, without sizes."""
    if number == _GRAPH_VALUE:
        return b""
    if number in {_GRAPH_INPUT, _GRAPH_OUTPUT}:
        name = next((value for key, _, value in fields(content) if key == 1), b"")
        if number == _GRAPH_OUTPUT:
            return encoded(number, _float_value(name, b""))
        if name == b"input":
            sizes = [varint(1 << 3) + varint(1), varint(1 << 3) + varint(3)]
            sizes += [encoded(2, b"height"), encoded(2, b"width")]
            return encoded(number, _float_value(name, encoded(2, b"".join(encoded(1, s) for s in sizes))))
    return field


def _float_value(name: bytes, shape: bytes) -> bytes:
    """A value of single precision: ``ValueInfoProto``."""
    kind = varint(1 << 3) + varint(1) + shape
    return encoded(1, name) + encoded(2, encoded(1, kind))
