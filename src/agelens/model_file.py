"""Model files: the metadata of an .onnx file, as text under ``agelens.`` keys, and opening one.

The exporter stores :meth:`ModelCard.to_metadata`; :func:`open_model_file` opens a file and checks all of it.
"""

from __future__ import annotations

import json
import math
import re
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime

from agelens.calibration import Calibration
from agelens.cores import bounded_threads
from agelens.errors import InputError, ModelFileError, NewerModelError
from agelens.faces.alignment import CropGeometry
from agelens.label_distribution import AgeBins
from agelens.protocol_buffer import has_external_data
from agelens.reading import read_bytes, reason

__all__ = ["FORMAT_VERSION", "HALF_SUFFIX", "PROVIDERS", "ModelCard", "open_model_file"]

FORMAT_VERSION = 2
"""The newest format that this agelens reads. It writes 2 for a calibration with a shift, else 1."""

HALF_SUFFIX = ".float16"
"""Behind the name of a weight that is stored in 16 bits."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Providers of onnxruntime by short name; all but the first need another build of it."""

PROBE_SECONDS = 30.0
"""Time in which a network must answer two crops when its file is opened."""

_LARGEST_FILE = 2**31  # bytes, as of any protocol buffer
_SOUND_AGES = (-50.0, 250.0)  # years that a network may answer on crops without a face

_PREFIX = "agelens."
_STRUCTURED = ("geometry", "normalisation", "decoding", "licence", "provenance")


@dataclass(frozen=True)
class ModelCard:
    """Metadata of a model file: everything besides its weights.

    Attributes:
        name: Name of the model.
        age_bins: The K ages its distribution runs over.
        tau: Temperature the network was trained with.
        calibration: Temperature and intervals fitted on held-out faces; None if it was not calibrated.
        geometry: Crop geometry, ``CropGeometry.to_dict()``: ``name``, ``size`` (pixels), ``template`` (5, 2).
        normalisation: Normalisation of the pixels; it is in the graph, here for the record.
        decoding: How the outputs become an age; it is in the graph, here for the record.
        licence: Who may use it, for what; licence of code and of training data.
        provenance: Data, recipe, software, seed: where it came from.
        digest: Digest of the weights.
    """

    name: str
    age_bins: AgeBins
    tau: float
    calibration: Calibration | None
    geometry: dict[str, Any]
    normalisation: dict[str, Any]
    decoding: dict[str, Any]
    licence: dict[str, Any]
    provenance: dict[str, Any]
    digest: str

    def to_metadata(self) -> dict[str, str]:
        """Give the metadata to store in the ONNX file; :meth:`from_metadata` reads it back.

        Raises:
            ValueError: A structured field holds what JSON cannot (NaN).
            TypeError: A structured field holds an object that is no JSON value.
        """
        calibration = None if self.calibration is None else self.calibration.to_dict()
        fields = {
            "format_version": "1" if self.calibration is None or self.calibration.shift is None else "2",
            "name": self.name,
            "age_bins": str(self.age_bins),
            "tau": repr(float(self.tau)),
            "calibration": _dump(calibration),
            **{key: _dump(getattr(self, key)) for key in _STRUCTURED},
            "digest": self.digest,
        }
        return {_PREFIX + key: text for key, text in fields.items()}

    @classmethod
    def from_metadata(cls, mapping: Mapping[str, str], path: str | Path) -> ModelCard:
        """Read the metadata of a model file. Keys it does not know are left alone.

        Args:
            mapping: The metadata found in the file.
            path: The file, for the messages.
        Returns:
            The card.
        Raises:
            ModelFileError: The file is not ours, lacks a key, or a value is damaged.
            NewerModelError: The file was written in a newer format.
        """
        _check_version(mapping, path)
        bins_text = _text(mapping, "age_bins", path)
        tau_text = _text(mapping, "tau", path)
        try:
            bins = AgeBins.parse(bins_text)
        except InputError as error:
            _damaged(path, "age_bins", str(error))
        try:
            tau = float(tau_text)
        except ValueError:
            _damaged(path, "tau", f"{_shown(tau_text)} is no number")
        if not (math.isfinite(tau) and tau > 0):
            _damaged(path, "tau", f"{tau_text} is not positive")
        structured = {key: _mapping(mapping, key, path) for key in _STRUCTURED}
        try:
            CropGeometry.from_dict(structured["geometry"])
        except ValueError as error:
            _damaged(path, "geometry", str(error))
        return cls(
            name=_text(mapping, "name", path),
            age_bins=bins,
            tau=tau,
            calibration=_calibration(mapping, path),
            **structured,
            digest=_text(mapping, "digest", path),
        )


