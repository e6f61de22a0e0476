"""dlib's face recognition network: its file, its arithmetic, its errors."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from agelens.errors import CheckpointError, InputError
from agelens.networks.backbones import load_backbone, make_backbone
from agelens.terms import Terms
from agelens.training.start import start_terms

# Filters, inputs, kernel of the 29 convolutions, from the image on (anet_type in dlib's examples).
SHAPES = [(32, 3, 7)]
for channels, blocks, before in ((32, 3, 32), (64, 4, 32), (128, 3, 64), (256, 3, 128), (256, 1, 256)):
    for block in range(blocks):
        SHAPES += [(channels, before if block == 0 else channels, 3), (channels, channels, 3)]


def packed(number: int) -> bytes:
    """An integer as dlib writes it: the count of bytes, then the bytes."""
    size = max(1, (number.bit_length() + 7) // 8)
    return bytes([size]) + number.to_bytes(size, "little")


def layer(name: bytes, numbers: Tensor, version: int = 2) -> bytes:
    header = b"".join(packed(value) for value in (version, len(numbers), 1, 1, 1))
    settings = b"".join(struct.pack("<f", value) for value in (0.5, 0.25)) + packed(3)
    return packed(len(name)) + name + header + numbers.numpy().astype("<f4").tobytes() + settings


def write(path: Path, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """A file as dlib writes it, of random numbers; what is in it: weight, bias, scale, shift."""
    generator = torch.Generator().manual_seed(seed)
    contents, parts = [b"\x01\x01\x01\x0dloss_metric_2" + bytes(300)], []
    for filters, inputs, kernel in SHAPES:
        weight = (
            torch.randn(filters, inputs, kernel, kernel, generator=generator) * (inputs * kernel**2) ** -0.5
        )
        bias, shift = torch.randn(2, filters, generator=generator) * 0.1
        scale = torch.rand(filters, generator=generator) + 0.5
        parts.append((weight, bias, scale, shift))
        contents.append(layer(b"con_4", torch.cat([weight.flatten(), bias])))
        contents.append(layer(b"affine_", torch.cat([scale, shift])) + b"\x01\x06relu_1")
    path.write_bytes(b"".join(contents) + b"\x01\x04fc_2")
    return parts


def as_dlib_computes(parts: list[tuple[Tensor, Tensor, Tensor, Tensor]], pixels: np.ndarray) -> np.ndarray:
    """The 256 numbers of one image, layer by layer, sums of unequal maps by index."""

    def convolution(x: Tensor, stride: int) -> Tensor:
        weight, bias, scale, shift = next(layers)
        out = functional.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2 if stride == 1 else 0)
        return out * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    layers = iter(parts)
    mean = np.array([122.782, 117.001, 104.298])
    x = torch.from_numpy((pixels - mean) / 256).float().permute(2, 0, 1)[None]
    x = functional.max_pool2d(convolution(x, 2).relu(), 3, 2)
    for group, blocks in enumerate((3, 4, 3, 3, 1)):
        for block in range(blocks):
            halve = block == 0 and group > 0
            y = convolution(convolution(x, 2 if halve else 1).relu(), 1)
            skip = functional.avg_pool2d(x, 2, 2) if halve else x
            total = torch.zeros([max(a, b) for a, b in zip(y.shape, skip.shape, strict=True)])
            for term in (y, skip):
                total[:, : term.shape[1], : term.shape[2], : term.shape[3]] += term
            x = total.relu()
    return x.mean((2, 3))[0].numpy()


@pytest.mark.parametrize("size", [150, 128, 103])
def test_its_features_are_those_of_dlibs_layers(tmp_path: Path, size: int) -> None:
    parts = write(tmp_path / "face.dat")
    backbone = make_backbone("dlib-resnet").eval()
    load_backbone(backbone, tmp_path / "face.dat")
    pixels = np.random.default_rng(1).integers(0, 256, (size, size, 3)).astype(np.float64)
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        found = backbone(torch.from_numpy(normalised).float().permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(found, as_dlib_computes(parts, pixels), rtol=1e-3, atol=1e-4)
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) == 29


def test_terms_of_another_file_than_the_published_one_are_not_known(tmp_path: Path) -> None:
    write(tmp_path / "face.dat")
    assert start_terms(tmp_path / "face.dat") == Terms()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    backbone = make_backbone("dlib-resnet")
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    write(tmp_path / "face.dat")
    whole = (tmp_path / "face.dat").read_bytes()
    last = whole.rindex(b"affine_")
    for damaged, message in {
        b"": "no con_4 after byte 0",
        whole[: last + 3]: "no affine_ after byte",
        whole[: last + 9]: "is cut off after",
        whole[: last + 100]: "is cut off after",
        whole.replace(b"con_4", b"con_3", 1): "no con_4 after byte 0|con_4 of",
        b"\x01\x05con_4" + packed(1) + whole: "a con_4 of",
        bytes(8192) + whole: "no con_4 after byte 0",
    }.items():
        (tmp_path / "damaged.dat").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"damaged\.dat: .*({message})"):
            load_backbone(backbone, tmp_path / "damaged.dat")
    assert all(torch.equal(before[key], tensor) for key, tensor in backbone.state_dict().items())
    with pytest.raises(CheckpointError, match=r"none\.dat: cannot read weights"):
        load_backbone(backbone, tmp_path / "none.dat")


def test_an_image_that_is_too_small_is_told() -> None:
    with pytest.raises(InputError, match=r"103 px or more, not \(102, 102\)"):
        make_backbone("dlib-resnet")(torch.zeros(1, 3, 102, 102))
    with pytest.raises(InputError, match="load a file"):
        make_backbone("dlib-resnet", pretrained=True)
