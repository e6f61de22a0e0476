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
    "band_distance",
    "band_likelihood",
    "expectation_error",
    "gaussian_labels",
    "hint_error",
    "l1_regression",
    "label_divergence",
    "logit_curvature",
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


def band_likelihood(logits: Tensor, low_index: Tensor, high_index: Tensor, tau: float = 1.0) -> Tensor:
    """Negative log likelihood of an age band under softmax(z/τ), of each sample.

    -log Σ_{k=low…high} softmax(z/τ)_k: the label says that the age is one of the band's bins, so its
    likelihood is their sum. A band of one bin is :func:`age_cross_entropy`, the band of all bins is 0. The
    gradient is that of the cross entropy to the network's own distribution conditioned on the band.
    Not averaged: a batch may hold labels of other kinds.

    Args:
        logits: (B, K) z.
        low_index: (B,) int64 first bin of the band.
        high_index: (B,) int64 last bin, itself included.
        tau: Temperature τ > 0.
    Returns:
        (B,) losses in nats, ≥ 0.
    Raises:
        ValueError: Shapes disagree, or τ is not positive.
    """
    _check_logits(logits, tau)
    if low_index.shape != logits.shape[:1] or high_index.shape != logits.shape[:1]:
        raise ValueError(
            f"bands {tuple(low_index.shape)} and {tuple(high_index.shape)} for logits {tuple(logits.shape)}"
        )
    k = torch.arange(logits.shape[1], device=logits.device)
    inside = (k >= low_index[:, None]) & (k <= high_index[:, None])
    scaled = logits / tau
    own = scaled.masked_fill(~inside, float("-inf"))
    return torch.logsumexp(scaled, dim=1) - torch.logsumexp(own, dim=1)


def band_distance(estimates: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Distance of estimates to bands, of each sample: max(0, low - s) + max(0, s - high).

    The ℓ1 error where the label is one age (low = high); 0, without a gradient, inside the band.

    Args:
        estimates: (B,) ages s, in any unit.
        low: (B,) lower ends, in the same unit.
        high: (B,) upper ends, ≥ low.
    Returns:
        (B,) distances.
    Raises:
        ValueError: Shapes disagree.
    """
    _check_regressed(estimates, low)
    _check_regressed(estimates, high)
    return torch.relu(low - estimates) + torch.relu(estimates - high)


def logit_curvature(logits: Tensor) -> Tensor:
    """Mean squared second difference of the logits over the age bins, of each sample.

    mean_k (z_{k+1} - 2 z_k + z_{k-1})². The likelihood of a band does not say how its mass lies inside: any
    shape is as good, spikes and steps at the ends included, and the expectation is then arbitrary by years.
    This term prefers the shape that bends least: 0 for z linear in the age (a geometric distribution), 1/σ⁴
    for a Gaussian of deviation σ, so wide and smooth distributions cost next to nothing. Bends are
    penalised everywhere, at the ends of the bands as well, where the steps would be.

    Args:
        logits: (B, K) z, K ≥ 3.
    Returns:
        (B,) curvatures, ≥ 0.
    Raises:
        ValueError: Wrong shape.
    """
    if logits.ndim != 2 or logits.shape[1] < 3:
        raise ValueError(f"logits must be (B, K) with K >= 3, not {tuple(logits.shape)}")
    return logits.diff(n=2, dim=1).square().mean(dim=1)


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
    logits: Tensor, label: Tensor, ancestor_logits: Tensor, *, alpha: float, tau: float
) -> Tensor:
    """Label-distribution refinery: the ancestor's distribution beside the label.

    Eq. 9 of [1]: α·CE(p^{t-1}, p^t) + (1 - α)·CE(onehot, p^t), both sides softmax(z/τ).

    Args:
        logits: (B, K) z^t of the offspring.
        label: (B,) int64 bin of the labelled age; or (B, K) label distributions where labels are not all
            whole ages.
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
    of_label = age_cross_entropy if label.ndim == 1 else soft_cross_entropy
    hard = of_label(logits, label, tau)
    return alpha * soft_cross_entropy(logits, target, tau) + (1.0 - alpha) * hard


def l1_regression(regressed: Tensor, ages: Tensor, upper: Tensor | None = None) -> Tensor:
    """Mean absolute error of the regressed normalised age.

    Eq. 11 of [1] prints ``s - y``; its text says ℓ1, and Eq. 9 of [2] averages over the batch.

    Args:
        regressed: (B,) normalised age s.
        ages: (B,) normalised ground truth y.
        upper: (B,) upper ends of labels that are bands, whose lower ends ``ages`` are: the error is then the
            distance to the band. None: ages.
    Returns:
        () loss, in units of the age range.
    Raises:
        ValueError: Shapes disagree.
    """
    return _regression_error(regressed, ages, upper).mean()


def slack_regression(
    regressed: Tensor, ages: Tensor, ancestor_regressed: Tensor, upper: Tensor | None = None
) -> Tensor:
    """Penalise the regressed age only where its error exceeds the ancestor's.

    Eqs. 12-15 of [1], averaged over the batch (the paper leaves the reduction open):
    mean max(0, |s^t - y| - |s^{t-1} - y|).

    Args:
        regressed: (B,) normalised age s^t.
        ages: (B,) normalised ground truth y.
        ancestor_regressed: (B,) normalised age s^{t-1} of the ancestor; detached here.
        upper: As in :func:`l1_regression`.
    Returns:
        () loss, in units of the age range.
    Raises:
        ValueError: Shapes disagree.
    """
    slack = _regression_error(ancestor_regressed.detach(), ages, upper)
    return torch.relu(_regression_error(regressed, ages, upper) - slack).mean()


def _regression_error(regressed: Tensor, ages: Tensor, upper: Tensor | None) -> Tensor:
    if upper is not None:
        return band_distance(regressed, ages, upper)
    _check_regressed(regressed, ages)
    return (regressed - ages).abs()


def gaussian_labels(ages: Tensor, bin_ages: Tensor, sigma: float | Tensor) -> Tensor:
    """Label distributions z: Gaussians about the labelled ages, normalised over the bins.

    Sec. 2.1 of [3], whose density is not normalised as printed; its KL divergence needs it to be.

    Args:
        ages: (B,) years, inside the range of the bins (clamp them).
        bin_ages: (K,) ages of the bins, years.
        sigma: Deviation, years, > 0; (B,) where each label has its own.
    Returns:
        (B, K) distributions, rows sum to 1.
    Raises:
        ValueError: Wrong shapes, or σ is not positive.
    """
    if ages.ndim != 1 or bin_ages.ndim != 1:
        raise ValueError(f"ages {tuple(ages.shape)} must be (B,) and bin_ages {tuple(bin_ages.shape)} (K,)")
    if isinstance(sigma, Tensor):
        if sigma.shape != ages.shape or not bool((sigma > 0).all()):
            raise ValueError(f"sigma {tuple(sigma.shape)} must be positive, one for each of {len(ages)} ages")
        sigma = sigma[:, None]
    elif not sigma > 0:
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
    """Mean squared error between the regressed output of a guided layer and a teacher's map.

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
