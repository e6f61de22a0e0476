"""Objectives of the ordinal heads: K - 1 questions "older than bin k?".

z_k is the logit of P(y > k), k = 0 … K - 2, y the index of the labelled bin.

[1] Niu et al., Ordinal regression with multiple output CNN for age estimation, CVPR 2016 (OR-CNN).
[2] Cao, Mirjalili and Raschka, Rank consistent ordinal regression for neural networks with application to age
    estimation, Pattern Recognition Letters 2020 (CORAL).
[3] Shi, Cao and Raschka, Deep neural networks for rank-consistent ordinal regression based on conditional
    probabilities, Pattern Analysis and Applications 2023 (CORN).
[4] Zhang et al., Quantifying facial age by posterior of age comparisons, BMVC 2017.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.losses import gaussian_labels, soft_cross_entropy
from agelens.objectives.contract import AtLeastZero, Positive, age_index, check_scores

__all__ = ["coral", "corn", "megaage_posterior", "or_cnn", "task_weights"]


def task_weights(counts: Tensor) -> Tensor:
    """Importance λ_k = √N_k / Σ √N_i of each task ([1], Eq. 3).

    N_k is the number of training images of bin k. A bin without an image gives its task no weight.

    Args:
        counts: (K,) training images of each bin.
    Returns:
        (K - 1,) weights that sum to 1.
    Raises:
        ValueError: There is no image.
    """
    if not counts.sum() > 0:
        raise ValueError("no training image in any age bin")
    roots = counts[:-1].to(torch.get_default_dtype()).sqrt()
    total = roots.sum()
    return roots / total if total > 0 else torch.full_like(roots, 1 / len(roots))


def or_cnn(
    scores: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    importance: Literal["one", "root"] = "one",
    counts: Tensor | None = None,
) -> Tensor:
    """Weighted cross entropy of K - 1 binary tasks: Σ_k λ_k BCE(σ(z_k), 1[y > k]) ([1], Eq. 2).

    Args:
        scores: (B, K - 1) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        importance: λ_k: ``one``, or ``root``: √N_k / Σ √N_i, see :func:`task_weights`.
        counts: (K,) training images of each bin; only ``root`` needs them.
    Returns:
        () loss in nats, averaged over the batch.
    Raises:
        ValueError: Shapes disagree, or ``root`` without counts.
    """
    check_scores(scores, ages, bin_ages, fewer=1)
    each = F.binary_cross_entropy_with_logits(scores, _older(ages, bin_ages, scores), reduction="none")
    if importance == "root":
        if counts is None:
            raise ValueError("importance 'root' needs the counts of the training images")
        each = each * task_weights(counts).to(each)
    return each.sum(dim=1).mean()


def coral(scores: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """Cross entropy of K - 1 binary tasks that share one weight vector: the head makes the difference ([2]).

    Args:
        scores: (B, K - 1) z.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in nats, summed over tasks, averaged over the batch.
    Raises:
        ValueError: Shapes disagree.
    """
    return or_cnn(scores, ages, bin_ages)


def corn(scores: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """Conditional tasks: task k learns 1[y > k] from the images with y > k - 1 only ([3], Eq. 6).

    Args:
        scores: (B, K - 1) logits of P(y > k given y > k - 1).
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in nats, averaged over all pairs of an image and a task it takes part in.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(scores, ages, bin_ages, fewer=1)
    tasks = torch.arange(scores.shape[1], device=scores.device)
    takes_part = (age_index(ages, bin_ages)[:, None] > tasks - 1).to(scores.dtype)
    each = F.binary_cross_entropy_with_logits(scores, _older(ages, bin_ages, scores), reduction="none")
    return (each * takes_part).sum() / takes_part.sum()


def megaage_posterior(
    scores: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    margin: AtLeastZero = 3.0,
    sigma: Positive = 2.0,
    weight: AtLeastZero = 1.0,
) -> Tensor:
    """Comparisons and the posterior made of them ([4]).

    Σ over abs(k - y) > margin of (b_k - 1[y > k])², plus the posterior's cross entropy to a Gaussian.
    Comparisons with references of nearly the same age are not learned: they are as good as undecided.

    Args:
        scores: (B, 2K - 1): the comparisons' logits (B, K - 1), b = σ(z), then the posterior's (B, K).
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        margin: Years.
        sigma: Deviation of the Gaussian that the posterior's cross entropy is taken to, years.
        weight: Of the comparisons.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    check_scores(scores, ages, bin_ages, fewer=1 - len(bin_ages))
    comparisons, posterior = scores[:, : len(bin_ages) - 1], scores[:, len(bin_ages) - 1 :]
    labelled = bin_ages[age_index(ages, bin_ages)]
    far = ((bin_ages[:-1] - labelled[:, None]).abs() > margin).to(scores.dtype)
    squared = (torch.sigmoid(comparisons) - _older(ages, bin_ages, scores)) ** 2
    target = gaussian_labels(ages.clamp(bin_ages[0], bin_ages[-1]), bin_ages, sigma)
    return weight * (far * squared).sum(dim=1).mean() + soft_cross_entropy(posterior, target)


def _older(ages: Tensor, bin_ages: Tensor, scores: Tensor) -> Tensor:
    """(B, K - 1) 1[y > k]."""
    tasks = torch.arange(len(bin_ages) - 1, device=ages.device)
    return (age_index(ages, bin_ages)[:, None] > tasks).to(scores.dtype)
