"""Writing a trained network as one self-describing ONNX file, checked against PyTorch before it appears.

The graph takes the crops as they are (uint8, channels last): normalisation, decoding and the calibrated
temperature are in it, and it is written for the runtime: batch norms are folded into the convolutions, and
so is the scaling of the pixels. Subtracting the mean is not: the zero padding of the first convolution pads
*normalised* images, so a folded mean would be wrong along the border.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from agelens.calibration import Calibration
from agelens.errors import InputError, ModelFileError
from agelens.files import write_atomically
from agelens.model_file import HALF_SUFFIX, ModelCard
from agelens.networks.age_network import AnyNetwork, MirroredNetwork, PairedNetwork

__all__ = ["OPSET", "CardFields", "export", "store_as_half", "weights_digest"]

OPSET = 21
"""ONNX operator set of the files: the newest one of the oldest onnxruntime that agelens allows (1.19)."""

CHECKED_BATCHES = (1, 2, 5)
"""Batch sizes on which the file must agree with PyTorch."""

# Largest difference of an age (years) and of a probability, for float32 and for float16 weights. The images
# compared are noise, which is harder on rounded weights than faces are.
_TOLERANCES = (1e-3, 1e-4)
_HALF_TOLERANCES = (0.1, 1e-2)
_HALF_MINIMUM_SIZE = 1024  # smaller tensors (biases) stay float32: they weigh nothing


class CardFields(TypedDict):
    """Fields of the card that the network does not hold; see ``ModelCard``."""

    name: str
    geometry: dict[str, Any]
    licence: dict[str, Any]
    provenance: dict[str, Any]


class _ModelGraph(nn.Module):
    """From uint8 crops (N, S, S, 3) to ``age`` (N,) and ``distribution`` (N, K)."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        network: AnyNetwork,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.register_buffer("mean", 255 * torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(std, dtype=torch.float32).view(3, 1, 1)))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        images = (
            crops.permute(0, 3, 1, 2).contiguous().float()
        )  # the cheapest order: bytes are moved, then cast
        decoded = self.network.head.decode(self.network((images - self.mean) * self.scale), self.temperature)
        assert decoded.distribution is not None  # export() refuses networks without one
        return decoded.age, decoded.distribution


