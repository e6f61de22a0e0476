"""The models that come with agelens, and opening one by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from agelens.errors import ModelFileError
from agelens.model_file import ModelCard, open_model_file

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "ReopenableModel",
    "ShippedModel",
    "list_models",
    "model_path",
    "open_model",
]

_ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class ShippedModel:
    """One model of the zoo.

    Attributes:
        file: File name in ``agelens/inference/zoo``.
        use: What it is for, in a line.
        terms: Who may use it.
    """

    file: str
    use: str
    terms: str

    @property
    def path(self) -> Path:
        """The installed file."""
        return _ZOO / self.file


_UTKFACE_TERMS = "non-commercial research only (trained on UTKFace)"
_MS1M_TERMS = (
    "non-commercial research only (trained on UTKFace, from an identity network of MS-Celeb-1M, "
    "a set withdrawn by its publisher)"
)
_TAUGHT_TERMS = (
    "non-commercial research only (trained on UTKFace, taught by a network that starts from an identity "
    "network of MS-Celeb-1M, a set withdrawn by its publisher)"
)

_FAIRFACE_TERMS = (
    "any use, with attribution: trained on FairFace (CC BY 4.0, Kärkkäinen and Joo, WACV 2021), "
    "from ImageNet weights (Apache-2.0)"
)

_FAIRFACE_TAUGHT_TERMS = (
    "any use, with attribution: trained on FairFace (CC BY 4.0, Kärkkäinen and Joo, WACV 2021), "
    "taught by a network that starts from ImageNet weights (Apache-2.0)"
)

_DLIB_FAIRFACE_TERMS = (
    "any use, with attribution: trained on FairFace (CC BY 4.0, Kärkkäinen and Joo, WACV 2021), "
    "from dlib's face recognition network (CC0) and from ImageNet weights (Apache-2.0)"
)

MODELS = {
    "efficientnet-lite0-fairface": ShippedModel(
        "efficientnet-lite0-fairface.onnx",
        use="for any use: EfficientNet-Lite0, 3.5 M weights, learned from FairFace's age bands alone",
        terms=_FAIRFACE_TERMS,
    ),
    "efficientnet-lite0-fairface-refined": ShippedModel(
        "efficientnet-lite0-fairface-refined.onnx",
        use="for any use, its second generation: more accurate on FairFace, 128 px, slower",
        terms=_FAIRFACE_TERMS,
    ),
    "dlib-ensemble-fairface": ShippedModel(
        "dlib-ensemble-fairface.onnx",
        use="for any use, the most accurate: the refined EfficientNet-Lite0 and dlib's network, averaged",
        terms=_DLIB_FAIRFACE_TERMS,
    ),
    "student-strided-fairface": ShippedModel(
        "student-strided-fairface.onnx",
        use="for any use, tiny: 0.11 M weights, taught by efficientnet-lite0-fairface on the same faces",
        terms=_FAIRFACE_TAUGHT_TERMS,
    ),
    "student-strided-fairface-int8": ShippedModel(
        "student-strided-fairface-int8.onnx",
        use="the same in 8 bits, as accurate: the smallest for any use",
        terms=_FAIRFACE_TAUGHT_TERMS,
    ),
    "student-strided-fairface-robust": ShippedModel(
        "student-strided-fairface-robust.onnx",
        use="for any use, tiny, for poor pictures: learned noisy, soft, compressed and covered faces too",
        terms=_FAIRFACE_TAUGHT_TERMS,
    ),
    "student-strided-fairface-robust-mirrored": ShippedModel(
        "student-strided-fairface-robust-mirrored.onnx",
        use="the same weights on the face and its mirror image: the most accurate tiny one for any use",
        terms=_FAIRFACE_TAUGHT_TERMS,
    ),
    "resnet10-tiny-lrn-utkface": ShippedModel(
        "resnet10-tiny-lrn-utkface.onnx",
        use="small and fast: ResNet-10-Tiny, 1.26 M weights, by label refinery (LRN)",
        terms=_UTKFACE_TERMS,
    ),
    "resnet10-tiny-lrn-utkface-mirrored": ShippedModel(
        "resnet10-tiny-lrn-utkface-mirrored.onnx",
        use="the same weights on the face and its mirror image: a little more accurate, about twice the time",
        terms=_UTKFACE_TERMS,
    ),
    "dlib-ensemble-utkface": ShippedModel(
        "dlib-ensemble-utkface.onnx",
        use="the most accurate without MS-Celeb-1M: resnet10-tiny-lrn-utkface and two of dlib's, averaged",
        terms=_UTKFACE_TERMS,
    ),
    "mobilefacenet-lae-utkface": ShippedModel(
        "mobilefacenet-lae-utkface.onnx",
        use="the accurate one: MobileFaceNet, 1.0 M weights, from identity by LAE's baseline, mirrored",
        terms=_MS1M_TERMS,
    ),
    "mobilefacenet-lae-utkface-balanced": ShippedModel(
        "mobilefacenet-lae-utkface-balanced.onnx",
        use="the same trunk, balanced (LAE): even over the ages; better from 60 to 80, worse at 18 to 30",
        terms=_MS1M_TERMS,
    ),
    "student-strided-utkface": ShippedModel(
        "student-strided-utkface.onnx",
        use="tiny: 0.11 M weights, taught by mobilefacenet-lae-utkface; more accurate than the LRN models",
        terms=_TAUGHT_TERMS,
    ),
    "student-strided-utkface-int8": ShippedModel(
        "student-strided-utkface-int8.onnx",
        use="the same in 8 bits, as accurate: the smallest and fastest",
        terms=_TAUGHT_TERMS,
    ),
    "student-strided-utkface-mirrored": ShippedModel(
        "student-strided-utkface-mirrored.onnx",
        use="the same weights on the face and its mirror image: a little more accurate, twice the time",
        terms=_TAUGHT_TERMS,
    ),
    "student-ensemble-utkface": ShippedModel(
        "student-ensemble-utkface.onnx",
        use="two of the students in 8 bits, mirrored and averaged, in 0.35 MB: the most accurate tiny one",
        terms=_TAUGHT_TERMS,
    ),
}
"""The shipped models by name: one entry adds a model."""

DEFAULT_MODEL = "efficientnet-lite0-fairface"


def list_models() -> dict[str, ShippedModel]:
    """List the shipped models by name, the default first."""
    return {DEFAULT_MODEL: MODELS[DEFAULT_MODEL], **MODELS}


def model_path(name_or_path: str | Path | None = None) -> Path:
    """Find a model file.

    Args:
        name_or_path: A name in `MODELS`, or the path of a model file; None is the default model.
    Returns:
        The file's path.
    Raises:
        ModelFileError: There is no such model.
    """
    shipped = MODELS.get(DEFAULT_MODEL if name_or_path is None else str(name_or_path))
    path = shipped.path if shipped is not None else Path(str(name_or_path))
    if path.is_file():
        return path
    if shipped is not None:
        raise ModelFileError(path, "missing from this installation: install agelens again")
    raise ModelFileError(path, f"no such file, and no shipped model has this name ({', '.join(MODELS)})")


def open_model(
    name_or_path: str | Path | None = None, *, threads: int = 1
) -> tuple[onnxruntime.InferenceSession, ModelCard]:
    """Open a model on the CPU: the file of `model_path` by `open_model_file`, whose errors it raises too."""
    return open_model_file(model_path(name_or_path), threads=threads)


class ReopenableModel:
    """A model that can be opened again, in another process or on another machine.

    A pickled one carries the name of a shipped model, else the bytes of its file.

    Args:
        name_or_path: As in `model_path`.
    Raises:
        ModelFileError: There is no such model.
    """

    def __init__(self, name_or_path: str | Path | None = None) -> None:
        asked = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
        self.path = model_path(asked)
        self._shipped = asked if asked in MODELS else None
        self._content: bytes | None = None

    def open(self, threads: int, provider: str = "cpu") -> tuple[onnxruntime.InferenceSession, ModelCard]:
        """Open it by `open_model_file`, whose errors it raises too."""
        return open_model_file(self.path, threads=threads, content=self._content, provider=provider)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._shipped is None and self._content is None:
            try:
                state["_content"] = self.path.read_bytes()
            except OSError as error:
                raise ModelFileError(self.path, f"cannot be read again: {error.strerror}") from error
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shipped is not None:
            self.path = model_path(self._shipped)
