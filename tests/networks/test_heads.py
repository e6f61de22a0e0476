"""Heads: their distribution, their estimate, their description; what a graph must repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, Head, MirroredNetwork, PairedNetwork
from agelens.networks.backbones import make_backbone
from agelens.networks.heads import (
    HEADS,
    CodingsHead,
    ConditionalHead,
    CoralHead,
    HeadedNetwork,
    OrdinalHead,
    age_network,
    as_distribution,
)
from agelens.networks.reference_heads import ReferenceHead
from agelens.networks.scoring_head import RegressionHead
from agelens.networks.stored import load_network, save_network

BINS = AgeBins(20, 40)
FIXED = {"stagewise": 21}  # features that a head asks for
OTHERS = [name for name in HEADS if name not in ("ldl", *FIXED)]


def _features(rows: int = 5, length: int = 8) -> Tensor:
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(0)) * 3


def _head(name: str, length: int, **settings: int) -> Head:
    """A head; one that compares has its references, and is judged as in use."""
    head = HEADS[name](length, BINS, **settings)
    if isinstance(head, ReferenceHead):
        ages = head.ages.repeat_interleave(head.references)
        head.refer(_features(len(ages), length), ages)
        head.eval()
    return head


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_a_distribution_and_an_age_within_the_bins(name: str) -> None:
    torch.manual_seed(0)
    length = FIXED.get(name, 8)
    head = _head(name, length)
    outputs = head(_features(length=length))
    assert outputs.logits.shape == (5, 21)
    for temperature in (None, 0.5, 3.0):
        decoded = head.decode(outputs, temperature)
        assert decoded.distribution.shape == (5, 21)
        torch.testing.assert_close(decoded.distribution.sum(dim=1), torch.ones(5))
        expected = torch.softmax(outputs.logits / (temperature or 1.0), dim=1)
        torch.testing.assert_close(decoded.distribution, expected)
        assert ((decoded.age >= 20) & (decoded.age <= 40)).all()
    with pytest.raises(ValueError, match="temperature"):
        head.decode(outputs, 0.0)
    assert set(head.decoding(2.0)) >= {"age", "distribution"}


def test_probabilities_of_being_older_become_a_distribution() -> None:
    falling = torch.tensor([[0.9, 0.6, 0.2]])
    torch.testing.assert_close(
        as_distribution(falling), torch.tensor([[0.1, 0.3, 0.4, 0.2]]), atol=1e-5, rtol=0
    )
    rising = torch.tensor([[0.2, 0.6, 0.1]])  # 0.8, -0.4 → 0, 0.5, 0.1: normalised by 1.4
    expected = torch.tensor([[0.8, 0.0, 0.5, 0.1]]) / 1.4
    torch.testing.assert_close(as_distribution(rising), expected, atol=1e-5, rtol=0)


def test_an_ordinal_estimate_counts_votes() -> None:
    head = OrdinalHead(8, AgeBins(20, 23))
    torch.nn.init.zeros_(head.linear.weight)
    head.linear.bias.data = torch.tensor([2.0, -1.0, 1.0])  # an older vote behind a younger one counts
    assert head.decode(head(_features(1))).age.tolist() == [22.0]
    decoded = head.decode(head(_features(1)))
    assert decoded.ldl is not None
    assert 20 < decoded.ldl.item() < 23  # the expectation is told apart


def test_coral_shares_its_weight_and_its_probabilities_fall() -> None:
    head = CoralHead(8, BINS)
    assert [tuple(p.shape) for p in head.parameters()] == [(20,), (1, 8)]
    assert head.bias.tolist() == pytest.approx([k / 20 for k in range(20, 0, -1)])
    assert (head.older(head.raw(_features())).diff(dim=1) <= 0).all()


def test_conditional_probabilities_are_multiplied() -> None:
    head = ConditionalHead(8, AgeBins(20, 22))
    older = head.older(torch.logit(torch.tensor([[0.9, 0.5]])))
    torch.testing.assert_close(older, torch.tensor([[0.9, 0.45]]))


def test_a_regressed_age_is_the_centre_of_its_distribution() -> None:
    head = RegressionHead(8, BINS)
    torch.nn.init.zeros_(head.linear.weight)
    head.linear.bias.data = torch.tensor([0.5])
    outputs = head(_features(1))
    decoded = head.decode(outputs, 0.04)  # a deviation of 5 · 0.2 = 1 year
    assert outputs.raw.tolist() == [30.0]
    assert (decoded.ldl, decoded.age.tolist(), decoded.reg.tolist()) == (None, [30.0], [30.0])  # type: ignore[union-attr]
    assert decoded.distribution is not None
    variance = (decoded.distribution @ (head.ages - 30) ** 2).item()
    assert variance == pytest.approx(1.0, abs=1e-3)
    assert head.heads == ("reg",)


def test_the_estimate_of_codings_is_the_mean_of_their_expectations() -> None:
    head = CodingsHead(8, BINS, codings=7, classes=4)
    outputs = head(_features(2))
    total = torch.zeros(2)
    from agelens.objectives.diversity import random_codings

    for row, coding in enumerate(random_codings(21, 7, 4, 0)):
        centres = torch.tensor([head.ages[coding == each].mean() for each in range(4)])
        total += torch.softmax(outputs.raw[:, row], dim=1) @ centres
    torch.testing.assert_close(head.decode(outputs).age, total / 7, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["ldl", *OTHERS])
def test_it_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = make_backbone("resnet10-tiny")
    settings = {"codings": 5, "classes": 3, "seed": 2} if name == "codings" else {}
    network = age_network(backbone, _head(name, backbone.num_features, **settings)).eval()
    save_network(network, tmp_path / "network.safetensors")
    again = load_network(tmp_path / "network.safetensors")
    assert type(again) is type(network)
    assert again.describe() == network.describe()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        ours, theirs = (net.head.decode(net(images)) for net in (network, again))
    torch.testing.assert_close(ours.age, theirs.age)
    torch.testing.assert_close(ours.distribution, theirs.distribution)


@pytest.mark.parametrize("name", OTHERS)
def test_mirrored_views_are_averaged(name: str) -> None:
    torch.manual_seed(0)
    backbone = make_backbone("resnet10-tiny")
    network = age_network(backbone, _head(name, backbone.num_features)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        both = MirroredNetwork(network).eval()(images)
        one, other = network(images), network(images.flip(3))
    torch.testing.assert_close(both.raw, (one.raw + other.raw) / 2)
    torch.testing.assert_close(both.logits, (one.logits + other.logits) / 2)


def test_only_linear_heads_are_paired() -> None:
    from agelens.errors import InputError

    backbone = make_backbone("resnet10-tiny")
    ordinal = HeadedNetwork(backbone, OrdinalHead(backbone.num_features, BINS))
    linear = age_network(backbone, AgeHead(backbone.num_features, BINS, ("reg",)))
    with pytest.raises(InputError, match="cannot pair"):
        PairedNetwork(ordinal, linear)