def export(
    network: AnyNetwork,
    card_fields: CardFields,
    path: str | Path,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    calibration: Calibration | None,
    half: bool = False,
) -> ModelCard:
    """Write a network as a model file.

    The network itself is left as it is (mode, device, precision). The file is compared with it on batches of
    1, 2 and 5 images before it takes its name, so that a file that exists is a file that agrees.

    Args:
        network: The trained network; it needs an ``ldl`` head, for a model file gives a distribution.
        card_fields: Name, crop geometry, licence and provenance.
        path: The file to write.
        size: Side S of the crops, in pixels.
        mean: (3,) mean of the pixels / 255 in training, R G B.
        std: (3,) their deviation.
        calibration: Fitted calibration; None: the distribution keeps the training temperature.
        half: Store the weights as float16; the runtime turns them to float32 once, as it loads.
    Returns:
        The card that is in the file.
    Raises:
        InputError: The network has no distribution, or ``size``, ``mean`` or ``std`` cannot be used.
        ModelFileError: The network cannot be expressed in ONNX, or the file does not agree with it.
        OutputError: The file cannot be written.
    """
    _check_arguments(network, card_fields, size, mean, std)
    temperature = None if calibration is None else calibration.temperature
    graph = _ModelGraph(copy.deepcopy(network).cpu().float(), mean, std, temperature).eval()
    model = _to_onnx(graph, size, path)
    _fold_scale_into_convolution(model.graph)
    if half:
        store_as_half(model.graph)
    head = network.head
    card = ModelCard(
        **card_fields,
        age_bins=head.age_bins,
        tau=head.tau,
        calibration=calibration,
        normalisation={"mean": list(mean), "std": list(std), "pixels": "RGB / 255"},
        decoding=_decoding(network, temperature),
        digest=weights_digest(model),
    )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, card.to_metadata())
    with write_atomically(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        _compare(graph, temporary, path, size, _HALF_TOLERANCES if half else _TOLERANCES)
    return card


def weights_digest(model: onnx.ModelProto) -> str:
    """Digest the weights of a model: SHA-256 over its initialisers' names and bytes, in order of name.

    Args:
        model: The model, weights inside.
    Returns:
        64 hexadecimal digits; metadata and the order of the nodes do not change them.
    """
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.name.encode() + b"\0")
        digest.update(numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()


def _check_arguments(
    network: AnyNetwork,
    card_fields: CardFields,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    if not network.head.has_distribution:
        raise InputError("a model file gives a distribution, and a network with heads ('reg',) has none")
    if card_fields["geometry"].get("size") != size:
        raise InputError(f"size {size} is not the geometry's ({card_fields['geometry'].get('size')})")
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise InputError(f"mean and std need three values, std positive (mean: {mean}, std: {std})")


def _decoding(network: AnyNetwork, temperature: float | None) -> dict[str, Any]:
    inner = network.network if isinstance(network, MirroredNetwork) else network
    return {
        "views": "the crop and its mirror image, outputs averaged" if inner is not network else "the crop",
        **network.head.decoding(temperature, paired=isinstance(inner, PairedNetwork)),
    }


def _to_onnx(graph: _ModelGraph, size: int, path: str | Path) -> onnx.ModelProto:
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"],
                output_names=["age", "distribution"],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ModelFileError(path, f"the network cannot be exported: {reason}") from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    # The exporter notes for each node the source line it came from, with the paths of this machine.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]
    return model


def _fold_scale_into_convolution(graph: onnx.GraphProto) -> None:
    """Multiply a first convolution's weights by the scale of the pixels, where nothing else reads them."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    multiply = next((n for n in graph.node if n.op_type == "Mul" and n.input[1] in weights), None)
    if multiply is None:
        return  # a scale of one: the exporter dropped it
    scale = numpy_helper.to_array(weights[multiply.input[1]])
    readers = [node for node in graph.node if multiply.output[0] in node.input]
    kernels = [weights[n.input[1]] for n in readers if n.op_type == "Conv" and n.input[1] in weights]
    if scale.shape != (3, 1, 1) or len(kernels) != len(readers) or any(k.dims[1] != 3 for k in kernels):
        return  # another first layer: the multiplication stays
    for node, kernel in zip(readers, kernels, strict=True):
        kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * scale, kernel.name))
        node.input[0] = multiply.input[0]
    graph.initializer.remove(weights[multiply.input[1]])
    graph.node.remove(multiply)


def store_as_half(graph: onnx.GraphProto) -> None:
    """Store the large float32 initialisers as float16, each behind a cast the runtime evaluates once.

    Args:
        graph: Changed in place.
    """
    casts = []
    for tensor in graph.initializer:
        values: NDArray[Any] = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _HALF_MINIMUM_SIZE:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue  # it would become infinite
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}{HALF_SUFFIX}"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _compare(
    graph: _ModelGraph, written: Path, path: str | Path, size: int, tolerances: tuple[float, float]
) -> None:
    """Compare the written file with the network it came from, on noise of several batch sizes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise ModelFileError(path, f"onnxruntime cannot load the exported file: {error}") from error
    random = np.random.default_rng(0)
    names = ("age", "distribution")
    for batch in CHECKED_BATCHES:
        crops = random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(crops))
        outputs = session.run(names, {"images": crops})
        for name, ours, theirs, tolerance in zip(names, outputs, expected, tolerances, strict=True):
            if ours.shape != tuple(theirs.shape):
                raise ModelFileError(path, f"{name} of {batch} images has shape {ours.shape}")
            apart = np.abs(ours - theirs.numpy())
            if name == "age" and graph.network.head.step:  # a tied vote may fall to either side
                apart = np.minimum(apart, np.abs(apart - graph.network.head.step))
            worst = float(apart.max())
            if not worst <= tolerance:
                raise ModelFileError(
                    path,
                    f"the exported file differs from the network: {name} by {worst:.3g} "
                    f"(allowed: {tolerance:g}, batch of {batch})",
                )
