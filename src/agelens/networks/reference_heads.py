"""Heads that compare a face with references, training images that they keep as features.

In training the references are the others of the batch; the stage hands over the kept ones before the network
is judged. They are buffers: part of the stored network, and constants of its graph.

[1] Shin, Lee and Kim, Moving window regression: a novel approach to ordinal regression, CVPR 2022 (MWR).
[2] Zhang et al., Quantifying facial age by posterior of age comparisons, BMVC 2017 (AP).
"""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.scoring_head import RawOutputs, RegressionHead, ScoringHead
from agelens.objectives.contract import Positive
from agelens.objectives.references import log_ages, older, pair_logits, window_ranks

__all__ = ["ComparingHead", "ReferenceHead", "WindowHead"]

References = Annotated[int, Field(ge=1, le=20)]
Width = Annotated[int, Field(ge=1)]

_NEIGHBOURS, _ROUNDS = 5, 10  # of [1]


class ReferenceHead(ScoringHead):
    """The base of both: references and what they share.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        references: Number R of references of each age.
        width: Units H of the hidden layer.
        parts: Number of vectors of H that the layer makes of a face.
    """

    reference_features: Tensor
    reference_ages: Tensor

    def __init__(
        self, num_features: int, age_bins: AgeBins, *, references: int, width: int, parts: int
    ) -> None:
        super().__init__(num_features, age_bins)
        self.references = references
        self.linear = nn.Linear(num_features, parts * width)
        self.last = nn.Parameter(0.1 * torch.randn(width) / sqrt(width))
        self.register_buffer("reference_features", torch.zeros(len(age_bins), references, num_features))
        self.register_buffer("reference_ages", torch.full((len(age_bins), references), torch.nan))

    def refer(self, features: Tensor, ages: Tensor) -> None:
        """Keep references.

        Args:
            features: (K · R, C), R for each bin, youngest first.
            ages: (K · R,) years; one age a bin.
        Raises:
            InputError: There are none, or not so many.
        """
        if len(features) != self.reference_ages.numel() or len(ages) != len(features):
            raise InputError(
                f"a head that compares needs {self.references} references for each of {len(self.age_bins)} "
                f"ages: {len(features)} features and {len(ages)} ages are given"
            )
        self.reference_features.copy_(features.reshape(self.reference_features.shape))
        self.reference_ages.copy_(ages.reshape(self.reference_ages.shape))

    def raw(self, features: Tensor) -> Tensor:
        """Parts of each face, and behind them the weights of the last layer: (B, (parts + 1) H)."""
        parts = self.linear(features).float()
        return torch.cat((parts, self.last.float().expand_as(parts[:, : len(self.last)])), dim=1)

    def forward(self, features: Tensor) -> RawOutputs:
        """Score (B, C) features: in training without a distribution, which needs the references.

        Raises:
            InputError: There are no references.
        """
        if self.training:
            return RawOutputs(features, None, None, self.raw(features))
        if not torch.compiler.is_exporting() and bool(self.reference_ages.isnan().any()):
            raise InputError("the reference set of the network is empty: it has not been trained")
        return super().forward(features)


