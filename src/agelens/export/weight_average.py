"""One network whose weights are the mean of those of several that were fine-tuned from the same weights [1].

Networks that begin with the same weights and go on with other seeds, views or rates mostly end in one basin,
so that the network between them errs about as little as the mean of their answers, in the time and the room
of one. Networks of different starts share no basin, and their average answers nonsense: so
the errors of all are told. The calibration is fitted anew. In a model file batch norms are folded into the
convolutions, so that it is the folded weights that are averaged.

[1] Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time, ICML 2022 (its uniform soup).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from agelens.calibration import Calibration
from agelens.data.crop_set import CropSet, load_crops
from agelens.data.geometry import require_geometry
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import InputError, ModelFileError
from agelens.export.calibrate import calibrated_licence, calibration_record
from agelens.export.ensemble import LEAST, batches, joint_licence, require_alike
from agelens.export.onnx_graph import weights_digest
from agelens.faces.alignment import CropGeometry
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.inference.shipped_models import model_path, open_model
from agelens.model_file import ModelCard

__all__ = ["WeightAverage", "average_weights"]


@dataclass(frozen=True)
class WeightAverage:
    """An average that was written, and what it is worth.

    Attributes:
        card: The card that is in the file.
        error: Mean distance of its age to the label, or to the band, on the crops it is calibrated on, years.
        errors: Those of the models.
    """

    card: ModelCard
    error: float
    errors: tuple[float, ...]


def average_weights(
    models: Sequence[str | Path],
    manifest: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    split: str = "val",
) -> WeightAverage:
    """Write a model file whose weights are the mean of those of several.

    Args:
        models: Two or more model files, or names of shipped models, of one network and crop size, in 32 or
            16 bits.
        manifest: Aligned crops in their geometry, that none was trained on, for the calibration.
        out: The file to write.
        name: Of the model; None: that of the file.
        split: Rows to calibrate on; ``all`` for all.
    Returns:
        Its card and errors. The card permits what all of the models and the crops' data sets permit.
    Raises:
        ModelFileError: Not a model file of ours, one of another network than the first, one in 8 bits, or the
            average answers no numbers.
        InputError: Fewer than two models, one twice, or other age bins, another geometry or other crops than
            the first's.
        SplitError: The manifest has no such rows.
        OutputError: The file cannot be written, or is one of those to be read.
    """
    if len(models) < 2:
        raise InputError(f"weights are averaged over two models or more: not {len(models)}")
    refuse_to_overwrite(out, [*map(model_path, models), manifest])
    opened = [open_model(model) for model in models]
    cards = [card for _, card in opened]
    require_alike(models, cards)
    for model, card in zip(models, cards, strict=True):
        _require_same(model, card, models[0], cards[0])
    geometry = CropGeometry.from_dict(cards[0].geometry)
    rows = read_manifest(manifest)
    require_geometry(rows, geometry)
    crops = load_crops(required_rows(rows, split, manifest), cache=False)
    content = _averaged(models)
    session = _session(content, out)
    error, mass = _judged(session, crops, cards[0])
    if not np.isfinite(mass).all():
        raise ModelFileError(out, "the average of the weights answers no numbers")
    errors = tuple(_judged(session, crops, card)[0] for session, card in opened)
    bounds = None if crops.bounds is None else crops.bounds.astype(np.float64)
    logits = np.log(np.maximum(mass, LEAST))
    fitted = Calibration.fit(logits, crops.ages.astype(np.float64), cards[0].age_bins, split, bounds)
    temperature = _multiply_temperature(content, fitted.temperature, models[0])
    decoding = dict(cards[0].decoding)
    decoding["distribution"] = _with_temperature(decoding["distribution"], temperature)
    told = [
        {"name": card.name, "digest": card.digest, "error": round(own, 4), "provenance": card.provenance}
        for card, own in zip(cards, errors, strict=True)
    ]
    card = replace(
        cards[0],
        name=name or Path(out).stem,
        calibration=replace(fitted, temperature=temperature),
        decoding=decoding,
        licence=calibrated_licence(joint_licence(cards), [crops]),
        provenance={
            "data": "; ".join(dict.fromkeys(str(card.provenance.get("data", "")) for card in cards)),
            "weights_averaged": told,
            "error": round(error, 4),
            "calibrated": {"split": split, "manifests": [calibration_record(str(manifest), crops)]},
        },
        digest=weights_digest(content),
    )
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, card.to_metadata())
    _session(content, out)  # a file that exists can be loaded
    with write_atomically(out) as temporary:
        temporary.write_bytes(content.SerializeToString())
    return WeightAverage(card, error, errors)


def _require_same(model: str | Path, card: ModelCard, first: str | Path, wanted: ModelCard) -> None:
    for what, own, theirs in (
        ("crops of", f"{card.geometry['size']} px", f"{wanted.geometry['size']} px"),
        ("tau", card.tau, wanted.tau),
        ("normalisation", card.normalisation, wanted.normalisation),
        ("an age that is the", card.decoding.get("age"), wanted.decoding.get("age")),
        ("views", card.decoding.get("views"), wanted.decoding.get("views")),
    ):
        if own != theirs:
            raise InputError(f"{model}: has {what} {own}, and {first} {theirs}")


def _averaged(models: Sequence[str | Path]) -> onnx.ModelProto:
    """The first model with the mean of all models' weights; integers (shapes, axes) are alike in all."""
    loaded = [onnx.load(model_path(model)) for model in models]
    first = loaded[0]
    weights = [{tensor.name: tensor for tensor in content.graph.initializer} for content in loaded]
    for model, content, own in zip(models, loaded, weights, strict=True):
        kinds = [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in own.values()]
        if "QuantizeLinear" in {node.op_type for node in content.graph.node}:
            raise ModelFileError(model, "its weights are in 8 bits: average before agelens quantise")
        if list(content.graph.node) != list(first.graph.node) or sorted(kinds) != sorted(
            (tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in weights[0].values()
        ):
            raise ModelFileError(
                model,
                f"is not of the same network as {models[0]}, or is stored otherwise (32 or 16 bits, or an "
                "average already: average all at once)",
            )
    for tensor in first.graph.initializer:
        values: list[NDArray[Any]] = [numpy_helper.to_array(own[tensor.name]) for own in weights]
        if values[0].dtype.kind == "f":
            mean = np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)
            tensor.CopyFrom(numpy_helper.from_array(mean, tensor.name))
            continue
        for model, value in zip(models, values, strict=True):
            if not np.array_equal(value, values[0]):
                raise ModelFileError(model, f"has another {tensor.name} than {models[0]}")
    return first


