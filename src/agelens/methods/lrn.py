"""Label refinery network (LRN) and coupled evolutionary network (CEN): two presets of one method.

A network trained on labels alone, the *ancestor*, teaches an *offspring* of the same architecture. The
offspring learns the ancestor's age distribution, and gets the error of the ancestor's regression as *slack*:
an error within the slack costs nothing. The finished offspring is the ancestor of the next generation. Every
generation starts again from the same pre-trained weights (random ones if there are none), not from its
ancestor's ([1], Algorithm 1, step 1). Only the last generation predicts.

The presets are the recipes ``lrn`` and ``cen``, which differ in the temperature τ: CEN trains the first
generation at τ = 1 and later ones at τ > 1 ([2], below Eq. 3 and Eq. 5); LRN uses one τ throughout:

- a network *estimates* at the τ it was trained with (its head keeps it);
- the ancestor's *target* is softmax(z/τ) at the offspring's τ.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020 (LRN).
[2] Li et al., A coupled evolutionary network for age estimation, arXiv:1809.07447 (CEN).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from agelens.label_distribution import AgeBins
from agelens.losses import l1_regression, slack_regression
from agelens.networks.age_network import AgeHead, AgeNetwork, Outputs
from agelens.networks.backbones import make_backbone
from agelens.training.labels import AgeLabels
from agelens.training.method import Method
from agelens.training.recipe import Recipe
from agelens.training.stage import Batch, Stage

__all__ = ["Generation", "LabelRefinery", "RefinerySettings"]


class RefinerySettings(BaseModel):
    """Settings of the refinery; the defaults are the papers' (LRN Sec. 4.3.2).

    Attributes:
        generations: T. 1 is the ancestor alone, the control without refinement.
        tau: Temperature τ.
        ancestor_tau: τ of generation 1; None: the same ``tau`` (LRN); 1 is CEN's.
        alpha: Weight α of the ancestor's distribution (Eq. 9).
        lambda_1: Weight λ₁ of the ℓ1 regression in generation 1 (Eq. 16).
        lambda_t: Weight λ_t of the slack regression in later generations (Eq. 17).
        smoothness: Weight of the logits' curvature in generation 1 where labels are bands; not the papers'.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    generations: int = Field(default=4, ge=1)
    tau: float = Field(default=2.0, gt=0)
    ancestor_tau: float | None = Field(default=None, gt=0)
    alpha: float = Field(default=0.5, ge=0, le=1)
    lambda_1: float = Field(default=4.0, ge=0)
    lambda_t: float = Field(default=4.0, ge=0)
    smoothness: float = Field(default=1.0, ge=0)


@dataclass
class Generation(Stage):
    """One generation t; ``t = 1`` is the ancestor, trained on labels alone.

    Attributes:
        t: 1 … T.
        settings: Of the refinery.
        recipe: Backbone, heads.
        age_bins: The K ages.
        start: Weights every generation starts from (pre-training), or None.
    """

    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent", "band")
    t: int
    settings: RefinerySettings
    recipe: Recipe
    age_bins: AgeBins
    start: Mapping[str, Tensor] | None = None
    ancestor: AgeNetwork | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """``generation-t``."""
        return f"generation-{self.t}"

    @property
    def tau(self) -> float:
        """The temperature this generation trains and estimates with."""
        if self.t == 1 and self.settings.ancestor_tau is not None:
            return self.settings.ancestor_tau
        return self.settings.tau

    def network(self) -> AgeNetwork:
        """Backbone and heads at the start that all generations share ([1], Algorithm 1, step 1)."""
        backbone = make_backbone(self.recipe.network.backbone, pretrained=self.recipe.network.pretrained)
        head = AgeHead(backbone.num_features, self.age_bins, self.recipe.network.heads, self.tau)
        network = AgeNetwork(backbone, head)
        if self.start is not None:
            network.load_state_dict(dict(self.start))
        return network

    def ready(self, finished: Callable[[str], AgeNetwork]) -> None:
        """Fetch and freeze the ancestor: the finished generation t - 1."""
        if self.t > 1:
            self.ancestor = finished(f"generation-{self.t - 1}").eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the ancestor."""
        if self.ancestor is not None:
            self.ancestor.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """L¹ (Eq. 16) or L^t (Eq. 17) of a batch; the ancestor sees the same augmented view.

        Labels may be bands, which the paper does not have: the likelihood of the band and the smoothness of
        the logits in generation 1, the ancestor's distribution conditioned on the band as the hard part of
        Eq. 9 later, the distance to the band in the regression.

        Args:
            outputs: Of this generation's network.
            batch: Images (B, 3, S, S) that both networks see; targets (B, 4), labels.
        Returns:
            ``loss``, and ``ldl`` and ``reg`` where the network has these heads; ``curvature`` with bands.
        """
        bins, labels = self.age_bins, AgeLabels.of(batch.targets, batch.known)
        low, high = ((end - bins.minimum) / (bins.maximum - bins.minimum) for end in labels.bounds(bins))
        inherited = None
        if self.ancestor is not None:
            with torch.no_grad():
                inherited = self.ancestor(batch.images)
        parts: dict[str, Tensor] = {}
        total = batch.targets.new_zeros(())
        if outputs.logits is not None:
            if inherited is None or inherited.logits is None:
                parts["ldl"] = labels.likelihood_loss(outputs.logits, bins, self.tau)
                curvature = labels.curvature_loss(outputs.logits) if self.settings.smoothness else None
            else:
                parts["ldl"] = labels.refined_loss(
                    outputs.logits, inherited.logits.float(), bins, alpha=self.settings.alpha, tau=self.tau
                )
                curvature = None  # the ancestor's distribution is smooth already
            total = total + parts["ldl"]
            if curvature is not None:
                parts["curvature"] = curvature
                total = total + self.settings.smoothness * curvature
        if outputs.regressed is not None:
            if inherited is None or inherited.regressed is None:
                parts["reg"] = l1_regression(outputs.regressed, low, high)
                total = total + self.settings.lambda_1 * parts["reg"]
            else:
                parts["reg"] = slack_regression(outputs.regressed, low, inherited.regressed.float(), high)
                total = total + self.settings.lambda_t * parts["reg"]
        return {"loss": total, **parts}


class LabelRefinery(Method):
    """The method: generations 1 … T.

    Args:
        recipe: Its ``method.settings`` are :class:`RefinerySettings`.
        age_bins: The K ages.
        start: Weights every generation starts from, or None (the recipe's seed).
    Raises:
        RecipeError: An unknown setting or a value out of range.
    """

    settings_type = RefinerySettings
    settings: RefinerySettings

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(recipe, age_bins, start)
        self._stages = [
            Generation(t, self.settings, recipe, age_bins, start)
            for t in range(1, self.settings.generations + 1)
        ]

    def stages(self) -> Sequence[Generation]:
        """Generations in order."""
        return self._stages
