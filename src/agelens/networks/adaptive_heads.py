"""Heads whose embeddings, margins or label distributions adapt.

[1] Li et al., Learning probabilistic ordinal embeddings for uncertainty-aware regression, CVPR 2021 (POE).
[2] Deng et al., PML: progressive margin loss for long-tailed age classification, CVPR 2021.
[3] Geng, Wang and Xia, Facial age estimation by adaptive label distribution learning, ICPR 2014 (ALDL).
"""

from __future__ import annotations

from math import log
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.label_distribution import AgeBins
from agelens.networks.scoring_head import ScoringHead
from agelens.objectives.adaptive import gaussians
from agelens.objectives.contract import Positive, age_index
from agelens.objectives.probabilistic import Samples

__all__ = ["EmbeddingHead", "MarginHead", "Steps", "WidthsHead"]

Steps = Annotated[int, Field(ge=1)]
"""A number of training steps."""

_LEAST = 1e-6  # of a probability whose logarithm is taken
_WIDTHS = [0.5 + 0.25 * step for step in range(39)]  # 0.5 … 10 years


class EmbeddingHead(ScoringHead):
    """A Gaussian in a space of features, whose samples a linear layer classifies ([1], Sec. 3.1).

    In training S samples are drawn; in evaluation the mean alone is classified, so that an image has one
    answer. Layers are those of the authors' code: mean by a linear layer and ReLU, ln σ² by a linear layer
    and batch norm without weights, dropout of a half before the classifier. D = C.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        samples: S.
    """

    kind: ClassVar[str] = "embedding"

    def __init__(self, num_features: int, age_bins: AgeBins, *, samples: Samples = 50) -> None:
        super().__init__(num_features, age_bins)
        self.samples = samples
        self.mean = nn.Sequential(nn.Linear(num_features, num_features), nn.ReLU())
        self.log_variance = nn.Sequential(
            nn.Linear(num_features, num_features), nn.BatchNorm1d(num_features, eps=1e-3, affine=False)
        )
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(num_features, len(age_bins))

    def settings(self) -> dict[str, Any]:
        """The number of samples."""
        return {"samples": self.samples}

    def raw(self, features: Tensor) -> Tensor:
        """Mean, ln σ² and logits of the samples (B, 2D + S·K); S is 1 in evaluation."""
        mean, log_variance = self.mean(features), self.log_variance(features)
        if self.training:
            shape = (len(mean), self.samples, mean.shape[1])
            noise = torch.randn(shape, dtype=mean.dtype, device=mean.device)
            drawn = mean[:, None] + (log_variance / 2).exp()[:, None] * noise
            logits = self.linear(self.dropout(drawn)).flatten(1)
        else:
            logits = self.linear(mean)
        return torch.cat((mean, log_variance, logits), dim=1)

    def logits(self, raw: Tensor) -> Tensor:
        """Logarithm of the samples' mean distribution (B, K); of one sample its logits."""
        logits = raw[:, 2 * self.num_features :]
        if not self.training:
            return logits
        each = torch.softmax(logits.reshape(len(raw), self.samples, -1), dim=2)
        return each.mean(dim=1).clamp(min=_LEAST).log()


