"""dlib's face recognition network, a ResNet of 29 layers: a start from identity that anyone may use.

King published its weights under CC0; he says [1] that they were trained from random numbers on about three
million faces (FaceScrub, VGG Face and pictures of the web) and verify 99.38 % of LFW's pairs. Here it is
without its last layer, the embedding of 128 numbers.

[1] King, High quality face recognition with deep metric learning, 2017, and the notes beside
    dlib_face_recognition_resnet_model_v1.dat (github.com/davisking/dlib-models).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from agelens.errors import CheckpointError, InputError
from agelens.networks.backbone import Backbone
from agelens.networks.normalisation import OwnInput, Triple
from agelens.reading import NETWORK_BYTES, read_bytes, reason

__all__ = ["DlibResNet", "is_dlib_file", "read_dlib_weights"]

_BLOCKS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Channels of a group of blocks, their number, and whether the first of them halves the map."""

_SMALLEST = 103  # a smaller image leaves a map of less than 3 x 3 for the last group
_LONGEST_NOTES = 4096  # bytes of settings between two layers

_OTHER = "does not hold dlib's face recognition network"

_MEAN: Triple = (122.782 / 255, 117.001 / 255, 104.298 / 255)
_DEVIATION: Triple = (256 / 255,) * 3


def _convolution(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of dlib: padded where its stride is 1, otherwise not."""
    return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2 if stride == 1 else 0)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a skip, which is pooled where the map is halved."""

    def __init__(self, in_channels: int, channels: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.first = _convolution(in_channels, channels, 3, 2 if halve else 1)
        self.second = _convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(functional.relu(self.first(x)))
        skip = functional.avg_pool2d(x, 2) if self.halve else x
        return functional.relu(_add(residual, skip))


def _add(one: Tensor, other: Tensor) -> Tensor:
    """Sum two maps, the smaller of each dimension filled up with zeros at its end."""
    shape = [max(sides) for sides in zip(one.shape[1:], other.shape[1:], strict=True)]
    return _filled(one, shape) + _filled(other, shape)


def _filled(x: Tensor, shape: list[int]) -> Tensor:
    channels, height, width = (wanted - got for wanted, got in zip(shape, x.shape[1:], strict=True))
    return functional.pad(x, (0, width, 0, height, 0, channels)) if channels or height or width else x


class DlibResNet(Backbone):
    """dlib's ``anet_type`` up to its last pooling; made for 150 px, it takes any size from 103 px on.

    In dlib's own crops the eyes are 52.6 px apart; so they are in the geometry ``agelens-v1`` at 133 px.
    """

    num_features = 256

    def __init__(self) -> None:
        super().__init__()
        self.own_input = OwnInput(_MEAN, _DEVIATION)
        self.stem = _convolution(3, 32, 7, 2)
        blocks = []
        in_channels = 32
        for channels, repeats, halve in _BLOCKS:
            for repeat in range(repeats):
                blocks.append(_Block(in_channels, channels, halve and repeat == 0))
                in_channels = channels
        self.blocks = nn.ModuleList(blocks)

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the last map, (B, 3, 150, 150) to (B, 256, 2, 2)."""
        if min(images.shape[2:]) < _SMALLEST:
            raise InputError(
                f"dlib-resnet takes images of {_SMALLEST} px or more, not {tuple(images.shape[2:])}"
            )
        x = functional.max_pool2d(functional.relu(self.stem(self.own_input(images))), 3, 2)
        for block in self.blocks:
            x = block(x)
        return x


def is_dlib_file(path: str | Path) -> bool:
    """Whether a file is one of dlib's, by its name."""
    return Path(path).suffix == ".dat"


def read_dlib_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of ``DlibResNet`` from dlib's own file.

    dlib writes its layers from the input on: a name, a header of packed integers, then the numbers of the
    layer, little-endian. What is left of a batch norm, a scale and a shift per channel, goes into the
    convolution before it.

    Args:
        path: ``dlib_face_recognition_resnet_model_v1.dat``.
    Returns:
        A state dict.
    Raises:
        CheckpointError: The file cannot be read or holds another network.
    """
    try:
        data = read_bytes(path, NETWORK_BYTES)
    except OSError as error:
        raise CheckpointError(path, f"cannot read weights: {reason(error)}") from error
    state = {}
    end = 0
    for name, module in DlibResNet().named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        channels, shape = module.out_channels, module.weight.shape
        numbers, end = _layer(path, data, end, b"con_4", shape.numel() + channels)
        affine, end = _layer(path, data, end, b"affine_", 2 * channels)
        scale, shift = affine.chunk(2)
        weight, bias = numbers[: shape.numel()].view(shape), numbers[shape.numel() :]
        state[f"{name}.weight"] = weight * scale.view(-1, 1, 1, 1)
        state[f"{name}.bias"] = bias * scale + shift
    return state


def _layer(path: str | Path, data: bytes, start: int, kind: bytes, numbers: int) -> tuple[Tensor, int]:
    """The numbers of the next layer of a kind, and where they end."""
    at = data.find(bytes([1, len(kind)]) + kind, start)
    if not 0 <= at - start < _LONGEST_NOTES:
        raise CheckpointError(path, f"{_OTHER}: no {kind.decode()} after byte {start}")
    at += 2 + len(kind)
    header = []
    for _ in range(5):  # version, samples, channels, rows, columns
        size = data[at] & 15 if at < len(data) else 0
        header.append(int.from_bytes(data[at + 1 : at + 1 + size], "little"))
        at += 1 + size
    end = at + 4 * numbers
    if end > len(data):
        raise CheckpointError(path, f"is cut off after {len(data)} bytes")
    if header[0] != 2 or math.prod(header[1:]) != numbers:
        raise CheckpointError(path, f"{_OTHER}: a {kind.decode()} of {header}, not {numbers} numbers")
    return torch.frombuffer(bytearray(data[at:end]), dtype=torch.float32), end
