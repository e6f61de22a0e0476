"""C3AE's head: twelve bins of ten years, then an age that is linear in their probabilities.

[1] Zhang et al., C3AE: exploring the limits of compact model for age estimation, CVPR 2019.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from agelens.label_distribution import AgeBins
from agelens.networks.scoring_head import RawOutputs, RegressionHead

__all__ = ["CascadeHead"]

BINS = 12
"""Bins at 0, 10, …, 110 years."""


class CascadeHead(RegressionHead):
    """Features to 12 ten-year bins, and a linear layer from their softmax to years ([1], Sec. 3).

    The linear layer starts at the bins' own ages. The distribution is the regression head's, a Gaussian about
    the age: twelve bins are too coarse for intervals.
    """

    kind: ClassVar[str] = "cascade"
    rule: ClassVar[str] = "linear in softmax(12 ten-year bins), clipped to the bins"

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins)
        self.linear = nn.Linear(num_features, BINS)
        self.age = nn.Linear(BINS, 1)
        with torch.no_grad():
            self.age.weight.copy_(10 * torch.arange(BINS, dtype=torch.float32)[None])
            self.age.bias.zero_()

    def forward(self, features: Tensor) -> RawOutputs:
        """Regress the age of (B, C) features; the scores are years and the bins' logits, (B, 1 + 12)."""
        bins = self.linear(features).float()
        years: Tensor = self.age(torch.softmax(bins, dim=1)).float()
        span = self.age_bins.maximum - self.age_bins.minimum
        normalised = (years[:, 0] - self.age_bins.minimum) / span
        return RawOutputs(features, self.logits(years[:, 0]), normalised, torch.cat((years, bins), dim=1))

    def estimate(self, outputs: RawOutputs) -> Tensor:
        """The regressed age (B,)."""
        return outputs.raw[:, 0].float()
