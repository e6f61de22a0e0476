"""LAE's classification stage: the classifier alone, trained again on a balanced view of the ages.

Everything but the FC layer of the label distribution is frozen, batch-norm statistics included; ages are
drawn uniformly; the loss pulls every sample's error towards the error the network already has, so that the
groups' errors draw together ([1], Eq. 4). It finishes any method whose network has an ``ldl`` head: that head
alone answers afterwards, at the temperature it was trained with.

Since the trunk is frozen, its features of the training crops are computed once and kept, unless views are
drawn anew (``augment``, the paper's way): then the trunk runs in every step.

[1] Bao et al., LAE: long-tailed age estimation, CAIP 2021.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, RecipeError
from agelens.label_distribution import AgeBins
from agelens.losses import expectation_error, gaussian_labels, label_divergence, squared_excess
from agelens.methods.finishing import network_to_finish, stage_to_finish
from agelens.metrics import AAR_GROUPS
from agelens.networks.age_network import AgeHead, AgeNetwork, Outputs
from agelens.training.recipe import Recipe, TrainSettings, validated
from agelens.training.samplers import class_balanced
from agelens.training.stage import (
    Batch,
    CropOutputs,
    Finished,
    Order,
    Stage,
    Validation,
    judge_ages,
    run_on_crops,
)
from agelens.training.transforms import network_input

__all__ = ["BalancedSettings", "BalancedStage"]

_BATCH = 256


class BalancedSettings(BaseModel):
    """Settings of the classification stage; the defaults are the paper's (Sec. 3.3) but for ``augment``.

    Attributes:
        epochs: 8, OneCycle.
        batch_size: Images a step.
        learning_rate: The largest rate at a batch of 256, scaled with the batch.
        weight_decay: Of the FC layer.
        keep: The ``best`` epoch on the validation split, by AAR, or the ``last``.
        precision: Of the trunk and the head, as ``train.precision``.
        sigma: Deviation of the label distributions, years.
        square: Weight of (L_er - mae)²; 1 in Eq. 4.
        share: The constant of Eq. 4 as a share of the representation's MAE on the validation split (Eq. 5); 1
            in the paper. The full MAE evens the groups out most, also by making good ones worse; less of it
            lowers their mean.
        constant: The constant of Eq. 4 itself, years, before ``share``; None: the MAE on the validation
            split. A run without a validation part needs it.
        ages: Ages that are drawn, both ends inside: those of AAR's groups, which are all there are in the
            paper's data. A draw uniform over *every* age is spent on the handful of images of the very old.
        augment: Draw the recipe's training views in every epoch; off: the crops as they are.
        cache: Without views: compute the features once. Off only to compare.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=0.001, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    keep: str = Field(default="best", pattern="^(best|last)$")
    precision: str = Field(default="no", pattern="^(no|bf16|fp16)$")
    sigma: float = Field(default=1.0, gt=0)
    square: float = Field(default=1.0, ge=0)
    share: float = Field(default=1.0, ge=0)
    constant: float | None = Field(default=None, gt=0)
    ages: tuple[int, int] = (AAR_GROUPS[0][0], AAR_GROUPS[-1][1])
    augment: bool = False
    cache: bool = True

    @model_validator(mode="after")
    def _ages_in_order(self) -> Self:
        if not 0 <= self.ages[0] < self.ages[1]:
            raise ValueError("ages must be two, the first below the second")
        return self


