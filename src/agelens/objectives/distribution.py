"""Objectives of a head with a distribution over the age bins.

p = softmax(z), μ = Σ k p_k, σ² = Σ p_k (k - μ)², y the labelled age. All are averaged over the batch.

[1] Rothe et al., DEX: deep expectation of apparent age from a single image, ICCV Workshops 2015.
[2] Gao et al., Deep label distribution learning with label ambiguity, IEEE TIP 2017 (DLDL).
[3] Gao et al., Age estimation using expectation of label distribution learning, IJCAI 2018 (DLDL-v2).
[4] Diaz and Marathe, Soft labels for ordinal regression, CVPR 2019 (SORD).
[5] Pan et al., Mean-variance loss for deep age estimation from a face, CVPR 2018.
[6] Zhao et al., Adaptive mean-residue loss for robust facial age estimation, ICME 2022.
[7] Li et al., Unimodal-concentrated loss: fully adaptive label distribution learning for ordinal regression,
    CVPR 2022.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.losses import gaussian_labels, soft_cross_entropy
from agelens.objectives.contract import AtLeastZero, Positive, age_index, check_scores

__all__ = [
    "adaptive_mean_residue",
    "dex",
    "dldl",
    "dldl_v2",
    "mean_variance",
    "moments",
    "sord",
    "unimodal_concentrated",
]


def moments(logits: Tensor, bin_ages: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of softmax(z) over the bins.

    Args:
        logits: (B, K).
        bin_ages: (K,) years.
    Returns:
        (B,) years and (B,) years².
    """
    p = F.softmax(logits, dim=1)
    mean = p @ bin_ages
    return mean, (p * (bin_ages - mean[:, None]) ** 2).sum(dim=1)


def dex(logits: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """Cross entropy of the labelled bin; the estimate is the expected age ([1], Sec. 3.3).

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    return F.cross_entropy(logits, age_index(ages, bin_ages))


def dldl(logits: Tensor, ages: Tensor, bin_ages: Tensor, *, sigma: Positive = 2.0) -> Tensor:
    """Cross entropy of a Gaussian about the label ([2], whose KL divergence differs by a constant).

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        sigma: Deviation of the Gaussian, years.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    return soft_cross_entropy(logits, gaussian_labels(_clamped(ages, bin_ages), bin_ages, sigma))


def dldl_v2(
    logits: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    sigma: Positive = 2.0,
    lambda_er: AtLeastZero = 1.0,
    deviations: Tensor | None = None,
) -> Tensor:
    """KL divergence from a Gaussian about the label, and the expectation's absolute error ([3], Eqs. 5-8).

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        sigma: Deviation of the Gaussian where the label has none, years.
        lambda_er: Weight λ of abs(μ - y).
        deviations: (B,) deviation of each label, years; NaN: not known. None: none is known.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    years = _clamped(ages, bin_ages)
    widths = torch.full_like(years, sigma)
    if deviations is not None:
        if deviations.shape != ages.shape:
            raise ValueError(f"deviations {tuple(deviations.shape)} for ages {tuple(ages.shape)}")
        widths = torch.where(deviations > 0, deviations.to(widths.dtype), widths)  # a NaN is not larger
    target = F.softmax(-((bin_ages - years[:, None]) ** 2) / (2 * widths[:, None] ** 2), dim=1)
    divergence = F.kl_div(F.log_softmax(logits, dim=1), target, reduction="batchmean")
    mean, _ = moments(logits, bin_ages)
    return divergence + lambda_er * (mean - years).abs().mean()


def sord(
    logits: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    distance: Literal["absolute", "squared"] = "squared",
    scale: Positive = 1.0,
) -> Tensor:
    """Cross entropy of a target ∝ exp(-scale · φ(k, y)) ([4], Eqs. 1 and 2).

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        distance: φ: ``absolute`` abs(k - y), or ``squared`` (k - y)².
        scale: Of the distance.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    apart = (bin_ages - _clamped(ages, bin_ages)[:, None]).abs()
    target = F.softmax(-scale * (apart if distance == "absolute" else apart**2), dim=1)
    return soft_cross_entropy(logits, target)


def mean_variance(
    logits: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    lambda_mean: AtLeastZero = 0.2,
    lambda_variance: AtLeastZero = 0.05,
) -> Tensor:
    """Cross entropy + λ₁·½(μ - y)² + λ₂·σ² ([5], Eq. 8).

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        lambda_mean: λ₁.
        lambda_variance: λ₂.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    mean, variance = moments(logits, bin_ages)
    squared = ((mean - _clamped(ages, bin_ages)) ** 2).mean() / 2
    return dex(logits, ages, bin_ages) + lambda_mean * squared + lambda_variance * variance.mean()


def adaptive_mean_residue(
    logits: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    lambda_mean: AtLeastZero = 0.2,
    lambda_residue: AtLeastZero = 0.05,
    epsilon: Positive = 1e-3,
) -> Tensor:
    """Cross entropy + λ₁·½(μ - y)² - λ₂ Σ over p_k < p_y of (p_k + ε) ln(p_k + ε) ([6]).

    The residue is the entropy of the bins less likely than the labelled one; which they are adapts to each
    image and has no gradient.

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        lambda_mean: λ₁.
        lambda_residue: λ₂.
        epsilon: ε.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    p = F.softmax(logits, dim=1)
    labelled = p.gather(1, age_index(ages, bin_ages)[:, None])
    shifted = p + epsilon
    residue = -(torch.where(p < labelled, shifted * shifted.log(), torch.zeros_like(p))).sum(dim=1).mean()
    squared = ((p @ bin_ages - _clamped(ages, bin_ages)) ** 2).mean() / 2
    return dex(logits, ages, bin_ages) + lambda_mean * squared + lambda_residue * residue


def unimodal_concentrated(
    logits: Tensor, ages: Tensor, bin_ages: Tensor, *, weight: AtLeastZero = 10.0, epsilon: Positive = 1e-3
) -> Tensor:
    """½ ln σ² + (μ - y)² / 2σ² + weight · Σ_k ReLU(sign(k - y)(p_{k+1} - p_k)) ([7]).

    The first terms are the likelihood of a Gaussian whose deviation is the distribution's own; the last one
    wants p to rise up to the labelled bin and to fall behind it. The weight is 1000 in the paper, whose
    authors' code is not public: read here as that of the mean over the bins, 10 of the sum over a hundred.
    With 1000 of the sum a mode beside the label costs so much that p becomes flat.

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        weight: Of the unimodal term.
        epsilon: Added to σ², years²: the paper's terms have no value at σ = 0.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(logits, ages, bin_ages)
    p = F.softmax(logits, dim=1)
    mean, variance = moments(logits, bin_ages)
    variance = variance + epsilon
    years = _clamped(ages, bin_ages)
    likelihood = 0.5 * variance.log() + (mean - years) ** 2 / (2 * variance)
    labelled = bin_ages[age_index(ages, bin_ages)]
    sign = torch.sign(bin_ages[:-1] - labelled[:, None])
    rising = torch.relu(sign * (p[:, 1:] - p[:, :-1])).sum(dim=1)
    return (likelihood + weight * rising).mean()


def _clamped(ages: Tensor, bin_ages: Tensor) -> Tensor:
    return ages.clamp(bin_ages[0], bin_ages[-1])
