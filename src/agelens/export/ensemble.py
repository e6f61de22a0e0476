"""One model file that averages several: the mean of their ages and of their distributions.

Networks that err differently (another backbone, another start) err less on average than each alone; the file
takes the time and the room of all. The better one may have the larger share. Mirrored, each also answers for
the mirror image of the crop, with the same weights: twice the time, no more room. It is calibrated anew,
since the mean of calibrated distributions is broader than it need be; the temperature of the mean,
p(k)^(1/T) normalised, is in the graph. The members' own intervals and corrections (``agelens calibrate``) are
left out. It takes crops of the largest side that a member takes; those of a smaller one are resized in the
graph, with anti-aliasing.

Networks that saw few old people draw them to the ages they saw often. The prior over the ages of the training
images can be taken out of the *age* in part: the expectation of p(k) / prior(k)^strength, normalised, as
:mod:`agelens.methods.logit_adjusted` does with a network. The distribution, and with it intervals and
probabilities, keeps the prior. The strength is the one that errs most evenly over the ages at no cost to the
mean error of all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from agelens.calibration import Calibration
from agelens.data.crop_set import CropSet, load_crops
from agelens.data.geometry import require_geometry
from agelens.data.manifest import label_bounds, read_manifest
from agelens.data.splits import required_rows
from agelens.errors import InputError, ModelFileError
from agelens.export.calibrate import calibrated_licence, calibration_record
from agelens.export.onnx_graph import OPSET, weights_digest
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import resize_aligned
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.inference.shipped_models import model_path, open_model
from agelens.label_distribution import AgeBins, softmax
from agelens.methods.logit_adjusted import LogitAdjustedSettings, age_prior, evenness
from agelens.model_file import ModelCard
from agelens.terms import PERMISSIONS, read_terms, strictest

__all__ = ["LEAST", "batches", "ensemble", "joint_licence", "require_alike"]

_BATCH = 32
LEAST = 1e-12
"""Probability that a bin has at least, before its logarithm is taken."""


def ensemble(
    models: Sequence[str | Path],
    manifest: str | Path,
    out: str | Path,
    *,
    mirror: bool = False,
    adjust: bool = False,
    shares: Sequence[float] | None = None,
    name: str | None = None,
    split: str = "val",
) -> ModelCard:
    """Write a model file that answers with the mean of several, or of a crop and its mirror image.

    Args:
        models: Two or more model files, or names of shipped models, with the same age bins and geometry; one
            suffices with ``mirror``.
        manifest: Aligned crops in their geometry, that none was trained on, for the calibration.
        out: The file to write.
        mirror: Average over the mirror image, too.
        adjust: Take the prior over the ages of the manifest's training rows out of the age, with the strength
            (0 to 1) that errs most evenly on the rows to calibrate on, by AAR, or by the mean over the bands
            of the distance to them where no label is an age; of the strengths whose mean error is not larger
            than without.
        shares: Weight of each model in the mean, more than 0; they are divided by their sum. None: all alike.
        name: Of the model; None: that of the file.
        split: Rows to calibrate on; ``all`` for all.
    Returns:
        The card that is in the file. It permits what all of the models and the crops' data sets permit.
    Raises:
        ModelFileError: Not a model file of ours, or one of another operator set than the first.
        InputError: Fewer than two models, one twice, other age bins or another geometry than the first's,
            or shares that are not one for each model.
        SplitError: The manifest has no such rows, or with ``adjust`` none to train.
        OutputError: The file cannot be written, or is one of those to be read.
    """
    if len(models) < (1 if mirror else 2):
        raise InputError(
            f"an ensemble needs two models or more, or one and its mirror image: not {len(models)}"
        )
    weights = _weights(models, shares)
    refuse_to_overwrite(out, [*map(model_path, models), manifest])
    opened = [open_model(model) for model in models]
    cards = [card for _, card in opened]
    require_alike(models, cards)
    sides = [CropGeometry.from_dict(card.geometry).size for card in cards]
    geometry = CropGeometry.from_dict(cards[0].geometry).with_size(max(sides))
    rows = read_manifest(manifest)
    require_geometry(rows, geometry)
    crops = load_crops(required_rows(rows, split, manifest), cache=False)
    learned = label_bounds(required_rows(rows, "train", manifest)) if adjust else None
    members = [
        _Member(session, side, weight)
        for (session, _), side, weight in zip(opened, sides, weights, strict=True)
    ]
    mixture = np.concatenate(
        [_mean(members, images, "distribution", mirror=mirror) for images in batches(crops, geometry.size)]
    )
    bins = cards[0].age_bins
    log_mixture = np.log(np.maximum(mixture, LEAST))
    prior = _Prior(np.zeros(len(bins)), 0.0)
    if learned is not None:
        prior = _chosen_prior(log_mixture, crops, learned, bins)
    bounds = None if crops.bounds is None else crops.bounds.astype(np.float64)
    calibration = Calibration.fit(log_mixture, crops.ages.astype(np.float64), bins, split, bounds)
    graph = _merged(models, sides, weights, calibration.temperature, mirror=mirror)
    if prior.strength:
        _adjust(graph, prior.shift, bins)
    told = [
        {"name": card.name, "digest": card.digest, "share": weight, "provenance": card.provenance}
        for card, weight in zip(cards, weights, strict=True)
    ]
    card = ModelCard(
        name=name or Path(out).stem,
        age_bins=bins,
        tau=1.0,
        calibration=calibration,
        geometry=geometry.to_dict(),
        normalisation={card.name: card.normalisation for card in cards},
        decoding={
            "age": _decoded_age(cards, weights, prior),
            "distribution": f"softmax(log(mean of their distributions) / {calibration.temperature:.6g})",
            "views": "the crop and its mirror image" if mirror else "the crop",
        },
        licence=calibrated_licence(joint_licence(cards), [crops]),
        provenance={
            "data": "; ".join(dict.fromkeys(str(card.provenance.get("data", "")) for card in cards)),
            "members": told,
            "mirrored": mirror,
            "prior_strength": prior.strength,
            "calibrated": {"split": split, "manifests": [calibration_record(str(manifest), crops)]},
        },
        digest=weights_digest(graph),
    )
    helper.set_model_props(graph, card.to_metadata())
    content = graph.SerializeToString()
    _check_mean(content, members, prior, bins, geometry.size, out, mirror=mirror)
    with write_atomically(out) as temporary:
        temporary.write_bytes(content)
    return card


def require_alike(models: Sequence[str | Path], cards: Sequence[ModelCard]) -> None:
    """Refuse a model that is given twice, or that has other age bins or another geometry than the first.

    Args:
        models: Model files, or names of shipped models.
        cards: Their cards.
    Raises:
        InputError: There is such a model.
    """
    digests = [card.digest for card in cards]
    for index, (model, card) in enumerate(zip(models, cards, strict=True)):
        if card.digest in digests[:index]:
            raise InputError(f"{model}: is given twice")
        for what, own, first in (
            ("age bins", str(card.age_bins), str(cards[0].age_bins)),
            ("geometry", *(_place(each.geometry) for each in (card, cards[0]))),
        ):
            if own != first:
                raise InputError(f"{model}: has {what} {own}, and {models[0]} {first}")


def _place(geometry: Mapping[str, Any]) -> str:
    """Positions of the landmarks in a crop of any size."""
    return f"{geometry['name']!r} {geometry['template']}"


class _Prior(NamedTuple):
    """A share of the logarithm of a prior, which is taken off the logarithm of the mean."""

    shift: NDArray[np.float64]
    strength: float

    def taken_out(self, log_mixture: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(log_mixture - self.shift)


def _chosen_prior(
    log_mixture: NDArray[np.float64], crops: CropSet, learned: NDArray[Any], bins: AgeBins
) -> _Prior:
    """The strength that errs most evenly on the crops, of those at no cost to the mean error of all.

    ``learned``, (N, 2), are the labels of the training rows, both ends in years.
    """
    settings = LogitAdjustedSettings()
    labelled = learned[~np.isnan(learned).any(axis=1)]
    log_prior = np.log(age_prior(labelled, bins, settings.smooth))
    log_prior -= log_prior.mean()
    ends = crops.labels()[:, 2:].astype(np.float64)
    tried = [_Prior(strength * log_prior, strength) for strength in settings.strengths]
    ages = [prior.taken_out(log_mixture) @ bins.ages for prior in tried]
    errors = [float(np.maximum(np.maximum(ends[:, 0] - age, age - ends[:, 1]), 0).mean()) for age in ages]
    free = [index for index, error in enumerate(errors) if error <= errors[0]]
    return tried[max(free, key=lambda index: evenness(ages[index], crops.ages, ends))]


def _weights(models: Sequence[str | Path], shares: Sequence[float] | None) -> list[float]:
    if shares is None:
        return [1 / len(models)] * len(models)
    if len(shares) != len(models) or not all(share > 0 for share in shares) or not math.isfinite(sum(shares)):
        told = ", ".join(f"{share:g}" for share in shares)
        raise InputError(f"shares must be one number above 0 for each of {len(models)} models: not {told}")
    return [share / sum(shares) for share in shares]


def _decoded_age(cards: Sequence[ModelCard], weights: Sequence[float], prior: _Prior) -> str:
    alike = len(set(weights)) == 1
    names = [
        card.name if alike else f"{weight:.3g} × {card.name}"
        for card, weight in zip(cards, weights, strict=True)
    ]
    mean = f"mean of {' and '.join(names)}"
    return f"expectation of the {mean}, / prior^{prior.strength:g}" if prior.strength else mean


def batches(crops: CropSet, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield all crops, a few at a time, resized as photographs are.

    Args:
        crops: N crops of any size.
        size: Their side S afterwards, pixels.
    Yields:
        (at most 32, S, S, 3) uint8.
    """
    for start in range(0, len(crops), _BATCH):
        yield np.stack([resize_aligned(crop, size) for crop in crops.crops(slice(start, start + _BATCH))])


