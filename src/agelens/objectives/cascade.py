"""C3AE's loss: ten-year bins with two points a label, cascading into the age.

[1] Zhang et al., C3AE: exploring the limits of compact model for age estimation, CVPR 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.objectives.contract import AtLeastZero

__all__ = ["c3ae", "two_points"]

_STEP = 10.0


def two_points(ages: Tensor, bins: int) -> Tensor:
    """Represent ages by the two nearest bins, weighted so that their mean is the age ([1], Eq. 1).

    Args:
        ages: (B,) years, clamped to 0 … 10 (bins - 1).
        bins: Number of bins at 0, 10, 20, … years.
    Returns:
        (B, bins) distributions with at most two entries above 0.
    """
    at = torch.arange(bins, dtype=ages.dtype, device=ages.device) * _STEP
    return (1 - (ages.clamp(at[0], at[-1])[:, None] - at).abs() / _STEP).clamp(min=0)


def c3ae(scores: Tensor, ages: Tensor, bin_ages: Tensor, *, alpha: AtLeastZero = 10.0) -> Tensor:
    """Mean absolute error + α · KL divergence of the ten-year bins from the label's two points ([1], Eq. 6).

    Args:
        scores: (B, 1 + bins): the regressed age in years, then the logits of the ten-year bins.
        ages: (B,) labelled years, clamped to the age bins.
        bin_ages: (K,) ages of the age bins, years.
        alpha: α.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    if scores.ndim != 2 or scores.shape[1] < 3 or len(scores) != len(ages):
        raise ValueError(
            f"scores {tuple(scores.shape)} and ages {tuple(ages.shape)} must be (B, 1 + bins), (B,)"
        )
    years = ages.clamp(bin_ages[0], bin_ages[-1])
    target = two_points(years, scores.shape[1] - 1)
    divergence = F.kl_div(F.log_softmax(scores[:, 1:], dim=1), target, reduction="batchmean")
    return (scores[:, 0] - years).abs().mean() + alpha * divergence
