"""Teacher 2, the classifier of ages.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from agelens.data.crop_set import CropSet
from agelens.methods.ordinal_dark.stage import OrdinalDarkStage
from agelens.networks.age_network import AgeNetwork
from agelens.training.labels import AgeLabels
from agelens.training.run import locate_network
from agelens.training.stage import Batch, Validation, validate_ages
from agelens.training.start import start_weights

__all__ = ["ClassifierStage"]


@dataclass
class ClassifierStage(OrdinalDarkStage):
    """Teacher 2: a classifier of ages, trained on labels alone ([1], Sec. III-B)."""

    start: Mapping[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """``classifier``."""
        return "classifier"

    @property
    def backbone(self) -> str:
        """Name of its backbone; in a run that trains nothing else the recipe's, so ``--start`` works."""
        if self.settings.stages == ("classifier",):
            return self.recipe.network.backbone
        width = self.settings.width
        name = self.settings.classifier + ("" if width == 1.0 else f"@{width:g}")
        return f"zca{self.settings.zca}:{name}" if self.settings.zca else name

    def network(self) -> AgeNetwork:
        """Its network at its start: ImageNet's weights, those of a run, or N(0, 0.02).

        Raises:
            RunError: ``classifier_start`` is no run, or holds another backbone.
        """
        settings = self.settings
        alone = settings.stages == ("classifier",)
        published = settings.classifier_pretrained and settings.classifier.startswith("vgg16")
        started = self.start is not None if alone else bool(settings.classifier_start)
        pretrained = self.recipe.network.pretrained if alone else published
        network = self.new_age_network(self.backbone, ("ldl",), 1.0, pretrained and not started)
        if self.start is not None and alone:
            network.load_state_dict(dict(self.start))
        elif settings.classifier_start:
            _, file = locate_network(settings.classifier_start, self.name)
            network.load_state_dict(
                start_weights(file, self.recipe, self.age_bins, backbone=self.backbone, heads=("ldl",))
            )
        return network

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Negative log likelihood of the labels (B, 4), the batch's targets."""
        return {
            "loss": AgeLabels.of(batch.targets, batch.known).likelihood_loss(outputs.logits, self.age_bins)
        }

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Judge the ages; in a run that trains a student too, the figures are not the run's."""
        result = validate_ages(network, crops, size)
        if "student" in self.settings.stages:
            return replace(result, table={"teacher": result.table["estimates"]})
        return result