def _session(content: onnx.ModelProto, out: str | Path) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise ModelFileError(out, f"onnxruntime cannot load the average: {error}") from error


def _judged(
    session: onnxruntime.InferenceSession, crops: CropSet, card: ModelCard
) -> tuple[float, NDArray[np.float64]]:
    """The mean distance of the ages to the labels, years, and the distributions (N, K)."""
    blocks = batches(crops, int(card.geometry["size"]))
    said = [session.run(["age", "distribution"], {"images": images}) for images in blocks]
    ages, mass = (np.concatenate(parts).astype(np.float64) for parts in zip(*said, strict=True))
    low, high = crops.labels()[:, 2:].astype(np.float64).T
    return float(np.maximum(np.maximum(low - ages, ages - high), 0).mean()), mass


def _with_temperature(text: Any, temperature: float) -> str:
    """The words for the distribution with another temperature: ``softmax(logits / 2)``."""
    return re.sub(r" / [^/]*\)$", "", str(text)).removesuffix(")") + f" / {temperature:.6g})"


def _multiply_temperature(content: onnx.ModelProto, factor: float, model: str | Path) -> float:
    """Multiply the temperature of the distribution by a factor; the product.

    Where the training temperature was the same, the age is read off the same nodes: it keeps them.
    """
    graph = content.graph
    made = {name: node for node in graph.node for name in node.output}
    softmax = made["distribution"]
    if softmax.op_type != "Softmax":
        raise ModelFileError(model, "its distribution is not the softmax of logits")
    logits, temperature, read = softmax.input[0], factor, {"distribution"}
    division = made.get(logits)
    divisor = next((t for t in graph.initializer if division and t.name == division.input[-1]), None)
    if division is not None and division.op_type == "Div" and divisor is not None and not divisor.dims:
        temperature *= float(numpy_helper.to_array(divisor))
        read.update(division.output)
        logits = division.input[0]
    else:
        division = divisor = None  # a temperature of one was left out
    if not any(read & {*node.input} for node in graph.node if node != softmax):
        graph.node.remove(softmax)
        if division is not None:
            graph.node.remove(division)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["untempered" if name == "distribution" else name for name in names]
    if divisor is not None and not any(divisor.name in node.input for node in graph.node):
        graph.initializer.remove(divisor)
    value = np.array(temperature, np.float32)
    graph.initializer.append(numpy_helper.from_array(value, "temperature"))
    graph.node.append(onnx.helper.make_node("Div", [logits, "temperature"], ["tempered"]))
    graph.node.append(onnx.helper.make_node("Softmax", ["tempered"], ["distribution"], axis=1))
    return temperature
