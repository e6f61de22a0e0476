"""Stored networks: every kind rebuilds itself from its file; what is not ours is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from agelens.errors import CheckpointError
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone
from agelens.networks.guided import GuidedStudent
from agelens.networks.heads import CodingsHead, HeadedNetwork
from agelens.networks.identity import IdentityNetwork
from agelens.networks.pvp import PermutationNetwork
from agelens.networks.stored import (
    NETWORKS,
    described_by_us,
    load_network,
    read_tensors,
    save_network,
    write_tensors,
)


def _age(backbone: str) -> AgeNetwork:
    made = make_backbone(backbone)
    return AgeNetwork(made, AgeHead(made.num_features, AgeBins(5, 40), ("ldl",), 1.5))


def _headed() -> HeadedNetwork:
    backbone = make_backbone("resnet10-tiny")
    return HeadedNetwork(backbone, CodingsHead(backbone.num_features, AgeBins(5, 40), codings=3, classes=2))


def _made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {
        "age": _age("zca3:student-small@0.25"),
        "guided": GuidedStudent(_age("student-small"), (5, 9), (3, 4)),
        "headed": _headed(),
        "identity": IdentityNetwork(make_backbone("resnet10-tiny"), 7, 8),
        "permutation": PermutationNetwork(3, 6, 32, width=0.05, joint="conv", zca=3),
    }
    return made[kind]


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_rebuilds_itself(kind: str, tmp_path: Path) -> None:
    assert NETWORKS[kind].kind == kind
    network = _made(kind)
    save_network(network, tmp_path / "network.safetensors")
    rebuilt = load_network(tmp_path / "network.safetensors")
    assert type(rebuilt) is NETWORKS[kind]
    assert not rebuilt.training
    assert rebuilt.describe() == network.describe()  # type: ignore[operator]
    assert str(rebuilt) == str(network.eval())
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(rebuilt.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_network_may_be_described_otherwise(tmp_path: Path) -> None:
    save_network(nn.Linear(1, 1), tmp_path / "linear.safetensors", {"kind": "linear"})
    assert read_tensors(tmp_path / "linear.safetensors")[1] == {"kind": "linear"}
    with pytest.raises(CheckpointError, match="'linear'"):
        load_network(tmp_path / "linear.safetensors")


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        load_network(tmp_path / "none.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "bare.safetensors")
    assert not described_by_us(tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="damaged or not ours"):
        load_network(tmp_path / "bare.safetensors")
    described = {**_made("identity").describe(), "people": 6}  # type: ignore[operator]
    write_tensors(tmp_path / "other.safetensors", _made("identity").state_dict(), described)
    assert described_by_us(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="people"):
        load_network(tmp_path / "other.safetensors")
