"""Training objectives: pure functions of tensors, each with its equation.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020 (LRN).
[2] Li et al., A coupled evolutionary network for age estimation, arXiv:1809.07447 (CEN).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "age_cross_entropy",
    "l1_regression",
    "refined_label_distribution",
    "slack_regression",
    "soft_cross_entropy",
]


def age_cross_entropy(logits: Tensor, age_index: Tensor, tau: float = 1.0) -> Tensor:
    """Cross entropy of the labelled age under softmax(z/τ), averaged over the batch.

    Eqs. 3-5 and 8 of [1]; CEN trains its ancestor with τ = 1 ([2], below its Eq. 3).

    Args:
        logits: (B, K) z.
        age_index: (B,) int64 bin of the labelled age.
        tau: Temperature τ > 0.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree, or τ is not positive.
    """
    _check_logits(logits, tau)
    if age_index.shape != logits.shape[:1]:
        raise ValueError(f"age_index {tuple(age_index.shape)} for logits {tuple(logits.shape)}")
    return F.cross_entropy(logits / tau, age_index)


def soft_cross_entropy(logits: Tensor, target: Tensor, tau: float = 1.0) -> Tensor:
    """Cross entropy of a target distribution under softmax(z/τ), averaged over the batch.

    Eq. 7 of [1]. [2] writes a KL divergence instead (its Eq. 5): it differs by the entropy of the
    target, which is constant in the network, so gradients agree.

    Args:
        logits: (B, K) z of the network in training.
        target: (B, K) distribution, rows sum to 1, no gradient.
        tau: Temperature τ > 0 of the network in training.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree, or τ is not positive.
    """
    _check_logits(logits, tau)
    if target.shape != logits.shape:
        raise ValueError(f"target {tuple(target.shape)} for logits {tuple(logits.shape)}")
    return -(target * F.log_softmax(logits / tau, dim=1)).sum(dim=1).mean()


def refined_label_distribution(
    logits: Tensor, age_index: Tensor, ancestor_logits: Tensor, *, alpha: float, tau: float
) -> Tensor:
    """Label-distribution refinery: the ancestor's distribution beside the label.

    Eq. 9 of [1]: α·CE(p^{t-1}, p^t) + (1 - α)·CE(onehot, p^t), both sides softmax(z/τ).

    Args:
        logits: (B, K) z^t of the offspring.
        age_index: (B,) int64 bin of the labelled age.
        ancestor_logits: (B, K) z^{t-1} of the frozen ancestor on the same view; detached here.
        alpha: Weight of the ancestor, 0 ≤ α ≤ 1; 0 is plain cross entropy.
        tau: Temperature τ > 0, of both networks.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree, or α or τ is out of range.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    target = F.softmax(ancestor_logits.detach() / tau, dim=1)
    hard = age_cross_entropy(logits, age_index, tau)
    return alpha * soft_cross_entropy(logits, target, tau) + (1.0 - alpha) * hard


def l1_regression(regressed: Tensor, ages: Tensor) -> Tensor:
    """Mean absolute error of the regressed normalised age.

    Eq. 11 of [1] prints ``s - y``; its text says ℓ1, and Eq. 9 of [2] averages over the batch.

    Args:
        regressed: (B,) normalised age s.
        ages: (B,) normalised ground truth y.
    Returns:
        () loss, in units of the age range.
    Raises:
        ValueError: Shapes disagree.
    """
    _check_regressed(regressed, ages)
    return (regressed - ages).abs().mean()


def slack_regression(regressed: Tensor, ages: Tensor, ancestor_regressed: Tensor) -> Tensor:
    """Penalise the regressed age only where its error exceeds the ancestor's.

    Eqs. 12-15 of [1], averaged over the batch (the paper leaves the reduction open):
    mean max(0, |s^t - y| - |s^{t-1} - y|).

    Args:
        regressed: (B,) normalised age s^t.
        ages: (B,) normalised ground truth y.
        ancestor_regressed: (B,) normalised age s^{t-1} of the ancestor; detached here.
    Returns:
        () loss, in units of the age range.
    Raises:
        ValueError: Shapes disagree.
    """
    _check_regressed(regressed, ages)
    _check_regressed(ancestor_regressed, ages)
    slack = (ancestor_regressed.detach() - ages).abs()
    return torch.relu((regressed - ages).abs() - slack).mean()


def _check_logits(logits: Tensor, tau: float) -> None:
    if logits.ndim != 2:
        raise ValueError(f"logits must be (B, K), not {tuple(logits.shape)}")
    if not tau > 0:
        raise ValueError(f"tau must be positive, not {tau}")


def _check_regressed(regressed: Tensor, ages: Tensor) -> None:
    if regressed.shape != ages.shape or regressed.ndim != 1:
        raise ValueError(f"regressed {tuple(regressed.shape)} and ages {tuple(ages.shape)} must be (B,)")