class _Member(NamedTuple):
    """A model of the ensemble, the side of the crops that it takes, and its share of the mean."""

    session: onnxruntime.InferenceSession
    side: int
    weight: float

    def answer(self, output: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        """An output on (N, S, S, 3) crops, which are resized as the ensemble does it."""
        if images.shape[1] != self.side:
            (images,) = _resizing_session(images.shape[1], self.side).run(None, {"images": images})
        answer: NDArray[Any] = self.session.run([output], {"images": images})[0]
        return answer


def _resizing(side: int, size: int, images: str) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """The node that resizes crops (N, side, side, 3) of bytes, and its constant."""
    # a little more than the quotient, whose product with the side is rounded down
    scale = np.nextafter(np.float32(size / side), np.float32(np.inf))
    name = f"{images}/{size}"
    scales = numpy_helper.from_array(np.array([1, scale, scale, 1], np.float32), f"{name}/scales")
    node = helper.make_node("Resize", [images, "", scales.name], [name], mode="linear", antialias=1)
    return node, scales


@functools.cache
def _resizing_session(side: int, size: int) -> onnxruntime.InferenceSession:
    node, scales = _resizing(side, size, "images")
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, ["batch", length, length, 3])
        for name, length in (("images", side), (node.output[0], size))
    ]
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [scales])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def _mean(
    members: Sequence[_Member], images: NDArray[np.uint8], output: str, *, mirror: bool
) -> NDArray[np.float64]:
    """Mean of an output of the networks on (N, S, S, 3) crops."""
    views = [images, np.ascontiguousarray(images[:, :, ::-1])] if mirror else [images]
    said = [member.answer(output, view) for member in members for view in views]
    weights = [member.weight for member in members for _ in views]
    mean: NDArray[np.float64] = np.average(np.asarray(said, np.float64), axis=0, weights=weights)
    return mean


