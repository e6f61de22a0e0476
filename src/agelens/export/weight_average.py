"""One network whose weights are the mean of those of several that were trained on from one ancestor [1].

Networks that begin with the same weights and go on with other seeds, views or rates mostly end in one basin,
so that the network between them errs less than each, nearly as little as the mean of their answers, in the
time and the room of one. Networks of different ancestors share no basin: their average answers nonsense,
which its error on held-out faces tells. The calibration is fitted anew.

[1] Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time, ICML 2022 (its uniform soup).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from agelens.export.ensemble import batches, joint_licence, require_alike
from agelens.export.onnx_graph import weights_digest
from agelens.faces.alignment import CropGeometry
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.inference.shipped_models import model_path, open_model
from agelens.model_file import ModelCard

__all__ = ["average_weights"]

_LEAST = 1e-12  # probability that a bin has at least, before its logarithm is taken


def average_weights(
    models: Sequence[str | Path],
    manifest: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    split: str = "val",
) -> ModelCard:
    """Write a model file whose weights are the mean of those of several.

    Args:
        models: Two or more model files, or names of shipped models, of one network, in 32 or 16 bits.
        manifest: Aligned crops in their geometry, that none was trained on, for the calibration.
        out: The file to write.
        name: Of the model; None: that of the file.
        split: Rows to calibrate on; ``all`` for all.
    Returns:
        The card that is in the file. It permits what all of the models and the crops' data sets permit.
    Raises:
        ModelFileError: Not a model file of ours, one of another network than the first, or one in 8 bits.
        InputError: Fewer than two models, one twice, or other age bins or another geometry than the first's.
        SplitError: The manifest has no such rows.
        OutputError: The file cannot be written, or is one of those to be read.
    """
    if len(models) < 2:
        raise InputError(f"weights are averaged over two models or more: not {len(models)}")
    refuse_to_overwrite(out, [*map(model_path, models), manifest])
    cards = [open_model(model)[1] for model in models]
    require_alike(models, cards)
    geometry = CropGeometry.from_dict(cards[0].geometry)
    for model, card in zip(models, cards, strict=True):
        if card.geometry["size"] != geometry.size:
            raise InputError(
                f"{model}: takes crops of {card.geometry['size']} px, and {models[0]} of {geometry.size}"
            )
    rows = read_manifest(manifest)
    require_geometry(rows, geometry)
    crops = load_crops(required_rows(rows, split, manifest), cache=False)
    content = _averaged(models)
    logits = np.log(np.maximum(_distributions(content, crops, geometry.size, out), _LEAST))
    bounds = None if crops.bounds is None else crops.bounds.astype(np.float64)
    fitted = Calibration.fit(logits, crops.ages.astype(np.float64), cards[0].age_bins, split, bounds)
    calibration = replace(fitted, temperature=_multiply_temperature(content, fitted.temperature, out))
    told = [{"name": card.name, "digest": card.digest, "provenance": card.provenance} for card in cards]
    card = replace(
        cards[0],
        name=name or Path(out).stem,
        calibration=calibration,
        licence=calibrated_licence(joint_licence(cards), [crops]),
        provenance={
            "data": "; ".join(dict.fromkeys(str(card.provenance.get("data", "")) for card in cards)),
            "weights_averaged": told,
            "calibrated": {"split": split, "manifests": [calibration_record(str(manifest), crops)]},
        },
        digest=weights_digest(content),
    )
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, card.to_metadata())
    with write_atomically(out) as temporary:
        temporary.write_bytes(content.SerializeToString())
    return card


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
            raise ModelFileError(model, f"is not of the same network as {models[0]}")
    for tensor in first.graph.initializer:
        values: list[NDArray[Any]] = [numpy_helper.to_array(own[tensor.name]) for own in weights]
        if values[0].dtype.kind == "f":
            mean = np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)
            tensor.CopyFrom(numpy_helper.from_array(mean, tensor.name))
        elif any(not np.array_equal(value, values[0]) for value in values):
            raise ModelFileError(
                models[1], f"is not of the same network as {models[0]}: {tensor.name} differs"
            )
    return first


def _distributions(
    content: onnx.ModelProto, crops: CropSet, size: int, out: str | Path
) -> NDArray[np.float64]:
    """(N, K) answers of a model to all crops."""
    try:
        session = onnxruntime.InferenceSession(
            content.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise ModelFileError(out, f"onnxruntime cannot load the average: {error}") from error
    said = [session.run(["distribution"], {"images": images})[0] for images in batches(crops, size)]
    return np.concatenate(said).astype(np.float64)


def _multiply_temperature(content: onnx.ModelProto, factor: float, out: str | Path) -> float:
    """Multiply the divisor of the distribution's logits by a factor; the product.

    Where the training temperature was the same, the age is read off the same nodes: it keeps them.
    """
    graph = content.graph
    made = {name: node for node in graph.node for name in node.output}
    softmax = made["distribution"]
    division = made[softmax.input[0]]
    divisor = next((t for t in graph.initializer if t.name == division.input[-1]), None)
    if division.op_type != "Div" or divisor is None or divisor.dims:
        raise ModelFileError(out, "the distribution is not the softmax of logits over a temperature")
    logits = division.input[0]
    temperature = float(numpy_helper.to_array(divisor)) * factor
    own = numpy_helper.from_array(np.array(temperature, np.float32), "temperature")
    if not any({"distribution", *division.output} & {*node.input} for node in graph.node if node != softmax):
        graph.node.remove(softmax)
        graph.node.remove(division)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["untempered" if name == "distribution" else name for name in names]
    if not any(divisor.name in node.input for node in graph.node):
        graph.initializer.remove(divisor)
    graph.initializer.append(own)
    graph.node.append(onnx.helper.make_node("Div", [logits, own.name], ["tempered"]))
    graph.node.append(onnx.helper.make_node("Softmax", ["tempered"], ["distribution"], axis=1))
    return temperature
