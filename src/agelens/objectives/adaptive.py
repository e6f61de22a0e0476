"""Label distributions and margins that adapt: by the age (ALDL, PML) or by the image (AVDL).

N(y, σ²) is the Gaussian about the label over the age bins, normalised.

[1] Geng, Wang and Xia, Facial age estimation by adaptive label distribution learning, ICPR 2014 (ALDL).
[2] Wen et al., Adaptive variance based label distribution learning for facial age estimation, ECCV 2020
    (AVDL).
[3] Deng et al., PML: progressive margin loss for long-tailed age classification, CVPR 2021.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.objectives.contract import AtLeastZero, Positive, age_index, check_scores

__all__ = ["aldl", "avdl", "gaussians", "margins_of", "meta_deviations", "pml"]

_LEAST_DEVIATION = 0.25  # years


def gaussians(ages: Tensor, deviations: Tensor, bin_ages: Tensor) -> Tensor:
    """N(y, σ²) of each image.

    Args:
        ages: (B,) years, clamped to the bins.
        deviations: (B,) σ, years.
        bin_ages: (K,) years.
    Returns:
        (B, K) distributions.
    """
    years = ages.clamp(bin_ages[0], bin_ages[-1])[:, None]
    return F.softmax(-((bin_ages - years) ** 2) / (2 * deviations[:, None] ** 2), dim=1)


def aldl(scores: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """KL divergence from N(y, σ_y²), a deviation for each age ([1]); the head finds the deviations in turns.

    Args:
        scores: (B, 2K): logits, then the deviation of each age in years.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(scores, ages, bin_ages, fewer=-len(bin_ages))
    logits, of_ages = scores.chunk(2, dim=1)
    widths = of_ages.gather(1, age_index(ages, bin_ages)[:, None])[:, 0]
    return _divergence(logits, gaussians(ages, widths, bin_ages))


def avdl(
    logits: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    sigma: Positive = 2.0,
    step: Positive = 0.01,
    change: AtLeastZero = 1.0,
    features: Tensor | None = None,
) -> Tensor:
    """KL divergence from N(y, σ_i²), a deviation for each image by one meta-gradient step ([2]).

    Args:
        logits: (B, K) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        sigma: Deviation before the step, years.
        step: Rate of the trial step, see :func:`meta_deviations`.
        change: Largest change of a deviation, years.
        features: (B, C) what the logits are linear in.
    Returns:
        () loss in nats.
    Raises:
        ValueError: Shapes disagree, or there are no features.
    """
    check_scores(logits, ages, bin_ages)
    if features is None or len(features) != len(ages):
        raise ValueError("avdl needs the features of the images: they must be (B, C)")
    widths = meta_deviations(logits, features, ages, bin_ages, sigma=sigma, step=step, change=change)
    return _divergence(logits, gaussians(ages, widths, bin_ages))


def meta_deviations(
    logits: Tensor,
    features: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    sigma: float,
    step: float,
    change: float,
) -> Tensor:
    """Change the deviation of each image so that learning from it helps the others ([2], Sec. 3).

    Trial step: the last layer W moves against the gradient of the mean KL divergence. Meta loss: mean
    absolute error of the expected ages after it. Each σ_i moves against the gradient of the meta loss; the
    largest gradient of the batch moves its own by ``change`` years.

    [2] takes a trial step of the whole network and a second set of images, which costs a backward pass
    through a backward pass. The economical reading here steps the last layer alone, whose step is a product
    of matrices: z_j' = z_j - step/B · Σ_i (f_i · f_j + 1)(p_i - N(y_i, σ_i²)); and every image is judged by
    the step that the *other* images of its batch make (i ≠ j).

    Args:
        logits: (B, K) z = W f + b.
        features: (B, C) f.
        ages: (B,) labelled years.
        bin_ages: (K,) years.
        sigma: Deviations before, years.
        step: Rate of the trial step.
        change: Years.
    Returns:
        (B,) deviations in years without a gradient, at least 0.25.
    """
    z, f = logits.detach(), features.detach().to(logits.dtype)
    with torch.enable_grad():
        deviations = torch.full_like(ages, sigma, dtype=z.dtype, requires_grad=True)
        apart = F.softmax(z, dim=1) - gaussians(ages, deviations, bin_ages)
        likeness = (f @ f.T + 1).fill_diagonal_(0)
        moved = z - step / len(z) * (likeness @ apart)
        years = ages.clamp(bin_ages[0], bin_ages[-1])
        meta = (F.softmax(moved, dim=1) @ bin_ages - years).abs().mean()
        (gradient,) = torch.autograd.grad(meta, deviations)
    largest = gradient.abs().max()
    share = torch.where(largest > 0, gradient / largest, torch.zeros_like(gradient))
    return (deviations.detach() - change * share).clamp(min=_LEAST_DEVIATION)