def _merged(
    models: Sequence[str | Path],
    sides: Sequence[int],
    weights: Sequence[float],
    temperature: float,
    *,
    mirror: bool,
) -> onnx.ModelProto:
    """One graph of all: the members side by side, then their means."""
    loaded = [onnx.load(model_path(model)) for model in models]
    graph = onnx.GraphProto(name="ensemble")
    graph.input.add().CopyFrom(loaded[sides.index(max(sides))].graph.input[0])
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
    for size in sorted({*sides} - {max(sides)}):
        for images in views.values():
            node, scales = _resizing(max(sides), size, images)
            graph.node.append(node)
            graph.initializer.append(scales)
    for index, (model, member, size) in enumerate(zip(models, loaded, sides, strict=True)):
        if member.opset_import != loaded[0].opset_import:
            raise ModelFileError(model, f"has another operator set than {models[0]}: export it anew")
        for prefix, images in views.items():
            seen = images if size == max(sides) else f"{images}/{size}"
            graph.node.extend(_placed(member.graph, f"{index}/", prefix, seen))
        for tensor in member.graph.initializer:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = f"{index}/{tensor.name}"
    ages, said = (
        [f"{index}/{prefix}{name}" for index in range(len(models)) for prefix in views]
        for name in ("age", "distribution")
    )
    for name, constant in (("least", LEAST), ("temperature", temperature)):
        graph.initializer.append(numpy_helper.from_array(np.array(constant, np.float32), name))
    if len(set(weights)) > 1:
        ages, said = (_weighted(graph, names, weights) for names in (ages, said))
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


