"""Probabilistic ordinal embeddings: a face is a Gaussian in feature space, and its samples are classified.

[1] Li et al., Learning probabilistic ordinal embeddings for uncertainty-aware regression, CVPR 2021 (POE).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from agelens.objectives.contract import AtLeastZero, age_index

__all__ = ["Samples", "divergences", "ordinal_triplets", "poe"]

Samples = Annotated[int, Field(ge=1)]
"""A number of samples."""


def divergences(means: Tensor, log_variances: Tensor) -> Tensor:
    """Symmetric KL divergence KL(i ‖ j) + KL(j ‖ i) of every two of B Gaussians with diagonal covariance.

    Args:
        means: (B, D).
        log_variances: (B, D).
    Returns:
        (B, B) in nats.
    """
    # Sums, not products of matrices, which mixed precision would round before they cancel.
    apart = means[:, None] - means
    ratios = log_variances[:, None] - log_variances
    precisions = (-log_variances).exp()
    squares = apart**2 * (precisions[:, None] + precisions)
    return (2 * (ratios.cosh() - 1) + squares).sum(dim=2) / 2


def ordinal_triplets(apart: Tensor, ages: Tensor, margin: float) -> Tensor:
    """Mean hinge max(0, d(l, m) - d(l, n) + margin) over triplets with abs(y_l - y_m) < abs(y_l - y_n) ([1]).

    The mean is over the triplets that violate the margin; 0 without one. All triplets of the batch are taken;
    the authors' code takes one for each image.

    Args:
        apart: (B, B) distances d.
        ages: (B,) labels.
        margin: In the unit of d.
    Returns:
        () loss.
    """
    years = (ages[:, None] - ages).abs()
    nearer = years[:, :, None] < years[:, None, :]
    nearer = nearer & ~torch.eye(len(ages), dtype=torch.bool, device=ages.device)[:, :, None]
    hinge = torch.relu(apart[:, :, None] - apart[:, None, :] + margin) * nearer
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)


def poe(
    scores: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    samples: Samples = 50,
    alpha: AtLeastZero = 1e-4,
    beta: AtLeastZero = 1e-4,
    margin: AtLeastZero = 5.0,
) -> Tensor:
    """Cross entropy of the samples + α · KL(N(μ, σ²) ‖ N(0, 1)) + β · ordinal triplets ([1], Sec. 3).

    Distances are symmetric KL divergences, as in the authors' training script.

    Args:
        scores: (B, 2D + S·K): the mean μ and ln σ² of the embedding, then the logits of S samples of it.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        samples: S.
        alpha: α.
        beta: β.
        margin: Of the triplets, nats.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    sampled = samples * len(bin_ages)
    if scores.ndim != 2 or len(scores) != len(ages) or scores.shape[1] < sampled + 2:
        raise ValueError(
            f"scores {tuple(scores.shape)} and ages {tuple(ages.shape)} must be (B, 2D + {sampled}), (B,)"
        )
    length = (scores.shape[1] - sampled) // 2
    means, log_variances = scores[:, :length], scores[:, length : 2 * length]
    labelled = age_index(ages, bin_ages)
    logits = scores[:, 2 * length :].reshape(-1, len(bin_ages))
    entropy = F.cross_entropy(logits, labelled.repeat_interleave(samples))
    to_standard = (means**2 + log_variances.exp() - log_variances - 1).sum(dim=1).mean() / 2
    triplets = ordinal_triplets(divergences(means, log_variances), bin_ages[labelled], margin)
    return entropy + alpha * to_standard + beta * triplets