def margins_of(
    centres: Tensor, deviations: Tensor, bin_ages: Tensor, scale: float, added: Tensor | float = 0.0
) -> Tensor:
    """Margin of each age bin: a Gaussian's density and what is added, brought to mean 0 and a deviation.

    Args:
        centres: (B,) years.
        deviations: (B,) years.
        bin_ages: (K,) years.
        scale: Deviation of the margins over the bins.
        added: (B, K) weighted variational margins.
    Returns:
        (B, K), subtracted from the logits.
    """
    width = deviations[:, None]
    density = torch.exp(-((bin_ages - centres[:, None]) ** 2) / (2 * width**2)) / (width * sqrt(2 * pi))
    whole = density + added
    spread = whole.std(dim=1, keepdim=True).clamp(min=1e-8)
    return scale * (whole - whole.mean(dim=1, keepdim=True)) / spread


def pml(
    scores: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    sigma: Positive = 2.0,
    scale: AtLeastZero = 0.01,
    lambda_er: AtLeastZero = 1.0,
    variational: AtLeastZero = 0.1,
) -> Tensor:
    """KL divergence of softmax(z - m_y) from N(y, σ²), and the absolute error of its expectation ([3]).

    m_y is the ordinal margin of the labelled age, the larger the nearer a bin is to a learned centre, and
    ``variational`` times the variational margin, which the head makes of what the last step changed in the
    statistics of the ages' features. [3] makes centre and deviation of an age by a network from the running
    means of the features; here they are learned for each age.

    Args:
        scores: (B, 4K + C): logits z, the margin's centre of each age in years, ln of its deviation, the
            variational margin of each age, and features, which the head keeps to itself.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        sigma: Deviation of the label's Gaussian, years.
        scale: Of the margins, see :func:`margins_of`; the authors' code has 0.01.
        lambda_er: Weight of the absolute error.
        variational: Weight of the variational margin; the authors' code has 0.1.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    parts = 4 * len(bin_ages)
    if scores.ndim != 2 or len(scores) != len(ages) or scores.shape[1] < parts:
        raise ValueError(
            f"scores {tuple(scores.shape)}, ages {tuple(ages.shape)} must be (B, {parts} + C), (B,)"
        )
    logits, centres, widths, of_ages = scores[:, :parts].chunk(4, dim=1)
    labelled = age_index(ages, bin_ages)[:, None]
    own = margins_of(
        centres.gather(1, labelled)[:, 0],
        widths.gather(1, labelled)[:, 0].exp(),
        bin_ages,
        scale,
        variational * of_ages,
    )
    held = logits - own
    target = gaussians(ages, torch.full_like(ages, sigma), bin_ages)
    years = ages.clamp(bin_ages[0], bin_ages[-1])
    error = (F.softmax(held, dim=1) @ bin_ages - years).abs().mean()
    return _divergence(held, target) + lambda_er * error


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(logits, dim=1), target, reduction="batchmean")