def open_model_file(
    path: str | Path, *, threads: int = 1, content: bytes | None = None, provider: str = "cpu"
) -> tuple[onnxruntime.InferenceSession, ModelCard]:
    """Open a model file.

    Args:
        path: The file.
        threads: Threads that compute one batch; at most the usable cores.
        content: The bytes of the file, if they were read already; ``path`` is then its name in messages.
        provider: A key of `PROVIDERS`: the part of onnxruntime that computes.
    Returns:
        The session and the card.
    Raises:
        InputError: ``threads`` or ``provider`` cannot be used; nothing else is used in a provider's place.
        ModelFileError: No such file, no ONNX, not one of ours, with weights in another file, or with a
            network that does not answer in time or answers values that are no ages.
        NewerModelError: It was written by a newer agelens.
    """
    path = Path(path)
    providers = _providers(provider)
    content = _content(path) if content is None else content
    _check_content(content, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = bounded_threads(threads)
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
    options.log_severity_level = 4  # a defect of the file is reported by our error, once
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the use of another provider is reported below
            session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base of their own
        raise ModelFileError(
            path, f"onnxruntime cannot read it as an ONNX model: {_first_line(error)}"
        ) from error
    if session.get_providers()[0] != providers[0]:
        raise InputError(
            f"provider {provider}: onnxruntime could not start it (a driver or a library is missing?)"
        )
    card = ModelCard.from_metadata(session.get_modelmeta().custom_metadata_map, path)
    _check_graph(session, card, path)
    _probe(session, card, path)
    return session, card


def _providers(provider: str) -> list[str]:
    """The providers to ask onnxruntime for: the one named, and the CPU for operations that it lacks."""
    if provider not in PROVIDERS:
        raise InputError(f"provider is one of {', '.join(PROVIDERS)}, not {provider!r}")
    wanted, cpu = PROVIDERS[provider], PROVIDERS["cpu"]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        present = ", ".join(name for name, known in PROVIDERS.items() if known in available)
        raise InputError(
            f"provider {provider}: the installed onnxruntime {onnxruntime.__version__} does not have it, but "
            f"{present}; another build may (onnxruntime-gpu for cuda, onnxruntime-openvino for openvino), "
            "installed in the place of onnxruntime"
        )
    return list(dict.fromkeys((wanted, cpu)))


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, _LARGEST_FILE)
    except FileNotFoundError as error:
        raise ModelFileError(path, "no such file") from error
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {reason(error)}") from error


