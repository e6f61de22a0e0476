"""Soft stagewise regression: an age digit by digit, each digit soft, shifted and scaled by the face.

[1] Yang et al., SSR-Net: a compact soft stagewise regression network for age estimation, IJCAI 2018.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.scoring_head import RegressionHead
from agelens.networks.ssr_net import STAGE_BINS

__all__ = ["StagewiseHead"]

_STAGE = 2 * STAGE_BINS + 1


class StagewiseHead(RegressionHead):
    """V Σ_s Σ_i (i + η_i) p_i / Π_{j ≤ s} s_j (1 + Δ_j), Eqs. 3-6 of [1] with λ = 1; it has no weights.

    V is the number of age bins: the age is counted from the youngest. The distribution is the regression
    head's, a Gaussian about the age.

    Args:
        num_features: 21, those of :class:`agelens.networks.ssr_net.SSRNet`.
        age_bins: The K ages.
    Raises:
        InputError: Other features than three stages'.
    """

    kind: ClassVar[str] = "stagewise"
    rule: ClassVar[str] = "V Σ_s Σ_i (i + η_i) p_i / Π_(j ≤ s) s_j (1 + Δ_j), clipped to the bins"

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins)
        if num_features != 3 * _STAGE:
            raise InputError(
                f"the stagewise head reads the {3 * _STAGE} features of the backbone ssr-net, "
                f"not {num_features}"
            )
        del self.linear

    def years(self, features: Tensor) -> Tensor:
        """Ages (B,) of the stages' outputs (B, 21)."""
        features = features.float()
        index = self.ages[:STAGE_BINS] - self.ages[0]  # 0, 1, 2
        divisor = features.new_ones(())
        total = features.new_zeros(())
        for start in range(0, 3 * _STAGE, _STAGE):
            p = features[:, start : start + STAGE_BINS]
            shift = features[:, start + STAGE_BINS : start + 2 * STAGE_BINS]
            width = features[:, start + 2 * STAGE_BINS]
            divisor = divisor * STAGE_BINS * (1 + width)
            total = total + ((index + shift) * p).sum(dim=1) / divisor
        return total * len(self.age_bins) + self.age_bins.minimum