@dataclass
class BalancedStage(Stage):
    """The FC layer again, on balanced ages.

    Attributes:
        recipe: Of the run.
        settings: Of this stage.
        age_bins: The K ages.
        earlier: Names of the stages whose best (MAE of its ``ldl`` estimate on the validation split) is
            finished.
    """

    recipe: Recipe
    settings: BalancedSettings
    age_bins: AgeBins
    earlier: tuple[str, ...]
    trunk: AgeNetwork = field(init=False, repr=False)
    source: str = field(init=False, default="")
    mae: float = field(init=False, default=0.0)
    drawn: NDArray[np.int64] = field(init=False, default_factory=lambda: np.empty(0, np.int64), repr=False)
    before: dict[str, Any] = field(init=False, default_factory=dict)
    sets: dict[str, CropSet] = field(init=False, default_factory=dict, repr=False)
    features: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def after(cls, stages: Sequence[Stage], recipe: Recipe, age_bins: AgeBins) -> Self:
        """Make the stage that finishes a method's stages.

        Raises:
            RecipeError: An unknown setting of the stage, or a value out of range.
        """
        settings = validated(BalancedSettings, recipe.finish.settings, recipe.name, "finish.settings")
        return cls(recipe, settings, age_bins, tuple(stage.name for stage in stages))

    @property
    def name(self) -> str:
        """``balanced``."""
        return "balanced"

    @property
    def training(self) -> TrainSettings:
        """SGD on OneCycle, the rate scaled with the batch (Sec. 3.3 of [1])."""
        return TrainSettings.model_validate(
            {
                "optimizer": "sgd",
                "schedule": "onecycle",
                "warmup": 0.3,
                "rate_batch": 256,
                **self.settings.model_dump(
                    include={"epochs", "batch_size", "learning_rate", "weight_decay", "keep", "precision"}
                ),
            }
        )

    def check_without_validation(self) -> None:
        """Check also that the constant of Eq. 4 is given, which is measured on the validation part."""
        super().check_without_validation()
        if self.settings.constant is None:
            raise RecipeError(
                self.recipe.name,
                f"{self.name}: constant",
                "without a validation part the constant of Eq. 4 must be given, years",
            )

    def ready(self, finished: Finished) -> None:
        """Fetch the network to finish, and the constant of Eq. 4.

        Raises:
            InputError: No earlier stage has an age network with the head ``ldl``, or its head is another one.
        """
        self.source, mae = stage_to_finish(finished, self.earlier)
        self.mae = mae if self.settings.constant is None else self.settings.constant
        self.trunk, _ = network_to_finish(finished, self.source)
        said = finished.arrays(self.source)
        judged = judge_ages(CropOutputs(None, None, said["age"], None), said["ages"])
        self.before = judged.table["estimates"]["age"]

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Choose the images to draw from, and count the ages without one.

        Raises:
            InputError: All images to draw from have one age, or there are none.
        """
        self.sets = {"train": train, "val": val}
        low, high = self.settings.ages
        completed = np.floor(train.ages)
        self.drawn = np.flatnonzero((completed >= low) & (completed <= high))
        present = np.unique(completed[self.drawn])
        if len(present) < 2:
            raise InputError(
                f"{len(self.drawn)} training images are aged {low} to {high}, and of {len(present)} age: "
                "there is nothing to balance"
            )
        where = "on the validation split" if self.settings.constant is None else "as given"
        notes = [f"finishes {self.source}, whose MAE is {self.mae:.3f} {where}"]
        empty = [f"{age}" for age in range(low, high + 1) if age not in present]
        if empty:
            notes.append(f"{len(empty)} ages have no training image and are never drawn: {', '.join(empty)}")
        beyond = len(train) - len(self.drawn)
        if beyond:
            notes.append(f"{beyond} training images are not aged {low} to {high} and are never drawn")
        return notes

    def to(self, device: torch.device) -> None:
        """Move the trunk, and run it over the crops if its features are kept."""
        self.trunk.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self._cached:
            return
        size = self.recipe.network.input_size
        for name, crops in self.sets.items():
            parts = []
            with torch.inference_mode():
                for start in range(0, len(crops), _BATCH):
                    images = network_input(crops.crops(slice(start, start + _BATCH)), size, device)
                    parts.append(self.trunk.backbone(images).float())
            self.features[name] = torch.cat(parts).clone()

    def network(self) -> nn.Module:
        """The FC layer alone where the features are kept, else the network with it."""
        head = AgeHead(self.trunk.head.num_features, self.age_bins, ("ldl",), self.trunk.head.tau)
        trained = self.trunk.head
        assert isinstance(trained, AgeHead)
        assert head.ldl is not None
        assert trained.ldl is not None
        head.ldl.load_state_dict(trained.ldl.state_dict())
        return head if self._cached else AgeNetwork(copy.deepcopy(self.trunk.backbone), head)

    def frozen(self, network: Any) -> Sequence[nn.Module]:
        """The backbone."""
        return () if self._cached else (network.backbone,)

    def order(self, crops: CropSet, epoch: int, generator: torch.Generator) -> Order:
        """As many draws as there are images: an age uniformly, then an image of it (Sec. 2.4 of [1])."""
        classes = np.floor(crops.ages[self.drawn]).astype(np.int64)
        rows = self.drawn[class_balanced(classes, len(crops), generator)]
        return Order(rows, crops.ages[rows])

    def inputs(
        self,
        crops: CropSet,
        rows: NDArray[np.int64],
        size: int,
        views: torch.Generator,
        device: torch.device,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Kept features (B, C), training views or the crops as they are (B, 3, S, S); no extras."""
        if self._cached:
            return self.features["train"][torch.from_numpy(rows).to(device)], {}
        if self.settings.augment:
            return super().inputs(crops, rows, size, views, device)
        return network_input(self.sets["train"].crops(rows), size, device), {}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """L_cl = L_ld + (L_er - mae)² (Eq. 4 of [1]).

        Args:
            outputs: Of the network or its FC layer.
            batch: Targets (B,), ages in years; beyond the bins they are clamped.
        Returns:
            ``loss`` and its parts ``ld`` (nats), ``square`` (years²).
        """
        assert outputs.logits is not None
        tau, bin_ages = self.trunk.head.tau, self.trunk.head.ages
        ages = batch.targets.clamp(self.age_bins.minimum, self.age_bins.maximum)
        target = gaussian_labels(ages, bin_ages, self.settings.sigma)
        divergence = label_divergence(outputs.logits, target, tau)
        errors = expectation_error(outputs.logits, ages, bin_ages, tau)
        square = squared_excess(errors, self.settings.share * self.mae)
        return {"loss": divergence + self.settings.square * square, "ld": divergence, "square": square}

    def score(self, network: Any, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The MAE of a training batch, which is balanced, in years."""
        return {"train MAE": (self.trunk.head.decode(outputs).age - batch.targets).abs().mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """As an age network; the FC layer alone on the kept features of the validation crops."""
        if isinstance(network, AgeHead):
            with torch.inference_mode():
                outputs = network(self.features["val"])
                decoded = network.decode(outputs)
            years = decoded.age.cpu().double().numpy()
            judged = CropOutputs(years, None, years, outputs.logits.cpu().double().numpy())
            return judge_ages(judged, crops.ages)
        validation = judge_ages(run_on_crops(network, crops, size), crops.ages)
        validation.table.update({"finishes": self.source, "mae": self.mae, "before": self.before})
        return validation

    def merit(self, figures: Mapping[str, float]) -> float:
        """AAR, which is what the stage is for; without an image in its groups as for other stages."""
        return figures["AAR"] if "AAR" in figures else super().merit(figures)

    def result(self, network: Any) -> nn.Module:
        """The trunk with the FC layer."""
        if not self._cached:
            return super().result(network)
        return AgeNetwork(self.trunk.backbone, network).eval()

    @property
    def _cached(self) -> bool:
        return self.settings.cache and not self.settings.augment
