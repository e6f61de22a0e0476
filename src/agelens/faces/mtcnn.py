"""Faces and five landmarks by a cascade of three small networks (MTCNN).

The cascade is written here; its last two networks are those of `agelens.faces.mtcnn_networks`.

[1] Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks,
    IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.cores import bounded_threads
from agelens.errors import InputError
from agelens.faces.detection import DetectedFace, Reopened, check_image
from agelens.faces.mtcnn_networks import (
    Level,
    OutputNetwork,
    RefinementNetwork,
    network_input,
    network_path,
    open_network,
    regressed,
    squared,
    suppress,
)
from agelens.faces.prelu import spell_out_prelu
from agelens.faces.search_size import LEAST_FACE, SearchSize

__all__ = ["MTCNN"]

_CELL = LEAST_FACE  # pixels of PNet's receptive field
_STRIDE = 2  # pixels between PNet's cells


class MTCNN(Reopened):
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
        if len(thresholds) != 3 or not all(0 < threshold < 1 for threshold in thresholds):
            raise InputError(f"thresholds are three numbers between 0 and 1, not {thresholds}")
        if not 0.2 <= scale_factor <= 0.95:
            raise InputError(f"scale_factor is between 0.2 and 0.95, not {scale_factor}")
        self.size = SearchSize(min_face_size, max_side)
        self.thresholds = thresholds
        self.scale_factor = scale_factor
        self.threads = bounded_threads(threads)
        self._open()

    def _open(self) -> None:
        pnet = spell_out_prelu(network_path("pnet").read_bytes())
        self._pnet = open_network(pnet, self.threads)
        self._rnet = RefinementNetwork(self.thresholds[1], self.threads)
        self._onet = OutputNetwork(self.thresholds[2], self.threads)

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces with their landmarks; see `FaceDetector`."""
        check_image(image)
        height, width = image.shape[:2]
        picture, smallest = self.size.searched(image)
        levels = self._pyramid(picture, smallest)
        boxes = self._rnet.refine(levels, squared(self._propose(levels)))
        found = self._onet.confirm(levels, squared(boxes))
        return found.faces(width / picture.width, height / picture.height)

    def reduced(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], MTCNN]:
        """Make a large image smaller; see `ReducingSearch`."""
        if self.size.of(image.shape[1], image.shape[0])[1] == 1:
            return image, self
        picture, smallest = self.size.searched(image)
        detector = object.__new__(MTCNN)  # with the same open networks
        detector.__dict__.update(self.__dict__, size=SearchSize(smallest))
        return np.asarray(picture), detector

    def smallest_face(self, width: int, height: int) -> float:
        """Compute the smallest face that is looked for; see `SizedSearch`."""
        return self.size.smallest_face(width, height)

    def _pyramid(self, picture: Image.Image, smallest: float) -> list[Level]:
        """The image at the scales where PNet's cell spans ever larger faces; level 0 is the image."""
        levels = [(1.0, picture)]
        scale = _CELL / smallest
        while min(picture.size) * scale >= _CELL:
            size = (round(picture.width * scale), round(picture.height * scale))
            source = levels[-1][1]
            levels.append((scale, source.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)))
            scale *= self.scale_factor
        return levels

    def _propose(self, levels: list[Level]) -> NDArray[np.float64]:
        """(N, 4) boxes that PNet proposes over all levels."""
        boxes, scores = [np.empty((0, 4))], [np.empty(0)]
        for scale, level in levels[1:]:
            pixels = np.asarray(level)[None]
            regression, probability = self._pnet.run(None, {"input_1": network_input(pixels)})
            face = probability[0, :, :, 1]
            x, y = np.nonzero(face >= self.thresholds[0])
            if len(x) == 0:
                continue
            corner = np.stack([x, y], axis=1) * float(_STRIDE)
            cells = np.concatenate([corner, corner + _CELL], axis=1) / scale
            kept = suppress(cells, face[x, y], 0.5)
            boxes.append(regressed(cells[kept], regression[0, x[kept], y[kept]]))
            scores.append(face[x[kept], y[kept]])
        found, score = np.concatenate(boxes), np.concatenate(scores)
        return found[suppress(found, score, 0.5)]