class MarginHead(ScoringHead):
    """Logits, and the margins of the ages, which train with them ([2]). Estimates know no margin.

    The ordinal margin of an age starts as a Gaussian of two years about it. The variational one reads what
    the last step changed for each age: the way that the running mean of its features moved, its spread, and
    its distances to the other ages' means, all as cosine distances. What changes least, the ages with most
    images, can be held back so. [2] gives the whole changed vectors to a convolutional network, before the
    step; here a small network reads three numbers of each age, each brought to mean square 1 over the ages.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
    """

    kind: ClassVar[str] = "margin"
    means: Tensor
    counts: Tensor
    spreads: Tensor
    changes: Tensor

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins)
        self.linear = nn.Linear(num_features, len(age_bins))
        self.centres = nn.Parameter(self.ages.clone())
        self.log_deviations = nn.Parameter(torch.full_like(self.ages, log(2.0)))
        self.variational = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
        self.register_buffer("means", torch.zeros(len(age_bins), num_features))
        self.register_buffer("counts", torch.zeros(len(age_bins)))
        self.register_buffer("spreads", torch.zeros(len(age_bins)))
        self.register_buffer("changes", torch.zeros(len(age_bins), 3))

    def raw(self, features: Tensor) -> Tensor:
        """Logits, centres in years, ln deviations, variational margins, features (B, 4K + C)."""
        logits: Tensor = self.linear(features)
        of_ages = self.variational(self.changes)[:, 0].float()
        margins = [values.expand_as(logits) for values in (self.centres, self.log_deviations, of_ages)]
        return torch.cat((logits.float(), *margins, features.detach().float()), dim=1)

    def logits(self, raw: Tensor) -> Tensor:
        """The logits (B, K)."""
        return raw[:, : len(self.age_bins)]

    def observe(self, raw: Tensor, ages: Tensor) -> None:
        """Add the features of a batch to the statistics of their ages, and keep what that changed."""
        features, labelled = raw[:, 4 * len(self.age_bins) :], age_index(ages, self.ages)
        before, spreads = self.means.clone(), self.spreads.clone()
        self.counts.index_add_(0, labelled, torch.ones_like(ages, dtype=self.counts.dtype))
        offsets = (features - before[labelled]) / self.counts[labelled, None]
        self.means.index_add_(0, labelled, offsets)
        both = [1 - F.cosine_similarity(features, means[labelled]) for means in (before, self.means)]
        self.spreads.index_add_(0, labelled, both[0] * both[1])
        moved = 1 - F.cosine_similarity(before, self.means)
        moved = torch.where((before == self.means).all(dim=1), torch.zeros_like(moved), moved)
        apart = [_cosine_distances(means).mean(dim=1) for means in (before, self.means)]
        changes = torch.stack((moved, self.spreads - spreads, apart[1] - apart[0]), dim=1)
        self.changes.copy_(changes / changes.square().mean(dim=0).sqrt().clamp(min=1e-8))


def _cosine_distances(means: Tensor) -> Tensor:
    """(K, K) cosine distances; 1 to an age without an image."""
    unit = F.normalize(means, dim=1)
    return 1 - unit @ unit.T


class WidthsHead(ScoringHead):
    """Logits, and the deviation of each age's label distribution, which are found in turns ([3]).

    The network learns with the deviations as they are; after ``every`` steps each age takes the deviation, of
    0.5 … 10 years in quarters, whose Gaussian is nearest (KL divergence) to the network's answers for its
    well estimated images since: those at most as wrong as their batch on average. [3] alternates over the
    whole training set and solves for the deviation by an interior-point method. An age without an image keeps
    its deviation.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        sigma: Deviation at the start, years.
        every: Steps between two searches.
    """

    kind: ClassVar[str] = "widths"
    widths: Tensor
    cost: Tensor
    steps: Tensor
    candidates: Tensor

    def __init__(
        self, num_features: int, age_bins: AgeBins, *, sigma: Positive = 2.0, every: Steps = 50
    ) -> None:
        super().__init__(num_features, age_bins)
        self._settings = {"sigma": sigma, "every": every}
        self.linear = nn.Linear(num_features, len(age_bins))
        self.register_buffer("widths", torch.full_like(self.ages, sigma))
        self.register_buffer("cost", torch.zeros(len(age_bins), len(_WIDTHS)))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("candidates", torch.tensor(_WIDTHS), persistent=False)

    def settings(self) -> dict[str, Any]:
        """Deviation at the start, steps between two searches."""
        return dict(self._settings)

    def raw(self, features: Tensor) -> Tensor:
        """Logits, then the deviations in years (B, 2K)."""
        logits: Tensor = self.linear(features)
        return torch.cat((logits.float(), self.widths.expand_as(logits)), dim=1)

    def logits(self, raw: Tensor) -> Tensor:
        """The logits (B, K)."""
        return raw[:, : len(self.age_bins)]

    def observe(self, raw: Tensor, ages: Tensor) -> None:
        """Add the divergences of a batch; after ``every`` batches take the best deviations."""
        learned = F.log_softmax(self.logits(raw), dim=1)
        ages = ages.clamp(self.age_bins.minimum, self.age_bins.maximum)
        error = (learned.exp() @ self.ages - ages).abs()
        well = error <= error.mean()
        learned, ages = learned[well], ages[well]
        tried = self.candidates.repeat(len(ages))
        target = gaussians(ages.repeat_interleave(len(self.candidates)), tried, self.ages)
        target = target.reshape(len(ages), len(self.candidates), -1)
        cost = (target * (target.clamp(min=1e-30).log() - learned[:, None])).sum(dim=2)
        self.cost.index_add_(0, age_index(ages, self.ages), cost)
        self.steps += 1
        if int(self.steps) >= self._settings["every"]:
            best = self.candidates[self.cost.argmin(dim=1)]
            self.widths.copy_(torch.where(self.cost.any(dim=1), best, self.widths))
            self.cost.zero_()
            self.steps.zero_()
