"""Heads by name: each trains on scores of its own and still gives a distribution.

The logits of the ordinal heads are ln P(y = k) = ln(P(y > k - 1) - P(y > k)).

[1] Niu et al., Ordinal regression with multiple output CNN for age estimation, CVPR 2016 (OR-CNN).
[2] Cao, Mirjalili and Raschka, Rank consistent ordinal regression for neural networks, PRL 2020 (CORAL).
[3] Shi, Cao and Raschka, Deep neural networks for rank-consistent ordinal regression based on conditional
    probabilities, PAA 2023 (CORN).
[4] Zhang et al., Quantifying facial age by posterior of age comparisons, BMVC 2017.
[5] Berg, Oskarsson and O'Connor, Deep ordinal regression with label diversity, ICPR 2020.
[6] Chen et al., Using Ranking-CNN for age estimation, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.adaptive_heads import EmbeddingHead, MarginHead, WidthsHead
from agelens.networks.age_network import AgeHead, AgeNetwork, Head
from agelens.networks.backbone import Backbone
from agelens.networks.backbones import make_backbone
from agelens.networks.cascade_head import CascadeHead
from agelens.networks.kernel_head import KernelHead
from agelens.networks.mixture_heads import AnchoredHead, BridgeHead, ForestHead
from agelens.networks.ranking_cnn import FEATURES
from agelens.networks.reference_heads import ComparingHead, WindowHead
from agelens.networks.scoring_head import RawOutputs, RegressionHead, ScoringHead
from agelens.networks.stagewise_head import StagewiseHead
from agelens.objectives.diversity import Codings, random_codings
from agelens.plugins import resolve

__all__ = [
    "HEADS",
    "CodingsHead",
    "ComparisonsHead",
    "ConditionalHead",
    "CoralHead",
    "DistributionHead",
    "HeadedNetwork",
    "OrdinalHead",
    "RankingHead",
    "age_network",
    "as_distribution",
]

_LEAST = 1e-6  # of a probability whose logarithm is taken


def as_distribution(older: Tensor) -> Tensor:
    """P(y = k) = P(y > k - 1) - P(y > k), from K - 1 probabilities to a distribution over K bins.

    Where the probabilities do not fall with k, which OR-CNN permits, a negative difference counts as none;
    the rest is normalised.

    Args:
        older: (B, K - 1) P(y > k).
    Returns:
        (B, K) distribution, every entry positive.
    """
    one, zero = torch.ones_like(older[:, :1]), torch.zeros_like(older[:, :1])
    mass = (torch.cat((one, older), dim=1) - torch.cat((older, zero), dim=1)).clamp(min=_LEAST)
    return mass / mass.sum(dim=1, keepdim=True)


class DistributionHead(AgeHead):
    """A linear layer to the logits of the K bins."""

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins, ("ldl",), 1.0)


class OrdinalHead(ScoringHead):
    """K - 1 binary classifiers "older than bin k?" ([1], Sec. 3); the estimate counts the votes."""

    kind: ClassVar[str] = "ordinal"
    rule: ClassVar[str] = "minimum + number of P(age > k) above 0.5"
    step = 1.0

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins)
        self.linear = nn.Linear(num_features, len(age_bins) - 1)

    def raw(self, features: Tensor) -> Tensor:
        """Logits (B, K - 1)."""
        scores: Tensor = self.linear(features)
        return scores

    def older(self, raw: Tensor) -> Tensor:
        """P(y > k) (B, K - 1)."""
        return torch.sigmoid(raw)

    def logits(self, raw: Tensor) -> Tensor:
        """Logarithms of P(y = k) (B, K)."""
        return as_distribution(self.older(raw)).log()

    def estimate(self, outputs: RawOutputs) -> Tensor:
        """Youngest age plus the number of votes for older (B,)."""
        votes = (self.older(outputs.raw.float()) > 0.5).float()
        return self.age_bins.minimum + votes.sum(dim=1)


class CoralHead(OrdinalHead):
    """One weight vector for all K - 1 tasks, a bias each, so that P(y > k) falls with k ([2], Sec. 3.3)."""

    kind: ClassVar[str] = "coral"

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        ScoringHead.__init__(self, num_features, age_bins)
        tasks = len(age_bins) - 1
        self.linear = nn.Linear(num_features, 1, bias=False)
        self.bias = nn.Parameter(torch.arange(tasks, 0, -1, dtype=torch.float32) / tasks)

    def raw(self, features: Tensor) -> Tensor:
        """Logits (B, K - 1)."""
        scores: Tensor = self.linear(features) + self.bias
        return scores


class ConditionalHead(OrdinalHead):
    """Task k answers P(y > k given y > k - 1); P(y > k) is the product up to k ([3], Eq. 4)."""

    kind: ClassVar[str] = "corn"
    rule: ClassVar[str] = "minimum + number of products of P(age > k given age > k - 1) above 0.5"

    def older(self, raw: Tensor) -> Tensor:
        """P(y > k) (B, K - 1)."""
        return F.logsigmoid(raw).cumsum(dim=1).exp()


class RankingHead(OrdinalHead):
    """K - 1 binary networks, each with a hidden layer of its own; the estimate counts the votes ([6]).

    In [6] every network is separate: ``separate`` on the features of the backbone ``ranking-cnn``, of which
    each reads its own eight. The economical form shares the backbone.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        width: Units of each hidden layer.
        separate: Whether each network has features of its own.
    Raises:
        InputError: ``separate`` with other features than 8 a network.
    """

    kind: ClassVar[str] = "ranking"

    def __init__(
        self, num_features: int, age_bins: AgeBins, *, width: Codings = 16, separate: bool = False
    ) -> None:
        ScoringHead.__init__(self, num_features, age_bins)
        self._settings = {"width": width, "separate": separate}
        tasks = len(age_bins) - 1
        if separate and num_features != FEATURES * tasks:
            raise InputError(
                f"{tasks} separate networks have {FEATURES * tasks} features, not {num_features}: the "
                "backbone ranking-cnn has those of the ages 0-100"
            )
        self.hidden = nn.Conv1d(
            num_features, tasks * width, 1, groups=tasks if separate else 1
        )  # over one place: grouped linear layers
        self.votes = nn.Conv1d(tasks * width, tasks, 1, groups=tasks)

    def settings(self) -> dict[str, Any]:
        """Units of each hidden layer; whether each network has features of its own."""
        return dict(self._settings)

    def raw(self, features: Tensor) -> Tensor:
        """Logits (B, K - 1)."""
        scores: Tensor = self.votes(torch.relu(self.hidden(features[:, :, None])))
        return scores[:, :, 0]


class ComparisonsHead(ScoringHead):
    """K - 1 comparisons with references, and a posterior over the K bins made of them ([4])."""

    kind: ClassVar[str] = "comparisons"

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins)
        self.comparisons = nn.Linear(num_features, len(age_bins) - 1)
        self.posterior = nn.Linear(len(age_bins) - 1, len(age_bins))

    def raw(self, features: Tensor) -> Tensor:
        """Logits of the comparisons, then of the posterior (B, 2K - 1)."""
        comparisons = self.comparisons(features)
        return torch.cat((comparisons, self.posterior(torch.sigmoid(comparisons))), dim=1)

    def logits(self, raw: Tensor) -> Tensor:
        """Logits of the posterior (B, K)."""
        return raw[:, len(self.age_bins) - 1 :]


class CodingsHead(ScoringHead):
    """M classifiers, each over its own division of the ages into L classes ([5], Sec. 3).

    The codings are :func:`agelens.objectives.diversity.random_codings`. Each class spreads its probability
    evenly over its ages; the distribution is the mean over codings, and its expectation the mean of the
    codings' expectations.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        codings: M.
        classes: L.
        seed: Of the borders.
    Raises:
        InputError: More classes than ages.
    """

    kind: ClassVar[str] = "codings"
    spread: Tensor

    def __init__(
        self,
        num_features: int,
        age_bins: AgeBins,
        *,
        codings: Codings = 30,
        classes: Codings = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(num_features, age_bins)
        self._settings = {"codings": codings, "classes": classes, "seed": seed}
        self.linear = nn.Linear(num_features, codings * classes)
        drawn = random_codings(len(age_bins), codings, classes, seed)
        one_hot = F.one_hot(drawn, classes).transpose(1, 2).float()  # (M, L, K)
        even = one_hot / one_hot.sum(dim=2, keepdim=True) / codings
        self.register_buffer("spread", even.reshape(codings * classes, -1), persistent=False)

    def settings(self) -> dict[str, Any]:
        """Codings, classes and the seed of the cuts."""
        return dict(self._settings)

    def raw(self, features: Tensor) -> Tensor:
        """Logits (B, M, L)."""
        scores: Tensor = self.linear(features)
        return scores.reshape(-1, self._settings["codings"], self._settings["classes"])

    def logits(self, raw: Tensor) -> Tensor:
        """Logarithm of the mean distribution (B, K)."""
        mass = torch.softmax(raw, dim=2).flatten(1) @ self.spread
        return mass.clamp(min=_LEAST).log()


HEADS: dict[str, Callable[..., Head]] = {
    "ldl": DistributionHead,
    "reg": RegressionHead,
    "ordinal": OrdinalHead,
    "coral": CoralHead,
    "corn": ConditionalHead,
    "ranking": RankingHead,
    "comparisons": ComparisonsHead,
    "codings": CodingsHead,
    "embedding": EmbeddingHead,
    "margin": MarginHead,
    "widths": WidthsHead,
    "anchored": AnchoredHead,
    "bridge": BridgeHead,
    "forest": ForestHead,
    "kernel": KernelHead,
    "window": WindowHead,
    "comparing": ComparingHead,
    "stagewise": StagewiseHead,
    "cascade": CascadeHead,
}
"""Name of a head to ``factory(num_features, age_bins, **settings)``."""


class HeadedNetwork(AgeNetwork):
    """A backbone and a :class:`ScoringHead`, which its description names."""

    kind: ClassVar[str] = "headed"

    def describe(self) -> dict[str, Any]:
        """As an age network; ``head`` is a key of ``HEADS``, or ``package.module:Class``."""
        head = self.head
        assert isinstance(head, ScoringHead)
        name = head.kind or f"{type(head).__module__}:{type(head).__qualname__}"
        return {**super().describe(), "head": name, "head_settings": head.settings()}

    @classmethod
    def rebuild(cls, described: Mapping[str, Any]) -> Self:
        """Build the network as described."""
        backbone = make_backbone(described["backbone"])
        make = resolve("heads", described["head"], HEADS)
        bins = AgeBins.parse(described["age_bins"])
        return cls(backbone, make(backbone.num_features, bins, **described["head_settings"]))


def age_network(backbone: Backbone, head: Head) -> AgeNetwork:
    """Put a head on a backbone, as the kind of network that describes it."""
    return HeadedNetwork(backbone, head) if isinstance(head, ScoringHead) else AgeNetwork(backbone, head)
