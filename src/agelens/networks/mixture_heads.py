"""Heads that weigh many regressors by the face: anchored regression, bridged regressors, regression forests.

[1] Agustsson, Timofte and Van Gool, Anchored regression networks applied to age estimation and super
    resolution, ICCV 2017 (ARN).
[2] Li et al., BridgeNet: a continuity-aware probabilistic network for age estimation, CVPR 2019.
[3] Shen et al., Deep regression forests for age estimation, CVPR 2018 (DRF).
"""

from __future__ import annotations

from math import log
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.label_distribution import AgeBins
from agelens.networks.adaptive_heads import Steps
from agelens.networks.scoring_head import RawOutputs, RegressionHead, ScoringHead
from agelens.objectives.mixture import joint_log_densities

__all__ = ["AnchoredHead", "BridgeHead", "ForestHead"]

Anchors = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=2, le=10)]

_LEAST = 1e-6  # of a probability whose logarithm is taken


class AnchoredHead(RegressionHead):
    """y = Σ_i a_i(x)(w_i x + b_i): linear regressors, weighed by soft assignment to anchors ([1]).

    a is the softmax of a linear layer: assignment by Euclidean distance to anchors is of this form, since
    the length of x cancels. Anchors train with the network. Biases b start evenly over the ages.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        anchors: Number of anchors; the paper's abstract leaves it open.
    """

    kind: ClassVar[str] = "anchored"
    rule: ClassVar[str] = "Σ a_i(x)(w_i x + b_i), clipped to the bins"

    def __init__(self, num_features: int, age_bins: AgeBins, *, anchors: Anchors = 10) -> None:
        super().__init__(num_features, age_bins)
        self.anchors = anchors
        self.linear = nn.Linear(num_features, anchors)
        self.assignment = nn.Linear(num_features, anchors)
        with torch.no_grad():
            self.linear.bias.copy_((torch.arange(anchors) + 0.5) / anchors)

    def settings(self) -> dict[str, Any]:
        """The number of anchors."""
        return {"anchors": self.anchors}

    def years(self, features: Tensor) -> Tensor:
        """Ages (B,) of (B, C) features, unclipped."""
        shares = torch.softmax(self.assignment(features).float(), dim=1)
        regressed: Tensor = (shares * self.linear(features).float()).sum(dim=1)
        return regressed * (self.age_bins.maximum - self.age_bins.minimum) + self.age_bins.minimum


class BridgeHead(RegressionHead):
    """Σ_i g_i(x) r_i(x): local regressors under the gates of a bridge-tree ([2]).

    The tree halves the ages ``depth`` times. A node passes its share to its two children and, over bridges,
    to the nearest child of each neighbour, by a softmax over these edges: shares of neighbouring leaves
    change together, which a tree without bridges forbids at its early splits. Each of the M = 2^depth leaves
    has a linear regressor about its own age; the leaves' ages lie evenly over the bins. The paper's text
    names tree, bridges and overlap; that these are the edges is our reading.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        depth: Of the tree.
    """

    kind: ClassVar[str] = "bridge"
    rule: ClassVar[str] = "Σ g_i(x) r_i(x), clipped to the bins"
    centres: Tensor
    outside: Tensor

    def __init__(self, num_features: int, age_bins: AgeBins, *, depth: Depth = 3) -> None:
        super().__init__(num_features, age_bins)
        self.depth = depth
        leaves = 2**depth
        self.linear = nn.Linear(num_features, leaves)
        self.edges = nn.Linear(num_features, 4 * (leaves - 1))
        centres = torch.linspace(age_bins.minimum, age_bins.maximum, leaves)
        self.register_buffer("centres", centres, persistent=False)
        outside = torch.zeros(leaves - 1, 4)  # bridges that lead beyond the youngest and the oldest node
        for level in range(1, depth):
            outside[2**level - 1, 0] = outside[2 ** (level + 1) - 2, 3] = -1e4
        self.register_buffer("outside", outside, persistent=False)

    def settings(self) -> dict[str, Any]:
        """The depth of the tree."""
        return {"depth": self.depth}

    def gates(self, features: Tensor) -> Tensor:
        """Shares of the leaves (B, M), youngest first."""
        edges = self.edges(features).float().unflatten(1, (-1, 4))  # bridge, child, child, bridge
        shares = torch.softmax(edges[:, 0, 1:3], dim=1)  # the root has no neighbour
        first = 1
        for _ in range(1, self.depth):
            nodes = shares.shape[1]
            level = (edges + self.outside)[:, first : first + nodes]
            mass = shares[:, :, None] * torch.softmax(level, dim=2)
            left = mass[:, :, 1] + F.pad(mass[:, :-1, 3], (1, 0))
            right = mass[:, :, 2] + F.pad(mass[:, 1:, 0], (0, 1))
            shares = torch.stack((left, right), dim=2).flatten(1)
            first += nodes
        return shares

    def forward(self, features: Tensor) -> RawOutputs:
        """Regress the age of (B, C) features; the scores are ln g and the local ages in years, (B, 2M)."""
        spacing = (self.age_bins.maximum - self.age_bins.minimum) / (len(self.centres) - 1)
        local = self.centres + spacing * self.linear(features).float()
        gates = self.gates(features)
        years = (gates * local).sum(dim=1)
        normalised = (years - self.age_bins.minimum) / (self.age_bins.maximum - self.age_bins.minimum)
        raw = torch.cat((gates.clamp(min=_LEAST).log(), local), dim=1)
        return RawOutputs(features, self.logits(years), normalised, raw)

    def estimate(self, outputs: RawOutputs) -> Tensor:
        """The weighed age (B,)."""
        log_gates, local = outputs.raw.float().chunk(2, dim=1)
        return (torch.softmax(log_gates, dim=1) * local).sum(dim=1)