def _check_content(content: bytes, path: Path) -> None:
    """Raise ModelFileError unless the file is a protocol buffer that keeps all of its tensors itself."""
    try:
        external = has_external_data(content)
    except ValueError as error:
        raise ModelFileError(path, f"no ONNX model: {error}") from error
    if external:
        raise ModelFileError(path, "keeps weights in another file (external data), which is refused")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _probe(session: onnxruntime.InferenceSession, card: ModelCard, path: Path) -> None:
    """Raise ModelFileError unless the network answers a black and a noisy crop in time, with sound values."""
    size = int(card.geometry["size"])
    crops = np.zeros((2, size, size, 3), np.uint8)
    pixels = np.arange(size * size * 3, dtype=np.uint32)  # NumPy's random numbers take long to load
    crops[1] = (pixels * np.uint32(2_654_435_761) >> 24).reshape(size, size, 3)
    options = onnxruntime.RunOptions()
    timer = threading.Timer(PROBE_SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        ages, distributions = session.run(["age", "distribution"], {"images": crops}, options)
    except Exception as error:  # onnxruntime's errors share no base of their own
        if timer.finished.is_set():
            raise ModelFileError(path, f"its network did not answer within {PROBE_SECONDS:g} s") from error
        raise ModelFileError(path, f"its network fails: {_first_line(error)}") from error
    finally:
        timer.cancel()
    low, high = _SOUND_AGES
    if ages.shape != (2,) or not np.all((ages >= low) & (ages <= high)):
        raise ModelFileError(path, f"its network answers {ages.tolist()}, which are no ages")
    sums = distributions.sum(axis=1) if distributions.ndim == 2 else np.full(2, np.nan)
    if distributions.shape != (2, len(card.age_bins)) or not np.all(
        (distributions >= 0).all(axis=1) & (abs(sums - 1) < 0.01)
    ):
        raise ModelFileError(path, "its network answers values that are no probabilities")


def _check_graph(session: onnxruntime.InferenceSession, card: ModelCard, path: Path) -> None:
    """Raise ModelFileError unless the graph maps images to ages and distributions as the card says."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    actual = [(node.name, node.type, node.shape[1:]) for node in nodes]
    size = card.geometry["size"]
    expected = [
        ("images", "tensor(uint8)", [size, size, 3]),
        ("age", "tensor(float)", []),
        ("distribution", "tensor(float)", [len(card.age_bins)]),
    ]
    if actual != expected:
        raise ModelFileError(path, f"damaged model file: its graph has {actual}, not {expected}")


def _check_version(mapping: Mapping[str, str], path: str | Path) -> None:
    text = mapping.get(_PREFIX + "format_version")
    if text is None:
        raise ModelFileError(path, f"not an agelens model: its metadata lacks {_PREFIX}format_version")
    if re.fullmatch("[1-9][0-9]{0,8}", text) is None:
        _damaged(path, "format_version", f"{_shown(text)} is no version")
    if int(text) > FORMAT_VERSION:
        raise NewerModelError(
            path,
            f"written by a newer agelens (format {text}; this one reads up to {FORMAT_VERSION}): "
            "pip install --upgrade agelens",
        )


def _calibration(mapping: Mapping[str, str], path: str | Path) -> Calibration | None:
    value = _json(mapping, "calibration", path)
    if value is None:
        return None
    if not isinstance(value, dict):
        _damaged(path, "calibration", f"expected a JSON object or null, found {_shown(value)}")
    try:
        return Calibration.from_dict(value)
    except ValueError as error:
        _damaged(path, "calibration", str(error))


def _shown(value: object) -> str:
    """A value of the file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + " …"


def _mapping(mapping: Mapping[str, str], key: str, path: str | Path) -> dict[str, Any]:
    value = _json(mapping, key, path)
    if not isinstance(value, dict):
        _damaged(path, key, f"expected a JSON object, found {_shown(value)}")
    return value


def _json(mapping: Mapping[str, str], key: str, path: str | Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(_text(mapping, key, path), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        _damaged(path, key, str(error))


def _text(mapping: Mapping[str, str], key: str, path: str | Path) -> str:
    text = mapping.get(_PREFIX + key)
    if text is None:
        raise ModelFileError(path, f"damaged model file: its metadata lacks {_PREFIX}{key}")
    if not text:
        _damaged(path, key, "it is empty")
    return text


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)


def _damaged(path: str | Path, key: str, reason: str) -> NoReturn:
    raise ModelFileError(path, f"damaged model file: {_PREFIX}{key}: {reason}")