def _weighted(graph: onnx.GraphProto, names: Sequence[str], weights: Sequence[float]) -> list[str]:
    """Multiply answers, each model's views one after the other, so that their mean is the weighted one."""
    views = len(names) // len(weights)
    for index, name in enumerate(names):
        factor = np.array(weights[index // views] * len(weights), np.float32)
        graph.initializer.append(numpy_helper.from_array(factor, f"{name}/factor"))
        graph.node.append(helper.make_node("Mul", [name, f"{name}/factor"], [f"{name}/weighted"]))
    return [f"{name}/weighted" for name in names]


def _adjust(graph: onnx.ModelProto, shift: NDArray[np.float64], bins: AgeBins) -> None:
    """Make the age the expectation of the mean, after a shift is taken off its logarithm."""
    nodes = graph.graph.node
    for node in [node for node in nodes if node.output[0] == "age"]:
        nodes.remove(node)
    for name, values in (("shift", shift), ("years", bins.ages)):
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    nodes.append(helper.make_node("Sub", ["log", "shift"], ["adjusted"]))
    nodes.append(helper.make_node("Softmax", ["adjusted"], ["without prior"], axis=1))
    nodes.append(helper.make_node("MatMul", ["without prior", "years"], ["age"]))


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
    members: Sequence[_Member],
    prior: _Prior,
    bins: AgeBins,
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
    if prior.strength:
        mixture = _mean(members, crops, "distribution", mirror=mirror)
        wanted = prior.taken_out(np.log(np.maximum(mixture, LEAST))) @ bins.ages
    else:
        wanted = _mean(members, crops, "age", mirror=mirror)
    worst = float(np.abs(ages - wanted).max())
    if not worst <= 1e-3:
        raise ModelFileError(out, f"the ensemble differs from the mean of its models by {worst:.3g} years")


def joint_licence(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """Join the licences of models that are averaged: the strictest terms, the texts of all.

    Args:
        cards: The models' cards.
    Returns:
        The licence of the card to write.
    """
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
