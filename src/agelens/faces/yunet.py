"""Faces and five landmarks by YuNet, which OpenCV runs.

[1] Wu et al., YuNet: a tiny millisecond-level face detector, Machine Intelligence Research 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agelens.errors import InputError, MissingExtraError
from agelens.faces.detection import DetectedFace, check_image, largest_first

__all__ = ["YuNet"]


class YuNet:
    """YuNet [1] through OpenCV's ``FaceDetectorYN``.

    Args:
        model: The network's ONNX file, e.g. ``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo.
        score_threshold: Lowest confidence of a face.
        max_side: A larger image is shrunk to this length of its longer side before it is searched.
        threads: Of no use here; every detector takes it.
    Raises:
        InputError: The model file is missing or OpenCV cannot read it, or a setting is out of range.
        MissingExtraError: OpenCV is not installed.
    """

    name = "yunet"

    def __init__(
        self,
        model: str | Path | None = None,
        score_threshold: float = 0.7,
        max_side: int = 1280,
        threads: int = 1,
    ) -> None:
        if model is None:
            raise InputError("the detector 'yunet' needs its model file: model='face_detection_yunet.onnx'")
        if not 0 < score_threshold < 1:
            raise InputError(f"score_threshold is between 0 and 1, not {score_threshold}")
        if max_side < 32:
            raise InputError(f"max_side is at least 32 pixels, not {max_side}")
        if not Path(model).is_file():
            raise InputError(f"{model}: no such file (the model of the detector 'yunet')")
        self.model = Path(model)
        self.score_threshold = score_threshold
        self.max_side = max_side
        self._open()

    def _open(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingExtraError("opencv-python-headless<5", "opencv") from error
        self._cv2: Any = cv2
        try:
            self._network = cv2.FaceDetectorYN.create(str(self.model), "", (320, 320), self.score_threshold)
        except cv2.error as error:
            raise InputError(f"{self.model}: OpenCV cannot read it as a YuNet model") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Find faces with their landmarks; see `FaceDetector`."""
        check_image(image)
        height, width = image.shape[:2]
        shrink = min(1.0, self.max_side / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        picture = self._cv2.cvtColor(np.ascontiguousarray(image), self._cv2.COLOR_RGB2BGR)
        if shrink < 1:
            picture = self._cv2.resize(picture, size, interpolation=self._cv2.INTER_AREA)
        self._network.setInputSize(size)
        _, rows = self._network.detect(picture)
        if rows is None:
            return []
        to_image = np.array([width / size[0], height / size[1]])
        faces = []
        for row in np.asarray(rows, np.float64):
            low, high = row[:2] * to_image, (row[:2] + row[2:4]) * to_image
            faces.append(
                DetectedFace(
                    box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
                    confidence=float(np.clip(row[14], 0, 1)),
                    landmarks=row[4:14].reshape(5, 2) * to_image,
                )
            )
        return largest_first(faces)
