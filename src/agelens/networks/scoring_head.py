"""The base of heads that score in their own way, and the regression head.

The outputs of every head hold the logits of a distribution over the age bins, whatever it computes: of the
regression head a Gaussian about the age. Temperature, conformal intervals and P(age ≥ T) are then the same
for all of them, and one graph is exported.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from agelens.label_distribution import AgeBins
from agelens.networks.age_network import Decoded, Head, HeadName, Outputs

__all__ = ["RawOutputs", "RegressionHead", "ScoringHead"]


class RawOutputs(NamedTuple):
    """Outputs of a network for a batch, with the scores that an objective trains on; see ``Outputs``."""

    features: Tensor
    """(B, C) pooled features."""
    logits: Tensor | None
    """(B, K) logits of the distribution that the scores amount to."""
    regressed: Tensor | None
    """(B,) regressed age, normalised by the bins to 0 … 1; None of other heads."""
    raw: Tensor
    """(B, …) scores."""


class ScoringHead(Head):
    """A head that scores in its own way: a subclass implements ``raw`` and ``logits``.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages of the distribution.
    """

    kind: ClassVar[str] = ""
    """Its key of ``HEADS``; empty of a class of another package."""
    rule: ClassVar[str] = "expected age of softmax(logits)"
    """The decoding of the estimate in words."""

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins, 1.0)

    learns: ClassVar[tuple[HeadName, ...]] = ("ldl",)
    """``heads`` of every instance: what a recipe's ``network.heads`` must say."""

    @property
    def heads(self) -> tuple[HeadName, ...]:
        """Estimates that it learns."""
        return self.learns

    def settings(self) -> dict[str, Any]:
        """Keywords that build the head again."""
        return {}

    def raw(self, features: Tensor) -> Tensor:
        """Scores (B, …) of features (B, C)."""
        raise NotImplementedError

    def logits(self, raw: Tensor) -> Tensor:
        """Logits (B, K) of the distribution that scores (B, …) amount to."""
        raise NotImplementedError

    def estimate(self, outputs: RawOutputs) -> Tensor:
        """Estimated ages (B,) in years; default: the expectation."""
        assert outputs.logits is not None
        return torch.softmax(outputs.logits.float(), dim=1) @ self.ages

    def observe(self, raw: Tensor, ages: Tensor) -> None:
        """See a training batch after its step, to change what the head keeps (buffers); default: nothing.

        Args:
            raw: (B, …) scores that it was trained on, without a gradient.
            ages: (B,) labelled years.
        """

    def forward(self, features: Tensor) -> RawOutputs:
        """Score (B, C) features, in float32 behind the linear layers."""
        raw = self.raw(features).float()
        return RawOutputs(features, self.logits(raw), None, raw)

    def decode(self, outputs: Outputs | RawOutputs, temperature: float | None = None) -> Decoded:
        """See :meth:`agelens.networks.age_network.Head.decode`."""
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        assert isinstance(outputs, RawOutputs)
        assert outputs.logits is not None
        age = self.estimate(outputs).clamp(self.age_bins.minimum, self.age_bins.maximum)
        distribution = torch.softmax(outputs.logits.float() / (temperature or self.tau), dim=1)
        expected = torch.softmax(outputs.logits.float() / self.tau, dim=1) @ self.ages
        return Decoded(expected, None, age, distribution)

    def decoding(self, temperature: float | None, paired: bool = False) -> dict[str, str]:
        """The decoding in words, for the model card."""
        return {
            "head": self.kind,
            "age": self.rule,
            "distribution": f"softmax(logits / {self.tau if temperature is None else temperature:g})",
        }


class RegressionHead(ScoringHead):
    """A linear layer to the age, normalised by the bins; the scores are years.

    The distribution is a Gaussian of 5 years about the age, whose width calibration fits by its temperature:
    the deviation is 5·√temperature.
    """

    kind: ClassVar[str] = "reg"
    learns: ClassVar[tuple[HeadName, ...]] = ("reg",)
    rule: ClassVar[str] = "regressed * (maximum - minimum) + minimum, clipped to the bins"
    deviation: ClassVar[float] = 5.0

    def __init__(self, num_features: int, age_bins: AgeBins) -> None:
        super().__init__(num_features, age_bins)
        self.linear = nn.Linear(num_features, 1)

    def logits(self, raw: Tensor) -> Tensor:
        """Gaussian logits (B, K) about the ages (B,), years; of an age beyond the bins its tail is left."""
        return -((self.ages - raw[:, None]) ** 2) / (2 * self.deviation**2)

    def forward(self, features: Tensor) -> RawOutputs:
        """Regress the age of (B, C) features; years, unclipped, are what is trained."""
        years = self.years(features)
        normalised = (years - self.age_bins.minimum) / (self.age_bins.maximum - self.age_bins.minimum)
        return RawOutputs(features, self.logits(years), normalised, years)

    def years(self, features: Tensor) -> Tensor:
        """Ages (B,) of (B, C) features, unclipped."""
        regressed: Tensor = self.linear(features).squeeze(1).float()
        return regressed * (self.age_bins.maximum - self.age_bins.minimum) + self.age_bins.minimum

    def estimate(self, outputs: RawOutputs) -> Tensor:
        """The regressed age (B,)."""
        return outputs.raw.float()

    def decode(self, outputs: Outputs | RawOutputs, temperature: float | None = None) -> Decoded:
        """As every head; the estimate is ``reg``, not ``ldl``."""
        decoded = super().decode(outputs, temperature)
        return decoded._replace(ldl=None, reg=self.estimate(outputs))  # type: ignore[arg-type]
