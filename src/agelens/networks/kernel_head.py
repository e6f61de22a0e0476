"""A regressor of kernels: the weighted sum of Gaussian kernels about images that it keeps."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from agelens.label_distribution import AgeBins
from agelens.networks.scoring_head import RegressionHead

__all__ = ["MOST_CENTRES", "Centres", "KernelHead", "gaussian_kernel"]

MOST_CENTRES = 4096
"""Largest number of images that a regressor of kernels keeps."""

Centres = Annotated[int, Field(ge=1, le=MOST_CENTRES)]


def gaussian_kernel(points: Tensor, centres: Tensor, gamma: Tensor | float) -> Tensor:
    """exp(-γ ‖z - c‖²) of every point and centre.

    Args:
        points: (B, D) z.
        centres: (M, D) c.
        gamma: γ, > 0.
    Returns:
        (B, M).
    """
    squares = (points**2).sum(dim=1, keepdim=True) - 2 * points @ centres.T + (centres**2).sum(dim=1)
    return torch.exp(-gamma * squares.clamp(min=0))


class KernelHead(RegressionHead):
    """y = Σ_m α_m exp(-γ ‖P x - c_m‖²) + b: P projects the features, the centres c are training images.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages.
        components: Length of P x.
        centres: Number M of centres.
    """

    kind: ClassVar[str] = "kernel"
    rule: ClassVar[str] = "Σ α_m exp(-γ ‖P x - c_m‖²) + b, clipped to the bins"
    gamma: Tensor

    def __init__(
        self,
        num_features: int,
        age_bins: AgeBins,
        *,
        components: Annotated[int, Field(ge=1)] = 256,
        centres: Centres = 1000,
    ) -> None:
        super().__init__(num_features, age_bins)
        self._settings = {"components": components, "centres": centres}
        self.projection = nn.Linear(num_features, components)
        self.centres = nn.Parameter(torch.randn(centres, components))
        self.linear = nn.Linear(centres, 1)
        self.register_buffer("gamma", torch.tensor(1.0 / (2 * components)))

    def settings(self) -> dict[str, Any]:
        """Length of the projected features, number of centres."""
        return dict(self._settings)

    def years(self, features: Tensor) -> Tensor:
        """Ages (B,) of (B, C) features, unclipped."""
        kernels = gaussian_kernel(self.projection(features).float(), self.centres, self.gamma)
        return super().years(kernels)
