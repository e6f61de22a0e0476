"""Identity pre-training: a backbone learns whose face it is, before it learns how old the face is.

AM-softmax over the people of an identity-labelled manifest ([1], Sec. 2.3). Progress is measured by
verification: are two faces of people never trained on the same person? The threshold of the similarity is
fitted on other people's pairs. The trained backbone is what an age method starts from (``--start``).

[1] Bao et al., LAE: long-tailed age estimation, CAIP 2021.
[2] Wang et al., CosFace: large margin cosine loss for deep face recognition, CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, SplitError
from agelens.label_distribution import AgeBins
from agelens.losses import additive_margin_softmax
from agelens.methods.verification import Pairs, embed, verification_pairs, verify
from agelens.networks.backbones import make_backbone
from agelens.networks.identity import IdentityNetwork, IdentityOutputs
from agelens.training.method import Method
from agelens.training.recipe import Recipe
from agelens.training.stage import Batch, Order, Stage, Validation

__all__ = ["IdentityPretraining", "IdentitySettings", "IdentityStage"]


class IdentitySettings(BaseModel):
    """Settings of the pre-training.

    Attributes:
        scale: s of AM-softmax; CosFace's 64.
        margin: m of AM-softmax; CosFace's 0.35 (Sec. 4.1 of [2]).
        embedding: Length of the embedding that a linear layer with batch norm makes of the backbone's
            features; 0: the features are the embedding.
        folds: Parts the held-out people are divided into.
        pairs: Largest number of pairs of the same person a fold, and as many of different people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scale: float = Field(default=64.0, gt=0)
    margin: float = Field(default=0.35, ge=0, lt=1)
    embedding: int = Field(default=128, ge=0)
    folds: int = Field(default=10, ge=2)
    pairs: int = Field(default=300, ge=1)


@dataclass
class IdentityStage(Stage):
    """The one stage.

    Attributes:
        recipe: Backbone, schedule, augmentation.
        settings: Of the method.
        start: Weights of the backbone to start from (keys ``backbone.…``), or None.
    """

    recipe: Recipe
    settings: IdentitySettings
    start: Mapping[str, Tensor] | None = None
    people: NDArray[Any] = field(init=False, default_factory=lambda: np.empty(0, str), repr=False)
    pairs: Pairs | None = field(init=False, default=None, repr=False)

    @property
    def name(self) -> str:
        """``identity``."""
        return "identity"

    @property
    def finishable(self) -> bool:
        """No: it has no ages."""
        return False

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """List the people, and draw the pairs to verify.

        Raises:
            InputError: No subjects, fewer than two people, one image of each, or too few people to verify.
            SplitError: A person is on both sides.
        """
        if train.subjects is None or val.subjects is None:
            raise InputError("identity pre-training needs a manifest with the column 'subject'")
        self.people, counts = np.unique(train.subjects, return_counts=True)
        both = np.intersect1d(self.people, val.subjects)
        if len(both):
            raise SplitError(
                f"{len(both)} people are in train and in val, among them {both[0]!r}: verification needs "
                "people never trained on"
            )
        if len(self.people) < 2 or counts.max() < 2:
            raise InputError(
                f"{len(train)} training images of {len(self.people)} people, at most {counts.max()} of one: "
                "identity needs two people or more, and people with several images"
            )
        self.pairs = verification_pairs(val.subjects, self.settings.folds, self.settings.pairs)
        single = int((counts == 1).sum())
        notes = [f"{len(self.people)} people to learn, {len(self.pairs.same)} pairs of others to verify"]
        return notes + ([f"{single} people have one image only"] if single else [])

    def network(self) -> IdentityNetwork:
        """Backbone, embedding, a vector a person."""
        backbone = make_backbone(self.recipe.network.backbone, pretrained=self.recipe.network.pretrained)
        if self.start is not None:
            prefix = "backbone."
            backbone.load_state_dict(
                {key.removeprefix(prefix): t for key, t in self.start.items() if key.startswith(prefix)}
            )
        return IdentityNetwork(backbone, len(self.people), self.settings.embedding)

    def order(self, crops: CropSet, epoch: int, generator: torch.Generator) -> Order:
        """A permutation; targets (N,), the number of each person."""
        assert crops.subjects is not None
        rows = torch.randperm(len(crops), generator=generator).numpy()
        return Order(rows, np.searchsorted(self.people, crops.subjects)[rows])

    def loss(self, outputs: IdentityOutputs, batch: Batch) -> dict[str, Tensor]:
        """AM-softmax of the people (B,), the batch's targets."""
        scale, margin = self.settings.scale, self.settings.margin
        return {"loss": additive_margin_softmax(outputs.cosines, batch.targets, scale, margin)}

    def score(self, network: Any, outputs: IdentityOutputs, batch: Batch) -> dict[str, Tensor]:
        """Share of the batch whose nearest person is the right one (without the margin)."""
        return {"train accuracy": (outputs.cosines.argmax(1) == batch.targets).float().mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Verify the pairs of held-out people."""
        assert self.pairs is not None
        assert crops.subjects is not None
        embeddings = embed(network, crops, size)
        similarity = (embeddings[self.pairs.first] * embeddings[self.pairs.second]).sum(1)
        result = verify(similarity, self.pairs)
        return Validation(
            {"accuracy": round(result.accuracy, 4), "AUC": round(result.auc, 4)},
            {
                "verification": {
                    "accuracy": result.accuracy,
                    "deviation": result.deviation,
                    "AUC": result.auc,
                    "pairs": result.pairs,
                    "people": len(np.unique(crops.subjects)),
                }
            },
            {
                "similarity": similarity,
                "same": self.pairs.same,
                "fold": self.pairs.fold,
                "first": self.pairs.first,
                "second": self.pairs.second,
            },
        )

    def merit(self, figures: Mapping[str, float]) -> float:
        """Verification accuracy."""
        return figures["accuracy"]


class IdentityPretraining(Method):
    """The method: one stage.

    Args:
        recipe: Its ``method.settings`` are :class:`IdentitySettings`.
        age_bins: Not used.
        start: Weights whose backbone it starts from, or None.
    Raises:
        RecipeError: An unknown setting or a value out of range.
    """

    settings_type = IdentitySettings
    learns = "subjects"
    settings: IdentitySettings

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(recipe, age_bins, start)
        self._stages = [IdentityStage(recipe, self.settings, start)]

    def stages(self) -> Sequence[IdentityStage]:
        """The one stage."""
        return self._stages
