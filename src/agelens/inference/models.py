"""The models that come with agelens, and opening a model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from agelens.errors import ModelFileError
from agelens.faces.alignment import CropGeometry
from agelens.model_file import ModelCard

__all__ = ["DEFAULT_MODEL", "MODELS", "ShippedModel", "list_models", "model_path", "open_model"]

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

MODELS = {
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
        use="the smallest and fastest: 0.11 M weights, 0.43 MB, taught by mobilefacenet-lae-utkface",
        terms=_TAUGHT_TERMS,
    ),
    "student-strided-utkface-int8": ShippedModel(
        "student-strided-utkface-int8.onnx",
        use="the same in 8 bits: 0.15 MB, as accurate",
        terms=_TAUGHT_TERMS,
    ),
    "student-strided-utkface-mirrored": ShippedModel(
        "student-strided-utkface-mirrored.onnx",
        use="the same weights on the face and its mirror image: a little more accurate, twice the time",
        terms=_TAUGHT_TERMS,
    ),
}
"""The shipped models by name: one entry adds a model."""

DEFAULT_MODEL = "resnet10-tiny-lrn-utkface"


def list_models() -> dict[str, ShippedModel]:
    """Give the shipped models by name, the default first."""
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
    """Open a model file on the CPU.

    Args:
        name_or_path: As in `model_path`.
        threads: Threads that compute one batch.
    Returns:
        The session and what the file says of itself.
    Raises:
        ModelFileError: No such file, no ONNX, or not one of ours.
        NewerModelError: It was written by a newer agelens.
    """
    path = model_path(name_or_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
    options.log_severity_level = 4  # what is wrong with a file is said by our error, once
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base of their own
        first_line = str(error).strip().splitlines()[0]
        raise ModelFileError(path, f"onnxruntime cannot read it as an ONNX model: {first_line}") from error
    card = ModelCard.from_metadata(session.get_modelmeta().custom_metadata_map, path)
    try:
        CropGeometry.from_dict(card.geometry)
    except ValueError as error:
        raise ModelFileError(path, f"damaged model file: agelens.geometry: {error}") from error
    _check_graph(session, card, path)
    return session, card


def _check_graph(session: onnxruntime.InferenceSession, card: ModelCard, path: Path) -> None:
    """Raise ModelFileError unless the graph maps images to ages and distributions as the card says."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    found = [(node.name, node.type, node.shape[1:]) for node in nodes]
    size = card.geometry["size"]
    expected = [
        ("images", "tensor(uint8)", [size, size, 3]),
        ("age", "tensor(float)", []),
        ("distribution", "tensor(float)", [len(card.age_bins)]),
    ]
    if found != expected:
        raise ModelFileError(path, f"damaged model file: its graph has {found}, not {expected}")
