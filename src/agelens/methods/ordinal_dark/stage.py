"""The common part of the stages of the two-teacher method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from agelens.data.crop_set import CropSet
from agelens.label_distribution import AgeBins
from agelens.methods.ordinal_dark.settings import OrdinalDarkSettings
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone
from agelens.networks.chain import ChainBackbone, normal_weights
from agelens.networks.zca import PatchZCA, Whitened, fit_patch_zca
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.stage import Stage
from agelens.training.transforms import network_input

__all__ = ["OrdinalDarkStage", "width_of"]

_ZCA_IMAGES = 4096  # as many training crops, evenly spaced, are enough for a covariance of patches


@dataclass
class OrdinalDarkStage(Stage):
    """Common part of the four stages: settings, and the crops that networks are whitened by."""

    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent", "band")
    restarts: ClassVar[bool] = True  # its stages are short, and what they start from is kept

    settings: OrdinalDarkSettings
    recipe: Recipe
    age_bins: AgeBins
    train_crops: CropSet | None = field(default=None, init=False, repr=False)

    @property
    def training(self) -> TrainSettings:
        """The recipe's ``train``, with this stage's own values in their place."""
        return TrainSettings.model_validate(self.train_table)

    @property
    def train_table(self) -> dict[str, Any]:
        """The settings of :attr:`training`, not yet validated."""
        own: dict[str, Any] = getattr(self.settings, f"{self.name}_train")
        return {**self.recipe.train.model_dump(), **own}

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Keep the crops: networks whiten by them."""
        self.train_crops = train
        return ()

    def whiten(self, whitening: PatchZCA | None) -> None:
        """Fit a network's whitening to the training crops, if it has one and they were looked at."""
        if whitening is None or self.train_crops is None:
            return
        crops = self.train_crops
        rows = np.linspace(0, len(crops) - 1, min(_ZCA_IMAGES, len(crops))).astype(np.int64)
        images = network_input(crops.crops(rows), self.recipe.network.input_size)
        whitening.set(fit_patch_zca(images, whitening.kernel, self.settings.zca_epsilon))

    def new_age_network(
        self, backbone: str, heads: Sequence[Literal["ldl", "reg"]], tau: float, pretrained: bool
    ) -> AgeNetwork:
        """Make an age network at its start: as ``settings.initialise`` says, whitened."""
        made = make_backbone(backbone, pretrained=pretrained)
        network = AgeNetwork(made, AgeHead(made.num_features, self.age_bins, heads, tau))
        if self.settings.initialise == "normal":
            inner = made.backbone if isinstance(made, Whitened) else made
            connected = [inner.top] if isinstance(inner, ChainBackbone) else []
            for part in (
                (*connected, network.head) if pretrained else (network,)
            ):  # weights are of convolutions
                normal_weights(part, width_of(backbone))
        self.whiten(made.whitening if isinstance(made, Whitened) else None)
        return network


def width_of(backbone: str) -> float:
    """Factor of the channels that a backbone's name says (``student-small@0.25``); 1 where it has none."""
    return float(backbone.rpartition("@")[2]) if "@" in backbone else 1.0
