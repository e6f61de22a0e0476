"""Many regressors weighed by the face: values by hand, plain loops, degenerate cases, leaves that move."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.backbones import make_backbone
from agelens.networks.heads import RankingHead
from agelens.networks.mixture_heads import AnchoredHead, BridgeHead, ForestHead
from agelens.networks.ranking_cnn import RankingCNN
from agelens.objectives.mixture import bridgenet, drf, memberships
from agelens.objectives.regression import l1

BINS = AgeBins(20, 60)


def _features(rows: int = 4) -> Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))


# --- anchored regression


def test_anchored_regression_is_a_plain_loop() -> None:
    torch.manual_seed(0)
    head, features = AnchoredHead(8, BINS, anchors=3), _features()
    raw = head(features).raw
    for row in range(4):
        scores = [math.exp(z) for z in head.assignment(features[row]).tolist()]
        regressed = head.linear(features[row]).tolist()
        total = sum(a / sum(scores) * r for a, r in zip(scores, regressed, strict=True))
        assert raw[row].item() == pytest.approx(20 + 40 * total, rel=1e-5)


def test_one_anchor_is_linear_regression() -> None:
    torch.manual_seed(0)
    head, features = AnchoredHead(8, BINS, anchors=1), _features()
    torch.testing.assert_close(head(features).raw, 20 + 40 * head.linear(features)[:, 0])


# --- BridgeNet


def test_gates_by_hand() -> None:
    head = BridgeHead(8, BINS, depth=2)
    torch.nn.init.zeros_(head.edges.weight)
    edges = torch.tensor([[9.0, math.log(3.0), 0.0, 9.0], [9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    head.edges.bias.data = edges.flatten()
    # the root's shares are 3/4 and 1/4, whatever its bridges say; outer bridges lead nowhere; node 0 gives a
    # third to each child and to node 1's younger one, node 1 likewise
    expected = torch.tensor([[1 / 4, 1 / 4 + 1 / 12, 1 / 12 + 1 / 4, 1 / 12]])
    torch.testing.assert_close(head.gates(_features(1)), expected)


def test_gates_are_a_distribution_and_ages_are_weighed() -> None:
    torch.manual_seed(0)
    head, features = BridgeHead(8, BINS, depth=4), _features()
    gates = head.gates(features)
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(4))
    outputs = head(features)
    local = outputs.raw[:, 16:]
    torch.testing.assert_close(head.estimate(outputs), (gates * local).sum(dim=1), atol=1e-3, rtol=0)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    assert head(features).raw[0, 16:].tolist() == pytest.approx([20 + 40 / 15 * leaf for leaf in range(16)])


def test_bridgenet_by_hand() -> None:
    bins = torch.arange(20.0, 61.0)
    assert memberships(torch.tensor([25.0, 60.0, 90.0]), bins, 3).tolist() == [
        [0.75, 0.25, 0.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, 1.0],
    ]
    log_gates = torch.tensor([[0.5, 0.25, 0.25]]).log()
    scores = torch.cat((log_gates, torch.tensor([[26.0, 35.0, 60.0]])), dim=1)
    error = 0.75 * 1 + 0.25 * 10
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.25)
    value = bridgenet(scores, torch.tensor([25.0]), bins, gate=2.0)
    assert value.item() == pytest.approx(error + 2 * divergence, rel=1e-5)


def test_at_a_centre_bridgenet_is_one_regressor() -> None:
    bins = torch.arange(20.0, 61.0)
    scores, ages = torch.randn(3, 6), torch.full((3,), 40.0)
    expected = l1(scores[:, 4], ages, bins)  # the middle one
    torch.testing.assert_close(bridgenet(scores, ages, bins, gate=0.0), expected)


# --- deep regression forest


def test_paths_are_products_of_splits() -> None:
    torch.manual_seed(0)
    head, features = ForestHead(8, BINS, trees=2, depth=3, units=4), _features()
    paths = head(features).raw[:, :, 0].exp()
    shares = torch.sigmoid(head.linear(features)[:, head.nodes]).reshape(4, 2, 3)
    for row in range(4):
        for tree in range(2):
            root, young, old = shares[row, tree].tolist()
            by_hand = [root * young, root * (1 - young), (1 - root) * old, (1 - root) * (1 - old)]
            assert paths[row, tree].tolist() == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(paths.sum(dim=2), torch.ones(4, 2))


def test_drf_is_a_plain_loop() -> None:
    scores = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores[:, :, 1] += 22
    ages = torch.tensor([20.0, 22.5, 90.0], dtype=torch.float64)
    bins = torch.arange(20, 26, dtype=torch.float64)
    total = 0.0
    for row, y in zip(scores.tolist(), [20.0, 22.5, 25.0], strict=True):
        for paths, means, log_variances in row:
            density = 0.0
            for path, mean, log_variance in zip(paths, means, log_variances, strict=True):
                variance = math.exp(log_variance)
                normal = math.exp(-((y - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
                density += math.exp(path) * normal
            total -= math.log(density)
    assert drf(scores, ages, bins).item() == pytest.approx(total / 6, rel=1e-9)


def test_leaves_take_the_moments_of_their_labels() -> None:
    head = ForestHead(8, BINS, trees=1, depth=2, units=2, every=2)
    start = head.means.clone()
    far = torch.full((4,), -50.0)
    left = torch.stack((torch.zeros(4), far), dim=1)  # two faces to the left leaf, two to the right one
    left[2:] = left[2:].flip(1)
    raw = torch.stack((left, head.means.expand(4, -1), head.log_variances.expand(4, -1)), dim=1)[:, None]
    ages = torch.tensor([24.0, 30.0, 50.0, 50.0])
    head.observe(raw, ages)
    torch.testing.assert_close(head.means, start)
    head.observe(raw, ages)
    torch.testing.assert_close(head.means, torch.tensor([[27.0, 50.0]]), rtol=1e-4, atol=0)
    variances = head.log_variances.exp()
    torch.testing.assert_close(variances, torch.tensor([[9.0, 1.0]]), rtol=1e-2, atol=0)  # at least 1
    assert head.sums.count_nonzero() == 0
    assert {"means", "log_variances", "sums", "steps"} <= set(head.state_dict())
    outputs = head(_features(1))
    shares = outputs.raw[0, 0, 0].exp()
    assert head.estimate(outputs).item() == pytest.approx((shares * torch.tensor([27.0, 50.0])).sum().item())


def test_a_leaf_without_images_stays() -> None:
    head = ForestHead(8, BINS, trees=1, depth=2, units=2, every=1)
    start = head.means[0, 1].item()
    raw = torch.tensor([[[[0.0, -1e3], [30.0, 50.0], [2.0, 2.0]]]])
    head.observe(raw, torch.tensor([31.0]))
    assert head.means.tolist() == [[pytest.approx(31.0), start]]


def test_nodes_are_drawn_by_the_seed() -> None:
    draws = [ForestHead(8, BINS, seed=seed).nodes.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 5 * 31


# --- Ranking-CNN


def test_each_binary_network_has_a_hidden_layer_of_its_own() -> None:
    torch.manual_seed(0)
    head, features = RankingHead(8, AgeBins(20, 23), width=5), _features()
    raw = head.raw(features)
    hidden = torch.relu(features @ head.hidden.weight[:, :, 0].T + head.hidden.bias).reshape(4, 3, 5)
    for task in range(3):
        by_hand = hidden[:, task] @ head.votes.weight[task, :, 0] + head.votes.bias[task]
        torch.testing.assert_close(raw[:, task], by_hand)
    votes = (raw > 0).sum(dim=1)
    torch.testing.assert_close(head.decode(head(features)).age, 20.0 + votes)


def test_separate_networks_share_nothing() -> None:
    torch.manual_seed(0)
    backbone = RankingCNN(3).eval()
    head = RankingHead(24, AgeBins(20, 23), width=8, separate=True)
    head.raw(backbone(torch.randn(2, 3, 32, 32)))[:, 1].sum().backward()
    convolutions = [layer for layer in backbone.layers if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 3
    for layer in [*convolutions, head.hidden, head.votes]:
        assert layer.weight.grad is not None
        touched = layer.weight.grad.flatten(1).abs().sum(dim=1).reshape(3, -1).sum(dim=1) > 0
        assert touched.tolist() == [False, True, False]
    with pytest.raises(InputError, match="3 separate networks have 24 features, not 8"):
        RankingHead(8, AgeBins(20, 23), separate=True)
    assert make_backbone("ranking-cnn").num_features == 800


def test_memberships_move_from_centre_to_centre() -> None:
    bins = torch.arange(20.0, 61.0)
    shares = memberships(bins, bins, 5)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(41))
    centres = torch.linspace(20, 60, 5)
    torch.testing.assert_close(shares @ centres, bins)
    assert all((earlier <= later).all() for earlier, later in pairwise(shares.cumsum(1).flip(0)))
