"""Weights to start from out of a model file: a shipped model is trained on, without its run.

A model file keeps the names of its network's weights; 8-bit ones are multiplied by their scales again. Batch
norms are folded into convolutions when a model is exported, and cannot be taken out again: only networks
without them (``dlib-resnet``) can be read back. An ensemble holds several networks; the first that fits is
taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from agelens.errors import CheckpointError
from agelens.model_file import HALF_SUFFIX, open_model_file

__all__ = ["names_model", "read_model_weights"]

_NETWORK = (
    "network."  # before the names of the network's weights (twice if mirrored), after a member's number
)


def names_model(path: str | Path) -> bool:
    """Tell whether the path of a start or a teacher means a model file, not a run."""
    return Path(path).suffix == ".onnx" and not Path(path).is_dir()


def read_model_weights(
    path: str | Path, wanted: Mapping[str, Tensor], *, head: bool = True
) -> dict[str, Tensor]:
    """Read the weights of a network back from a model file.

    Args:
        path: A model file of ours.
        wanted: State dict of an :class:`agelens.networks.age_network.AgeNetwork`: names and shapes.
        head: Whether the head's weights are read too, as far as the file has them.
    Returns:
        Float32 tensors by name: all of the backbone's, and the head's.
    Raises:
        ModelFileError: Not a model file of ours, or a damaged one.
        CheckpointError: None of its networks has all weights of the backbone.
    """
    open_model_file(path)  # refuses what is damaged, too large or not ours
    kept = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    names = [name for name in wanted if not name.startswith("head.")]
    first = f"{_NETWORK}{names[0]}"
    for prefix in sorted({name.partition(first)[0] for name in kept if first in name}):
        if f"{prefix.partition(_NETWORK)[0]}scale" not in kept:
            continue  # the first convolution holds the scale of the pixels
        found = {}
        for name, own in wanted.items():
            value = _weight(kept, f"{prefix}{_NETWORK}{name}") if head or name in names else None
            if value is not None and value.shape == tuple(own.shape):
                found[name] = torch.from_numpy(value)
        if found.keys() >= set(names):
            return found
    raise CheckpointError(
        path,
        f"has no network with the {len(names)} weights of the recipe's backbone to start from (batch norms, "
        "if it had any, are folded into convolutions: start from its run)",
    )


def _weight(kept: Mapping[str, Any], name: str) -> NDArray[np.float32] | None:
    """A weight in its 32 or 16 bits, or what its integers stand for; None if it is not there."""
    for key in (name, f"{name}{HALF_SUFFIX}"):
        if key in kept:
            return numpy_helper.to_array(kept[key]).astype(np.float32)
    whole = f"{name}_quantized"
    if whole not in kept:
        return None
    numbers: NDArray[np.float32] = numpy_helper.to_array(kept[whole]).astype(np.float32)
    scale, zero = (
        numpy_helper.to_array(next(kept[key] for key in (f"{whole}_{what}", f"{name}_{what}") if key in kept))
        for what in ("scale", "zero_point")
    )
    shape = (-1,) + (1,) * (numbers.ndim - 1) if scale.size > 1 else ()
    values: NDArray[np.float32] = (numbers - zero.reshape(shape).astype(np.float32)) * scale.reshape(shape)
    return values