class ForestHead(ScoringHead):
    """T trees with soft splits and Gaussian leaves; the leaves are found in turns with the network ([3]).

    Of ``units`` outputs of a linear layer, each node of each tree reads one, drawn at random; its sigmoid is
    the share that goes left. A tree of depth 6 has 2^5 leaves, as in the authors' code. Leaves start evenly
    over the ages, ten years wide. After ``every`` steps they take the mean and the variance of the labels
    since, each image weighed by ζ_l = P(l | x) N(y; μ_l, σ_l²) / Σ: one round of the paper's update, which
    the authors repeat over kept batches. A variance is at least one year²; a leaf without images stays.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        trees: T.
        depth: Of each tree, leaves counted.
        units: Outputs of the linear layer.
        every: Steps between two updates of the leaves.
        seed: Of the nodes' draw.
    """

    kind: ClassVar[str] = "forest"
    rule: ClassVar[str] = "mean over trees of Σ P(leaf) mean(leaf)"
    means: Tensor
    log_variances: Tensor
    sums: Tensor
    steps: Tensor
    nodes: Tensor
    lefts: Tensor
    rights: Tensor

    def __init__(
        self,
        num_features: int,
        age_bins: AgeBins,
        *,
        trees: Annotated[int, Field(ge=1)] = 5,
        depth: Depth = 6,
        units: Annotated[int, Field(ge=1)] = 128,
        every: Steps = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(num_features, age_bins)
        self._settings = {"trees": trees, "depth": depth, "units": units, "every": every, "seed": seed}
        leaves = 2 ** (depth - 1)
        self.linear = nn.Linear(num_features, units)
        draw = torch.Generator().manual_seed(seed)
        nodes = torch.randint(units, (trees * (leaves - 1),), generator=draw)
        self.register_buffer("nodes", nodes, persistent=False)
        lefts, rights = torch.zeros(leaves, leaves - 1), torch.zeros(leaves, leaves - 1)
        for leaf in range(leaves):
            node = leaf + leaves  # children of n are 2n and 2n + 1, the root is 1
            while node > 1:
                (rights if node % 2 else lefts)[leaf, node // 2 - 1] = 1.0
                node //= 2
        self.register_buffer("lefts", lefts, persistent=False)
        self.register_buffer("rights", rights, persistent=False)
        span = age_bins.maximum - age_bins.minimum
        means = age_bins.minimum + span * (torch.arange(leaves) + 0.5) / leaves
        self.register_buffer("means", means.repeat(trees, 1))
        self.register_buffer("log_variances", torch.full((trees, leaves), log(100.0)))
        self.register_buffer("sums", torch.zeros(3, trees, leaves))  # of ζ, ζ y, ζ y²
        self.register_buffer("steps", torch.zeros(()))

    def settings(self) -> dict[str, Any]:
        """Trees, depth, units, steps between two updates, seed."""
        return dict(self._settings)

    def raw(self, features: Tensor) -> Tensor:
        """Ln P(leaf), means in years, ln variances (B, T, 3, L)."""
        splits = self.linear(features).float()[:, self.nodes].unflatten(1, (self._settings["trees"], -1))
        # Sums, not products of matrices, which mixed precision would round.
        # Softplus: the graph of a log-sigmoid is log(sigmoid), -inf at a sure split, which times 0 is NaN.
        paths = -(F.softplus(-splits)[:, :, None] * self.lefts).sum(dim=3)
        paths = paths - (F.softplus(splits)[:, :, None] * self.rights).sum(dim=3)
        means, log_variances = self.means.expand_as(paths), self.log_variances.expand_as(paths)
        return torch.stack((paths, means, log_variances), dim=2)

    def logits(self, raw: Tensor) -> Tensor:
        """Logarithm of the leaves' mixture over the bins (B, K)."""
        shares = torch.softmax(raw[:, :, 0], dim=2).flatten(1) / self._settings["trees"]
        squares = (self.ages - self.means.reshape(-1, 1)) ** 2
        leaves = torch.softmax(-squares / (2 * self.log_variances.reshape(-1, 1).exp()), dim=1)
        return (shares @ leaves).clamp(min=_LEAST).log()

    def estimate(self, outputs: RawOutputs) -> Tensor:
        """Mean of the leaves' means by their shares (B,), averaged over trees."""
        shares = torch.softmax(outputs.raw[:, :, 0].float(), dim=2)
        return (shares * self.means).sum(dim=2).mean(dim=1)

    def observe(self, raw: Tensor, ages: Tensor) -> None:
        """Add the labels of a batch to their leaves; after ``every`` batches move the leaves."""
        years = ages.clamp(self.age_bins.minimum, self.age_bins.maximum)
        zeta = torch.softmax(joint_log_densities(raw, years), dim=2)
        for power in range(3):
            self.sums[power] += (zeta * years[:, None, None] ** power).sum(dim=0)
        self.steps += 1
        if int(self.steps) < self._settings["every"]:
            return
        weight = self.sums[0]
        means = self.sums[1] / weight.clamp(min=_LEAST)
        variances = (self.sums[2] / weight.clamp(min=_LEAST) - means**2).clamp(min=1.0)
        seen = weight > 1e-3
        self.means.copy_(torch.where(seen, means, self.means))
        self.log_variances.copy_(torch.where(seen, variances.log(), self.log_variances))
        self.sums.zero_()
        self.steps.zero_()
