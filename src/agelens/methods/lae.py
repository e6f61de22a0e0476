"""Long-tailed age estimation (LAE): the representation stage, which is both of the paper's baselines.

A softmax over the ages learns Gaussian label distributions and their expectation. *Baseline-S* and the
*strong baseline* differ in what a recipe says: backbone, start, schedule, augmentation. The recipe
``lae-baseline-s`` offers the paper's tricks one by one (``tricks``), so Table 2's ladder is one sweep
(:mod:`agelens.experiments.ladder`). The classification stage is a finisher (:mod:`agelens.methods.balanced`):
it follows this stage or any other method's.

[1] Bao et al., LAE: long-tailed age estimation, CAIP 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from agelens.errors import RecipeError
from agelens.label_distribution import AgeBins
from agelens.losses import band_distance, gaussian_labels, label_divergence
from agelens.networks.age_network import AgeHead, AgeNetwork, Outputs
from agelens.networks.backbones import make_backbone
from agelens.training.labels import AgeLabels
from agelens.training.method import Method
from agelens.training.recipe import Recipe
from agelens.training.stage import Batch, Stage

__all__ = ["LongTailed", "LongTailedSettings", "Representation"]


class LongTailedSettings(BaseModel):
    """Settings of the representation stage; the defaults are the paper's.

    Attributes:
        sigma: Deviation of the label distributions, years (Sec. 2.1).
        lambda_er: Weight λ of the expectation's ℓ1 error (Eq. 3, Sec. 3.3).
        tau: Temperature of the softmax; the paper has none.
        voted: Give the label distribution of an apparent age its own deviation (``age_std``), where that is
            above ``sigma``.
        smoothness: Weight of the logits' curvature where labels are bands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sigma: float = Field(default=1.0, gt=0)
    lambda_er: float = Field(default=1.0, ge=0)
    tau: float = Field(default=1.0, gt=0)
    voted: bool = False
    smoothness: float = Field(default=1.0, ge=0)


@dataclass
class Representation(Stage):
    """The stage that learns the features.

    Attributes:
        recipe: Backbone, schedule, augmentation.
        settings: Of the method.
        age_bins: The K ages; labels beyond them are clamped.
        start: Weights to start from, or None.
    """

    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent", "band")
    recipe: Recipe
    settings: LongTailedSettings
    age_bins: AgeBins
    start: Mapping[str, Tensor] | None = None
    bin_ages: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.bin_ages = torch.as_tensor(self.age_bins.ages, dtype=torch.float32)

    @property
    def name(self) -> str:
        """``representation``."""
        return "representation"

    def to(self, device: torch.device) -> None:
        """Move the ages of the bins."""
        self.bin_ages = self.bin_ages.to(device)

    def network(self) -> AgeNetwork:
        """Backbone and FC layer."""
        backbone = make_backbone(self.recipe.network.backbone, pretrained=self.recipe.network.pretrained)
        network = AgeNetwork(
            backbone, AgeHead(backbone.num_features, self.age_bins, ("ldl",), self.settings.tau)
        )
        if self.start is not None:
            network.load_state_dict(dict(self.start))
        return network

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """L_fe = L_ld + λ·L_er (Eq. 3).

        Of a label that is a band, which the paper does not have, L_ld is -log of the band's mass and L_er
        the distance of the expectation to the band; the curvature of the logits keeps the distribution smooth
        inside it.

        Args:
            outputs: Of the network.
            batch: Targets (B, 4), labels.
        Returns:
            ``loss`` and its parts ``ld`` (nats) and ``er`` (years); ``curvature`` with bands.
        """
        assert outputs.logits is not None
        logits, labels, tau = outputs.logits, AgeLabels.of(batch.targets, batch.known), self.settings.tau
        low, high = labels.bounds(self.age_bins)
        curvature = labels.curvature_loss(logits)
        if curvature is None:
            divergence = label_divergence(logits, self._gaussians(labels, low), tau)
        else:
            target = self._gaussians(labels, low)
            of_ages = (torch.xlogy(target, target) - target * F.log_softmax(logits / tau, dim=1)).sum(dim=1)
            divergence = torch.where(
                labels.banded, labels.likelihoods(logits, self.age_bins, tau), of_ages
            ).mean()
        expected = F.softmax(logits / tau, dim=1) @ self.bin_ages
        error = band_distance(expected, low, high).mean()
        parts = {"ld": divergence, "er": error}
        total = divergence + self.settings.lambda_er * error
        if curvature is not None and self.settings.smoothness:
            parts["curvature"] = curvature
            total = total + self.settings.smoothness * curvature
        return {"loss": total, **parts}

    def _gaussians(self, labels: AgeLabels, ages: Tensor) -> Tensor:
        """(B, K) label distributions of Sec. 2.1; with ``voted``, of the deviation of an apparent age."""
        sigma: float | Tensor = self.settings.sigma
        if self.settings.voted:
            sigma = labels.deviations.nan_to_num(nan=self.settings.sigma).clamp_min(self.settings.sigma)
        return gaussian_labels(ages, self.bin_ages, sigma)


class LongTailed(Method):
    """The method: the representation stage; the recipe's ``finish`` adds the classification stage.

    Args:
        recipe: Its ``method.settings`` are :class:`LongTailedSettings`; its network has the one head ``ldl``.
        age_bins: The K ages, 0-100 in the paper.
        start: Weights to start from (identity pre-training), or None.
    Raises:
        RecipeError: An unknown setting, a value out of range, or other heads.
    """

    settings_type = LongTailedSettings
    settings: LongTailedSettings

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        if recipe.network.heads != ("ldl",):
            raise RecipeError(
                recipe.name, "network.heads", "LAE has the head 'ldl' only", list(recipe.network.heads)
            )
        super().__init__(recipe, age_bins, start)
        self._stages = [Representation(recipe, self.settings, age_bins, start)]

    def stages(self) -> Sequence[Representation]:
        """The one stage."""
        return self._stages
