"""Maps of a model file: its class activation map, read off the graph, or occlusion (onnxruntime alone).

A class activation map weights the last feature map f by the head's weights: M_k(x, y) = Σ_c w_kc f_c(x, y)
([1], Eq. 2), so its mean over the map is the logit of age k without its bias.

[1] Zhou et al., Learning deep features for discriminative localization, CVPR 2016.
[2] Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from agelens.errors import InputError, MissingExtraError
from agelens.explanation.maps import MapKind, StageMaps, check_age
from agelens.faces.alignment import CropGeometry
from agelens.inference.shipped_models import model_path, open_model

__all__ = ["ModelExplainer", "occlusion_maps"]

FloatArray = NDArray[np.float64]

_BATCH = 16


_POOLING = {"Flatten", "Reshape", "Squeeze"}


class ModelExplainer:
    """Explains the estimates of a model file.

    Args:
        model: Name of a shipped model, or a model file.
        kind: ``cam``: the class activation map, read off the graph (needs the package onnx);
            ``occlusion``: how many years the estimate moves when a patch is hidden.
        age: ``cam`` only: explain this age instead of the estimated one, years.
    Raises:
        ModelFileError: The file cannot be used.
        MissingExtraError: ``cam`` without onnx.
        InputError: ``age`` with occlusion or outside the bins, or a graph whose head does not see one
            globally pooled map.
    """

    def __init__(
        self,
        model: str | Path | None,
        kind: Literal["cam", "occlusion"] = "cam",
        age: float | None = None,
    ) -> None:
        self._session, card = open_model(model)
        self.name, self.bins = card.name, card.age_bins
        self.kind: MapKind = kind
        check_age(age, kind, self.bins)
        self.geometry = CropGeometry.from_dict(card.geometry)
        self._age = age
        self._graph = _PooledGraph(model_path(model)) if kind == "cam" else None

    def __call__(self, crops: NDArray[np.uint8]) -> list[StageMaps]:
        """Explain (N, S, S, 3) crops."""
        ages, distribution = self._session.run(None, {"images": crops})[:2]
        wanted = ages.astype(np.float64) if self._age is None else np.full(len(crops), float(self._age))
        index = self.bins.index(np.rint(wanted))
        if self._graph is not None:
            maps, explained = self._graph.maps(crops, index), self.bins.ages[index].astype(np.float64)
        else:
            maps, explained = occlusion_maps(self._ages, crops), np.full(len(crops), np.nan)
        wide = distribution.astype(np.float64)
        return [StageMaps(self.name, self.bins, ages.astype(np.float64), wide, explained, maps)]

    def _ages(self, crops: NDArray[np.uint8]) -> FloatArray:
        return np.asarray(self._session.run(["age"], {"images": crops})[0], dtype=np.float64)


class _PooledGraph:
    """A model file with two more outputs: the last feature map, and the logits it is pooled to."""

    def __init__(self, path: Path) -> None:
        try:
            onnx = importlib.import_module("onnx")
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnx (or use --maps occlusion)", "train") from error
        model = onnx.load(path)
        graph = model.graph
        maker = {output: node for node in graph.node for output in node.output}
        stored = {tensor.name: tensor for tensor in graph.initializer}
        heads = [
            node
            for node in graph.node
            if node.op_type == "Gemm" and re.search(r"head\.ldl\.weight$", node.input[1])
        ]
        if len(heads) != 1:
            raise InputError(f"{path}: {_NO_CAM}: it has {len(heads)} heads of distributions")
        (head,) = heads
        pooled = maker.get(head.input[0])
        while pooled is not None and pooled.op_type in _POOLING:
            pooled = maker.get(pooled.input[0])
        if pooled is None or pooled.op_type not in ("ReduceMean", "GlobalAveragePool"):
            raise InputError(f"{path}: {_NO_CAM}: its head does not see a globally pooled map")
        self.path = path

        def constant(name: str) -> FloatArray:
            if name not in stored and name in maker and maker[name].op_type == "Cast":
                name = maker[name].input[0]  # stored in 16 bits
            return np.asarray(onnx.numpy_helper.to_array(stored[name]), dtype=np.float64)

        self.weights, self.bias = constant(head.input[1]), constant(head.input[2])  # (K, C), (K,)
        self.names = [pooled.input[0], head.output[0]]
        for name in self.names:
            graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def maps(self, crops: NDArray[np.uint8], index: NDArray[np.int64]) -> FloatArray:
        """Give (N, h, w) class activation maps of (N,) bins."""
        features, logits = (
            array.astype(np.float64) for array in self.session.run(self.names, {"images": crops})
        )
        said = features.mean((2, 3)) @ self.weights.T + self.bias
        if said.shape != logits.shape or not np.allclose(said, logits, rtol=1e-3, atol=1e-2):
            raise InputError(f"{self.path}: {_NO_CAM}: its logits are not those of the pooled map")
        views = len(features) // len(crops)  # 2 where the graph looks at the mirror image, too
        selected = self.weights[np.tile(index, views)]
        maps: FloatArray = np.einsum("nchw,nc->nhw", features, selected)
        if views == 1:
            return maps
        return (maps[: len(crops)] + maps[len(crops) :, :, ::-1]) / 2


_NO_CAM = "there is no class activation map of this graph (use --maps occlusion)"


def occlusion_maps(
    estimate: Callable[[NDArray[np.uint8]], FloatArray], crops: NDArray[np.uint8], patch: int | None = None
) -> FloatArray:
    """Hide one square patch after the other and see how far the estimate moves [2].

    A patch takes the mean colour of its crop; patches overlap by half, and a pixel's value is the mean over
    the patches that hid it.

    Args:
        estimate: (B, S, S, 3) crops to (B,) years.
        crops: (N, S, S, 3) uint8.
        patch: Side of the patch in pixels; by default a sixth of the crop's.
    Returns:
        (N, S, S) absolute change, years.
    Raises:
        ValueError: The patch is not within 2 … S.
    """
    size = crops.shape[1]
    side = max(2, size // 6) if patch is None else patch
    if not 2 <= side <= size:
        raise ValueError(f"patch must be within 2 … {size}, not {side}")
    starts = [*range(0, size - side, side // 2), size - side]
    places = [(top, left) for top in starts for left in starts]
    maps = np.zeros((len(crops), size, size))
    counts = np.zeros((size, size))
    for top, left in places:
        counts[top : top + side, left : left + side] += 1
    for number, crop in enumerate(crops):
        hidden = np.repeat(crop[None], len(places), axis=0)
        colour = crop.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
        for view, (top, left) in zip(hidden, places, strict=True):
            view[top : top + side, left : left + side] = colour
        base = estimate(crop[None])[0]
        moved = np.concatenate(
            [np.abs(estimate(hidden[at : at + _BATCH]) - base) for at in range(0, len(hidden), _BATCH)]
        )
        for change, (top, left) in zip(moved, places, strict=True):
            maps[number, top : top + side, left : left + side] += change
    return np.asarray(maps / counts)
