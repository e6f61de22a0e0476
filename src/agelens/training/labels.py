"""Labels of a batch: exact ages, apparent ages and bands, each with its loss.

An *exact* age and the mean of an *apparent* one are numbers; a number between two bins has its mass on both,
so that the label distribution has the same mean as the target of the regression. A *band* is a range of
completed ages: its likelihood is the sum over its bins, and the distance of an age inside it is 0. Whole
exact ages take the plain cross entropy of the bin.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.label_distribution import AgeBins
from agelens.losses import (
    age_cross_entropy,
    band_distance,
    band_likelihood,
    logit_curvature,
    refined_label_distribution,
)

__all__ = ["AgeLabels"]


class AgeLabels(NamedTuple):
    """The labels of B images, in years; rows of ``CropSet.labels`` as tensors."""

    ages: Tensor
    """(B,) exact or mean apparent age; NaN for a band."""
    deviations: Tensor
    """(B,) deviation of an apparent age; NaN without one."""
    low: Tensor
    """(B,) lower end of a band; the age otherwise."""
    high: Tensor
    """(B,) upper end of a band, itself included; the age otherwise."""
    known: Tensor | None = None
    """(B,) the ages on the CPU, where a look at them waits for no device; None: not given."""

    @classmethod
    def of(cls, targets: Tensor, known: Tensor | None = None) -> AgeLabels:
        """Name the columns of (B, 4) targets: age, deviation, low, high.

        Args:
            targets: The labels.
            known: The same on the CPU, if they are there (``Batch.known``).
        Raises:
            ValueError: Another shape.
        """
        if targets.ndim != 2 or targets.shape[1] != 4:
            raise ValueError(f"labels are (B, 4), not {tuple(targets.shape)}")
        ages, deviations, low, high = targets.unbind(1)
        return cls(ages, deviations, low, high, None if known is None else known[:, 0])

    @property
    def banded(self) -> Tensor:
        """(B,) whether the label is a band."""
        return self.ages.isnan()

    def bounds(self, bins: AgeBins) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the labels, (B,) each, clamped to the range of the bins."""
        return self.low.clamp(bins.minimum, bins.maximum), self.high.clamp(bins.minimum, bins.maximum)

    def distance(self, estimates: Tensor) -> Tensor:
        """Distance of estimates (B,) to the labels in years: the absolute error of an age, 0 in a band."""
        return band_distance(estimates, self.low, self.high)

    def whole_index(self, bins: AgeBins) -> Tensor | None:
        """(B,) int64 bin of every label; None if one is a band or lies between two bins."""
        ages = self.ages if self.known is None else self.known
        if bool((ages != ages.floor()).any()):  # NaN differs from NaN
            return None
        return _index(self.ages, bins)

    def distribution(self, bins: AgeBins, within: Tensor) -> Tensor:
        """Label distributions over the bins.

        Args:
            bins: K age bins.
            within: (B, K) distributions that say how the mass of a band lies inside it (the refinery's
                ancestor): conditioned on the band. A band without any mass there is uniform.
        Returns:
            (B, K): an age's mass lies on its bin, or on the two about it in proportion.
        """
        low, high = self.bounds(bins)
        first, last = _index(low, bins), _index(high, bins)
        k = torch.arange(len(bins), device=low.device)
        inside = (k >= first[:, None]) & (k <= last[:, None])
        mass = within.detach() * inside
        total = mass.sum(dim=1, keepdim=True)
        uniform = inside / inside.sum(dim=1, keepdim=True)
        conditioned = torch.where(total > 0, mass / total.clamp_min(torch.finfo(mass.dtype).tiny), uniform)
        upper = (low - low.floor())[:, None]
        split = F.one_hot(first, len(bins)) * (1 - upper)
        split = split + F.one_hot((first + 1).clamp(max=len(bins) - 1), len(bins)) * upper
        return torch.where(self.banded[:, None], conditioned, split)

    def likelihood_loss(self, logits: Tensor, bins: AgeBins, tau: float = 1.0) -> Tensor:
        """Mean negative log likelihood of the labels under softmax(z/τ).

        Args:
            logits: (B, K) z.
            bins: K age bins.
            tau: Temperature τ > 0.
        Returns:
            () nats: the cross entropy of the bin for whole ages, of both bins for an age between two, and
            -log of the band's mass for a band.
        """
        index = self.whole_index(bins)
        if index is not None:
            return age_cross_entropy(logits, index, tau)
        return self.likelihoods(logits, bins, tau).mean()

    def likelihoods(self, logits: Tensor, bins: AgeBins, tau: float = 1.0) -> Tensor:
        """(B,) negative log likelihood of each label, as :meth:`likelihood_loss` averages it."""
        low, high = self.bounds(bins)
        first, last = _index(low, bins), _index(high, bins)
        negative = -F.log_softmax(logits / tau, dim=1)
        upper = low - low.floor()
        at_lower = negative.gather(1, first[:, None])[:, 0]
        at_upper = negative.gather(1, (first + 1).clamp(max=len(bins) - 1)[:, None])[:, 0]
        exact = (1 - upper) * at_lower + upper * at_upper
        return torch.where(self.banded, band_likelihood(logits, first, last, tau), exact)

    def refined_loss(
        self, logits: Tensor, ancestor_logits: Tensor, bins: AgeBins, *, alpha: float, tau: float
    ) -> Tensor:
        """Label-distribution refinery (LRN Eq. 9) with labels of every kind.

        The hard part of a band is the ancestor's distribution conditioned on the band: what the label and the
        ancestor say together. For a band of one year that is the one-hot label.

        Args:
            logits: (B, K) z^t of the offspring.
            ancestor_logits: (B, K) z^{t-1} of the frozen ancestor.
            bins: K age bins.
            alpha: Weight of the ancestor, 0 ≤ α ≤ 1.
            tau: Temperature τ > 0, of both networks.
        Returns:
            () loss in nats.
        """
        label = self.whole_index(bins)
        if label is None:
            label = self.distribution(bins, F.softmax(ancestor_logits.detach() / tau, dim=1))
        return refined_label_distribution(logits, label, ancestor_logits, alpha=alpha, tau=tau)

    def curvature_loss(self, logits: Tensor) -> Tensor | None:
        """Mean curvature of the logits of the rows with a band, over the batch; None without such a row."""
        ages = self.ages if self.known is None else self.known
        if not bool(ages.isnan().any()):
            return None
        return (logit_curvature(logits) * self.banded).mean()


def _index(years: Tensor, bins: AgeBins) -> Tensor:
    """(B,) int64 bin of completed years, clamped to the range of the bins."""
    return (years.floor() - bins.minimum).clamp(0, len(bins) - 1).long()