class WindowHead(ReferenceHead, RegressionHead):
    """A window of ages moves until the face lies in its middle ([1], Sec. 3.3).

    The middle is one of the K ages, the references at its ends are those of the ages nearest to half a window
    below and above, at least one bin away. The face's place between them, the mean over the R pairs, gives
    the next middle; it begins at the mean age of the five nearest references and moves ten times. [1] stops
    as soon as nothing moves, which is the same, and has further networks for parts of the ages.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        references: Number R of references of each age.
        width: Units H of the hidden layer.
        window: Half the width of a window on the scale of ``log_ages``.
    """

    kind: ClassVar[str] = "window"
    rule: ClassVar[str] = "end of ten moves of a window between references, clipped to the bins"
    below: Tensor
    above: Tensor

    def __init__(
        self,
        num_features: int,
        age_bins: AgeBins,
        *,
        references: References = 5,
        width: Width = 64,
        window: Positive = 0.2,
    ) -> None:
        super().__init__(num_features, age_bins, references=references, width=width, parts=3)
        self._settings = {"references": references, "width": width, "window": window}
        places = log_ages(self.ages)
        numbers = torch.arange(len(age_bins))
        below, above = ((places[:, None] + end - places).abs().argmin(dim=1) for end in (-window, window))
        self.register_buffer("below", below.minimum(numbers - 1).clamp(min=0), persistent=False)
        above = above.maximum(numbers + 1).clamp(max=len(age_bins) - 1)
        self.register_buffer("above", above, persistent=False)

    def settings(self) -> dict[str, Any]:
        """References of each age, units, half a window."""
        return dict(self._settings)

    def moves(self, features: Tensor) -> Tensor:
        """Place of each face by each window (B, K), on the scale of ``log_ages``."""
        own = self.linear(features).float().chunk(3, dim=1)[0]
        _, lower, upper = self.linear(self.reference_features).float().chunk(3, dim=2)  # (K, R, H) each
        ends = lower[self.below] + upper[self.above]
        ranks = window_ranks(own[:, None, None], ends, torch.zeros_like(ends), self.last.float())
        places = log_ages(self.reference_ages)
        first, second = places[self.below], places[self.above]
        return ((first + second) / 2 + (second - first) / 2 * ranks).mean(dim=2)

    def nearest(self, features: Tensor) -> Tensor:
        """Mean age (B,) of the nearest references, years."""
        kept = self.reference_features.flatten(0, 1)
        features = features.float()
        squares = (features**2).sum(dim=1, keepdim=True) - 2 * features @ kept.T + (kept**2).sum(dim=1)
        places = squares.topk(min(_NEIGHBOURS, len(kept)), dim=1, largest=False).indices
        return self.reference_ages.flatten()[places].mean(dim=1)

    def years(self, features: Tensor) -> Tensor:
        """Ages (B,) of (B, C) features."""
        moves = torch.expm1(self.moves(features))
        middles = self._bins(moves)
        middle = self._bins(self.nearest(features))[:, None]
        for _ in range(_ROUNDS - 1):
            middle = middles.gather(1, middle)
        return moves.gather(1, middle)[:, 0]

    def _bins(self, years: Tensor) -> Tensor:
        """Number of the bin nearest to ages."""
        return (years - self.age_bins.minimum).round().clamp(0, len(self.age_bins) - 1).long()


class ComparingHead(ReferenceHead):
    """The posterior of comparisons with the references ([2]).

    With P_m that the face is older than reference m, whose age is a_m, and q the probability of the objective
    (``older``), the logarithm of the posterior at age k is Σ_m P_m ln q(k - a_m) + (1 - P_m) ln q(a_m - k),
    each age's references together as one comparison: linear in P, a connected layer before the softmax as in
    [2], whose weights follow from Bayes' rule instead of training.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        references: Number R of references of each age.
        width: Units H of the hidden layer.
        softness: s, years.
    """

    kind: ClassVar[str] = "comparing"

    def __init__(
        self,
        num_features: int,
        age_bins: AgeBins,
        *,
        references: References = 5,
        width: Width = 64,
        softness: Positive = 3.0,
    ) -> None:
        super().__init__(num_features, age_bins, references=references, width=width, parts=2)
        self._settings = {"references": references, "width": width, "softness": softness}

    def settings(self) -> dict[str, Any]:
        """References of each age, units, softness in years."""
        return dict(self._settings)

    def older(self, raw: Tensor) -> Tensor:
        """P (B, K · R) that faces are older than the references."""
        first, second, _ = raw.chunk(3, dim=1)
        ahead, behind = self.linear(self.reference_features.flatten(0, 1)).float().chunk(2, dim=1)
        return torch.sigmoid(pair_logits(first, second, ahead, behind, self.last.float()))

    def logits(self, raw: Tensor) -> Tensor:
        """Logarithm of the posterior (B, K), up to a constant."""
        apart = self.ages - self.reference_ages[:, :1]  # (K, K): the references of a bin have one age
        sure = older(apart, self._settings["softness"])
        for_older, for_younger = sure.log(), (1 - sure).log()
        each = self.older(raw).reshape(-1, len(self.age_bins), self.references).mean(dim=2)
        # P counts from ½, so that little is left to cancel.
        even = ((for_older + for_younger) / 2).sum(dim=0)
        evidence: Tensor = (each - 0.5) @ (for_older - for_younger) + even
        return evidence
