"""Heads that are more than a linear layer: the file that is written agrees with PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from agelens.export.onnx_graph import CardFields, export
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.networks.backbones import LayeredBackbone
from agelens.networks.heads import HEADS, age_network
from agelens.networks.reference_heads import ReferenceHead

FIELDS = CardFields(
    name="test",
    geometry=DEFAULT_GEOMETRY.with_size(32).to_dict(),
    licence={"use": "tests"},
    provenance={"data": "drawn"},
)
NORMALISATION = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.mark.parametrize(
    "head",
    [
        "embedding",
        "margin",
        "widths",
        "ranking",
        "anchored",
        "bridge",
        "forest",
        "kernel",
        "window",
        "comparing",
    ],
)
def test_a_head_is_exported(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
    network = age_network(LayeredBackbone(layers, 8), HEADS[head](8, AgeBins(20, 40))).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # answers apart
        if isinstance(network.head, ReferenceHead):
            ages = network.head.ages.repeat_interleave(network.head.references)
            network.head.refer(torch.randn(len(ages), 8), ages)
    card = export(network, FIELDS, tmp_path / "model.onnx", size=32, calibration=None, **NORMALISATION)
    assert card.decoding["head"] == head
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    age, distribution = session.run(["age", "distribution"], {"images": crops})
    with torch.inference_mode():
        images = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        decoded = network.head.decode(network(images))
    np.testing.assert_allclose(age, decoded.age.numpy(), atol=1e-2)
    np.testing.assert_allclose(distribution, decoded.distribution.numpy(), atol=1e-4)
