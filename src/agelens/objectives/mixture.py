"""Objectives of heads that weigh the answers of many parts: regression forests and bridged regressors.

[1] Shen et al., Deep regression forests for age estimation, CVPR 2018 (DRF).
[2] Li et al., BridgeNet: a continuity-aware probabilistic network for age estimation, CVPR 2019.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.objectives.contract import AtLeastZero

__all__ = ["bridgenet", "drf", "joint_log_densities", "memberships"]


def joint_log_densities(scores: Tensor, ages: Tensor) -> Tensor:
    """Ln P(l | x) + ln N(y; μ_l, σ_l²) of every leaf.

    Args:
        scores: (B, T, 3, L): of each tree ln P(l | x), μ_l in years, ln σ_l².
        ages: (B,) years.
    Returns:
        (B, T, L).
    """
    log_paths, means, log_variances = scores.unbind(dim=2)
    squares = (ages[:, None, None] - means) ** 2 * (-log_variances).exp()
    return log_paths - (squares + log_variances + log(2 * pi)) / 2


def drf(scores: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """Mean over trees of -ln Σ_l P(l | x) N(y; μ_l, σ_l²) ([1], Sec. 3); the head finds the leaves.

    Args:
        scores: (B, T, 3, L) of T trees of L leaves, see :func:`joint_log_densities`.
        ages: (B,) labelled years, clamped to the bins.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree.
    """
    if scores.ndim != 4 or scores.shape[2] != 3 or len(scores) != len(ages):
        raise ValueError(
            f"scores {tuple(scores.shape)} and ages {tuple(ages.shape)} must be (B, T, 3, L), (B,)"
        )
    years = ages.clamp(bin_ages[0], bin_ages[-1])
    return -torch.logsumexp(joint_log_densities(scores, years), dim=2).mean()


def memberships(ages: Tensor, bin_ages: Tensor, parts: int) -> Tensor:
    """Membership of an age in each of M overlapping ranges: 1 at the centre, 0 at the next centres.

    Args:
        ages: (B,) years, clamped to the bins.
        bin_ages: (K,) years; the centres lie evenly from the first to the last.
        parts: M.
    Returns:
        (B, M) distributions with at most two entries above 0.
    """
    places = torch.arange(parts, dtype=ages.dtype, device=ages.device)
    years = ages.clamp(bin_ages[0], bin_ages[-1])
    at = (years - bin_ages[0]) / (bin_ages[-1] - bin_ages[0]) * (parts - 1)
    return (1 - (at[:, None] - places).abs()).clamp(min=0)


def bridgenet(scores: Tensor, ages: Tensor, bin_ages: Tensor, *, gate: AtLeastZero = 1.0) -> Tensor:
    """Σ_i π_i(y)·abs(r_i - y) + gate · KL(π(y) ‖ g): local regressors, and the gates that weigh them ([2]).

    π(y) are :func:`memberships`: a regressor learns the ages between its neighbours' centres, so that two
    learn each age, and the gates learn which.

    Args:
        scores: (B, 2M): ln g of the M gates, then the local ages r in years.
        ages: (B,) labelled years, clamped to the bins.
        bin_ages: (K,) ages of the bins, years.
        gate: Weight of the gates' divergence.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    if scores.ndim != 2 or scores.shape[1] < 4 or scores.shape[1] % 2 or len(scores) != len(ages):
        raise ValueError(f"scores {tuple(scores.shape)} and ages {tuple(ages.shape)} must be (B, 2M), (B,)")
    log_gates, local = scores.chunk(2, dim=1)
    target = memberships(ages, bin_ages, local.shape[1])
    years = ages.clamp(bin_ages[0], bin_ages[-1])
    error = (target * (local - years[:, None]).abs()).sum(dim=1).mean()
    return error + gate * F.kl_div(log_gates, target, reduction="batchmean")
