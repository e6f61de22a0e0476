"""One model file that averages several: the mean of their ages and of their distributions.

Networks that err differently (another backbone, another start) err less on average than each alone; the file
takes the time and the room of all. Mirrored, each also answers for the mirror image of the crop, with the
same weights: twice the time, no more room. It is calibrated anew, since the mean of calibrated distributions
is broader than it need be; the temperature of the mean, p(k)^(1/T) normalised, is in the graph. The members'
own intervals and corrections (``agelens calibrate``) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from agelens.calibration import Calibration
from agelens.data.crop_set import CropSet, load_crops
from agelens.data.geometry import require_geometry
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import InputError, ModelFileError
from agelens.export.calibrate import calibrated_licence, calibration_record
from agelens.export.onnx_graph import weights_digest
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import resize_aligned
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.inference.shipped_models import model_path, open_model
from agelens.model_file import ModelCard
from agelens.terms import PERMISSIONS, read_terms, strictest

__all__ = ["ensemble"]

_BATCH = 32
_LEAST = 1e-12  # probability that a bin has at least, before its logarithm is taken


def ensemble(
    models: Sequence[str | Path],
    manifest: str | Path,
    out: str | Path,
    *,
    mirror: bool = False,
    name: str | None = None,
    split: str = "val",
) -> ModelCard:
    """Write a model file that answers with the mean of several, or of a crop and its mirror image.

    Args:
        models: Two or more model files, or names of shipped models, with the same age bins and crops; one
            suffices with ``mirror``.
        manifest: Aligned crops in their geometry, that none was trained on, for the calibration.
        out: The file to write.
        mirror: Average over the mirror image, too.
        name: Of the model; None: that of the file.
        split: Rows to calibrate on; ``all`` for all.
    Returns:
        The card that is in the file. It permits what all of the models and the crops' data sets permit.
    Raises:
        ModelFileError: Not a model file of ours, or one of another operator set than the first.
        InputError: Fewer than two models, one twice, or other age bins or crops than the first's.
        SplitError: The manifest has no such rows.
        OutputError: The file cannot be written, or is one of those to be read.
    """
    if len(models) < (1 if mirror else 2):
        raise InputError(
            f"an ensemble needs two models or more, or one and its mirror image: not {len(models)}"
        )
    refuse_to_overwrite(out, [*map(model_path, models), manifest])
    opened = [open_model(model) for model in models]
    cards = [card for _, card in opened]
    _check_alike(models, cards)
    geometry = CropGeometry.from_dict(cards[0].geometry)
    rows = read_manifest(manifest)
    require_geometry(rows, geometry)
    crops = load_crops(required_rows(rows, split, manifest), cache=False)
    sessions = [session for session, _ in opened]
    mixture = np.concatenate(
        [_mean(sessions, images, "distribution", mirror=mirror) for images in _batches(crops, geometry.size)]
    )
    bounds = None if crops.bounds is None else crops.bounds.astype(np.float64)
    calibration = Calibration.fit(
        np.log(np.maximum(mixture, _LEAST)), crops.ages.astype(np.float64), cards[0].age_bins, bounds=bounds
    )
    graph = _merged(models, calibration.temperature, mirror=mirror)
    members = [{"name": card.name, "digest": card.digest, "provenance": card.provenance} for card in cards]
    card = ModelCard(
        name=name or Path(out).stem,
        age_bins=cards[0].age_bins,
        tau=1.0,
        calibration=calibration,
        geometry=cards[0].geometry,
        normalisation={card.name: card.normalisation for card in cards},
        decoding={
            "age": f"mean of {' and '.join(card.name for card in cards)}",
            "distribution": f"softmax(log(mean of their distributions) / {calibration.temperature:.6g})",
            "views": "the crop and its mirror image" if mirror else "the crop",
        },
        licence=calibrated_licence(_licence(cards), [crops]),
        provenance={
            "data": "; ".join(dict.fromkeys(str(card.provenance.get("data", "")) for card in cards)),
            "members": members,
            "mirrored": mirror,
            "calibrated": {"split": split, "manifests": [calibration_record(str(manifest), crops)]},
        },
        digest=weights_digest(graph),
    )
    helper.set_model_props(graph, card.to_metadata())
    content = graph.SerializeToString()
    _check_mean(content, sessions, geometry.size, out, mirror=mirror)
    with write_atomically(out) as temporary:
        temporary.write_bytes(content)
    return card


def _check_alike(models: Sequence[str | Path], cards: Sequence[ModelCard]) -> None:
    digests = [card.digest for card in cards]
    for index, (model, card) in enumerate(zip(models, cards, strict=True)):
        if card.digest in digests[:index]:
            raise InputError(f"{model}: is given twice")
        for what, own, first in (
            ("age bins", str(card.age_bins), str(cards[0].age_bins)),
            ("a crop", card.geometry, cards[0].geometry),
        ):
            if own != first:
                raise InputError(f"{model}: has {what} of {_shown(own)}, and {models[0]} of {_shown(first)}")


def _shown(value: str | dict[str, Any]) -> str:
    return value if isinstance(value, str) else f"{value['size']} px in the geometry {value['name']!r}"


def _batches(crops: CropSet, size: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(crops), _BATCH):
        yield np.stack([resize_aligned(crop, size) for crop in crops.crops(slice(start, start + _BATCH))])


def _mean(
    sessions: Sequence[onnxruntime.InferenceSession],
    images: NDArray[np.uint8],
    output: str,
    *,
    mirror: bool,
) -> NDArray[np.float64]:
    """Mean of an output of the networks on (N, S, S, 3) crops."""
    views = [images, np.ascontiguousarray(images[:, :, ::-1])] if mirror else [images]
    said = [session.run([output], {"images": view})[0] for session in sessions for view in views]
    mean: NDArray[np.float64] = np.mean(said, axis=0, dtype=np.float64)
    return mean


def _merged(models: Sequence[str | Path], temperature: float, *, mirror: bool) -> onnx.ModelProto:
    """One graph of all: the members side by side, then their means."""
    loaded = [onnx.load(model_path(model)) for model in models]
    graph = onnx.GraphProto(name="ensemble")
    graph.input.add().CopyFrom(loaded[0].graph.input[0])
    graph.output.extend(loaded[0].graph.output)
    views = {"": "images"}
    if mirror:
        views["mirrored/"] = "mirrored"
        for name, value in (
            ("last", -1),
            ("before_first", np.iinfo(np.int64).min),
            ("width", 2),
            ("back", -1),
        ):
            graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
        slicing = ["images", "last", "before_first", "width", "back"]
        graph.node.append(helper.make_node("Slice", slicing, ["mirrored"]))
    for index, (model, member) in enumerate(zip(models, loaded, strict=True)):
        if member.opset_import != loaded[0].opset_import:
            raise ModelFileError(model, f"has another operator set than {models[0]}: export it anew")
        for prefix, images in views.items():
            graph.node.extend(_placed(member.graph, f"{index}/", prefix, images))
        for tensor in member.graph.initializer:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = f"{index}/{tensor.name}"
    ages, said = (
        [f"{index}/{prefix}{name}" for index in range(len(models)) for prefix in views]
        for name in ("age", "distribution")
    )
    for name, constant in (("least", _LEAST), ("temperature", temperature)):
        graph.initializer.append(numpy_helper.from_array(np.array(constant, np.float32), name))
    graph.node.extend(
        [
            helper.make_node("Mean", ages, ["age"]),
            helper.make_node("Mean", said, ["mean"]),
            helper.make_node("Max", ["mean", "least"], ["positive"]),
            helper.make_node("Log", ["positive"], ["log"]),
            helper.make_node("Div", ["log", "temperature"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["distribution"], axis=1),
        ]
    )
    made = helper.make_model(graph, opset_imports=loaded[0].opset_import)
    made.ir_version = loaded[0].ir_version
    made.producer_name = loaded[0].producer_name
    return made


def _placed(member: onnx.GraphProto, weights: str, view: str, images: str) -> list[onnx.NodeProto]:
    """The nodes of a member under names of their own; the weights are shared by its views."""
    names = {tensor.name: weights + tensor.name for tensor in member.initializer}
    names |= {"": "", member.input[0].name: images}
    names |= {name: f"{weights}{view}{name}" for node in member.node for name in node.output if name}
    placed = []
    for node in member.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{weights}{view}{node.name}" if node.name else ""
        copy.input[:] = [names[name] for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        placed.append(copy)
    return placed


def _check_mean(
    content: bytes,
    sessions: Sequence[onnxruntime.InferenceSession],
    size: int,
    out: str | Path,
    *,
    mirror: bool,
) -> None:
    """Run the file on noise, as an export is, against the members."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise ModelFileError(out, f"onnxruntime cannot load the ensemble: {error}") from error
    crops = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    (ages,) = session.run(["age"], {"images": crops})
    worst = float(np.abs(ages - _mean(sessions, crops, "age", mirror=mirror)).max())
    if not worst <= 1e-3:
        raise ModelFileError(out, f"the ensemble differs from the mean of its models by {worst:.3g} years")


def _licence(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """The strictest terms of the members, the texts of all."""
    licences = [card.licence for card in cards]
    terms = [read_terms({"permits": each.get("permits"), "text": each.get("data")}) for each in licences]
    permits = strictest(part.permits for part in terms)
    own = PERMISSIONS[permits]
    caveats = [
        str(licence.get("use", "")).removeprefix(PERMISSIONS[part.permits]).removeprefix("; ")
        for licence, part in zip(licences, terms, strict=True)
    ]
    return {
        "code": licences[0].get("code", "Apache-2.0"),
        "data": "; ".join(dict.fromkeys(part.text for part in terms)),
        "permits": permits,
        "use": "; ".join((own, *(text for text in dict.fromkeys(caveats) if text not in own))),
    }
