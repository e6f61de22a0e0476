"""Training objectives: pure functions of tensors, each with its equation.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020 (LRN).
[2] Li et al., A coupled evolutionary network for age estimation, arXiv:1809.07447 (CEN).
[3] Bao et al., LAE: long-tailed age estimation, CAIP 2021.
[4] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
[5] Wang et al., Additive margin softmax for face verification, IEEE Signal Processing Letters 2018; the same
    loss as Wang et al., CosFace: large margin cosine loss for deep face recognition, CVPR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "additive_margin_softmax",
    "age_cross_entropy",
    "annealed",
    "expectation_error",
    "expected_age_error",
    "gaussian_labels",
    "hint_error",
    "l1_regression",
    "label_divergence",
    "refined_label_distribution",
    "slack_regression",
    "soft_cross_entropy",
    "squared_excess",
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


def gaussian_labels(ages: Tensor, bin_ages: Tensor, sigma: float) -> Tensor:
    """Label distributions z: Gaussians about the labelled ages, normalised over the bins.

    Sec. 2.1 of [3], whose density is not normalised as printed; its KL divergence needs it to be.

    Args:
        ages: (B,) years, inside the range of the bins (clamp them).
        bin_ages: (K,) ages of the bins, years.
        sigma: Deviation, years, > 0.
    Returns:
        (B, K) distributions, rows sum to 1.
    Raises:
        ValueError: Wrong shapes, or σ is not positive.
    """
    if ages.ndim != 1 or bin_ages.ndim != 1:
        raise ValueError(f"ages {tuple(ages.shape)} must be (B,) and bin_ages {tuple(bin_ages.shape)} (K,)")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}")
    return F.softmax(-((bin_ages - ages[:, None]) ** 2) / (2 * sigma**2), dim=1)


def label_divergence(logits: Tensor, target: Tensor, tau: float = 1.0) -> Tensor:
    """KL divergence of softmax(z/τ) from label distributions, averaged over the batch.

    Eq. 1 of [3], L_ld, which has τ = 1.

    Args:
        logits: (B, K) z.
        target: (B, K) label distributions, rows sum to 1, no gradient.
        tau: Temperature τ > 0.
    Returns:
        () loss in nats, ≥ 0.
    Raises:
        ValueError: Shapes disagree, or τ is not positive.
    """
    _check_logits(logits, tau)
    if target.shape != logits.shape:
        raise ValueError(f"target {tuple(target.shape)} for logits {tuple(logits.shape)}")
    return F.kl_div(F.log_softmax(logits / tau, dim=1), target, reduction="batchmean")


def expectation_error(logits: Tensor, ages: Tensor, bin_ages: Tensor, tau: float = 1.0) -> Tensor:
    """Absolute error of the expected age of each sample.

    Eq. 2 of [3], L_er, which has τ = 1; not averaged, since its Eq. 4 squares it per sample.

    Args:
        logits: (B, K) z.
        ages: (B,) labelled ages, years.
        bin_ages: (K,) ages of the bins, years.
        tau: Temperature τ > 0.
    Returns:
        (B,) errors in years.
    Raises:
        ValueError: Shapes disagree, or τ is not positive.
    """
    _check_logits(logits, tau)
    if ages.shape != logits.shape[:1] or bin_ages.shape != logits.shape[1:]:
        raise ValueError(
            f"ages {tuple(ages.shape)} and bin_ages {tuple(bin_ages.shape)} for logits {tuple(logits.shape)}"
        )
    return (F.softmax(logits / tau, dim=1) @ bin_ages - ages).abs()


def squared_excess(errors: Tensor, mae: float) -> Tensor:
    """Pull every sample's error towards one constant error.

    The second term of Eq. 4 of [3], (L_er - mae)², squared per sample, then averaged.

    Args:
        errors: (B,) absolute errors, years.
        mae: Mean absolute error of the representation stage on the validation split (Eq. 5), years.
    Returns:
        () loss, years².
    Raises:
        ValueError: ``errors`` is not (B,), or ``mae`` is negative.
    """
    if errors.ndim != 1:
        raise ValueError(f"errors must be (B,), not {tuple(errors.shape)}")
    if not mae >= 0:
        raise ValueError(f"mae must not be negative, got {mae}")
    return ((errors - mae) ** 2).mean()


def additive_margin_softmax(cosines: Tensor, classes: Tensor, scale: float, margin: float) -> Tensor:
    """AM-softmax: cross entropy of s·(cos θ - m) for the own class, s·cos θ for the others.

    Eq. 6 of [5] (Eq. 4 of CosFace), averaged over the batch.

    Args:
        cosines: (B, C) cosines between embeddings and class weights.
        classes: (B,) int64.
        scale: s > 0.
        margin: m, 0 ≤ m < 1.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree, or s or m is out of range.
    """
    if cosines.ndim != 2 or classes.shape != cosines.shape[:1]:
        raise ValueError(f"classes {tuple(classes.shape)} for cosines {tuple(cosines.shape)}")
    if not scale > 0 or not 0 <= margin < 1:
        raise ValueError(f"scale must be positive and margin in [0, 1), not {scale} and {margin}")
    own = F.one_hot(classes, cosines.shape[1]).to(cosines.dtype)
    return F.cross_entropy(scale * (cosines - margin * own), classes)


def _check_logits(logits: Tensor, tau: float) -> None:
    if logits.ndim != 2:
        raise ValueError(f"logits must be (B, K), not {tuple(logits.shape)}")
    if not tau > 0:
        raise ValueError(f"tau must be positive, not {tau}")


def _check_regressed(regressed: Tensor, ages: Tensor) -> None:
    if regressed.shape != ages.shape or regressed.ndim != 1:
        raise ValueError(f"regressed {tuple(regressed.shape)} and ages {tuple(ages.shape)} must be (B,)")


def hint_error(regressed: Tensor, hint: Tensor) -> Tensor:
    """Mean squared error between what a regressor makes of a guided layer and a teacher's map.

    Eq. 3 of [4]: |u(I) - r(v(I))|² / (h·w·c), averaged over the batch. Where the two differ in height and
    width, the regressed map is resized to the hint's.

    Args:
        regressed: (B, C, h', w') the regressor's output r(v(I)).
        hint: (B, C, h, w) the teacher's map u(I); detached here.
    Returns:
        () loss.
    Raises:
        ValueError: Batch or channels disagree.
    """
    if regressed.ndim != 4 or regressed.shape[:2] != hint.shape[:2]:
        raise ValueError(f"regressed {tuple(regressed.shape)} for hints {tuple(hint.shape)}")
    if regressed.shape != hint.shape:
        size = (hint.shape[2], hint.shape[3])
        regressed = F.interpolate(regressed, size, mode="bilinear", antialias=True, align_corners=False)
    return F.mse_loss(regressed, hint.detach())


def annealed(weight: float, fall: float, every: float, epoch: int) -> float:
    """A weight that falls by steps, never below 0.

    [4], Appendix B: λ₁ = 0.1 falls by 0.025, λ₂ = 2 by 0.5, every 6 epochs; both reach 0 at epoch 24 of 30.

    Args:
        weight: Its value in the first epoch, >= 0.
        fall: By how much it falls, >= 0.
        every: After how many epochs it falls; 0 = never. A shortened schedule may have a fraction.
        epoch: Counts from 0.
    Returns:
        The weight in this epoch.
    """
    if every <= 0:
        return weight
    return max(0.0, weight - fall * int((epoch + 1e-9) // every))


def expected_age_error(logits: Tensor, ages: Tensor, bin_ages: Tensor, tau: float = 1.0) -> Tensor:
    """Mean absolute error of the expected age: mean |Σ_k k softmax(z/τ)_k - y|, in years.

    Args:
        logits: (B, K) z.
        ages: (B,) y, years: labels, or a teacher's estimates.
        bin_ages: (K,) the bins' ages.
        tau: Temperature τ > 0.
    Returns:
        () loss in years.
    Raises:
        ValueError: Shapes disagree, or τ is not positive.
    """
    _check_logits(logits, tau)
    if ages.shape != logits.shape[:1]:
        raise ValueError(f"ages {tuple(ages.shape)} for logits {tuple(logits.shape)}")
    return (F.softmax(logits / tau, dim=1) @ bin_ages - ages).abs().mean()
