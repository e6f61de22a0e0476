"""One network trained on labels: the loss is named in the recipe, and everything else is the same for all.

The control of every other method, and the table of rivals: cross entropy with expectation (DEX), label
distributions (DLDL, SORD), ordinal classifiers (OR-CNN, CORAL, CORN) and the others of
:data:`agelens.objectives.OBJECTIVES` differ in one line of the recipe::

    [method]
    name = "baseline"
    settings = { objective = "dldl", sigma = 2.0 }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, RecipeError
from agelens.label_distribution import AgeBins
from agelens.methods.reference_sets import choose_references, keep_references
from agelens.networks.age_network import AgeHead, AgeNetwork, Head, MirroredNetwork
from agelens.networks.backbones import make_backbone
from agelens.networks.heads import HEADS, age_network
from agelens.networks.reference_heads import ReferenceHead
from agelens.networks.scoring_head import ScoringHead
from agelens.objectives import OBJECTIVES, Objective, find_objective
from agelens.objectives.contract import CONTEXT, settings_of
from agelens.plugins import Origin, origin, resolve
from agelens.training.labels import AgeLabels
from agelens.training.method import Method
from agelens.training.recipe import Recipe, validated
from agelens.training.stage import Batch, Stage, Validation

__all__ = ["Baseline", "BaselineSettings", "BaselineStage"]


@dataclass
class BaselineStage(Stage):
    """The one stage.

    Attributes:
        recipe: Backbone, schedule, augmentation.
        objective: Loss and head.
        age_bins: The K ages; labels beyond them are clamped.
        loss_settings, head_settings: Keywords of the two.
        start: Weights whose backbone it starts from (keys ``backbone.…``), or None.
    """

    recipe: Recipe
    objective: Objective
    age_bins: AgeBins
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    head_settings: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Tensor] | None = None
    bin_ages: Tensor = field(init=False, repr=False)
    counts: Tensor = field(init=False, repr=False)
    references: CropSet | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.bin_ages = torch.as_tensor(self.age_bins.ages, dtype=torch.float32)
        self.counts = torch.ones(len(self.age_bins))

    @property
    def name(self) -> str:
        """``baseline``."""
        return "baseline"

    @property
    def objective_name(self) -> str:
        """As the recipe names it."""
        return str(self.recipe.method.settings["objective"])

    @property
    def finishable(self) -> bool:
        """Not with a head that is known to be another one."""
        head = _head_of(self.objective)
        return super().finishable and not (isinstance(head, type) and not issubclass(head, AgeHead))

    def plugins(self) -> Sequence[Origin]:
        """The backbone's and the objective's package."""
        used = origin("objectives", self.objective_name, OBJECTIVES)
        return (*super().plugins(), *(() if used is None else (used,)))

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Count the training images of each age bin; choose references for a head that compares.

        Raises:
            InputError: A label is no exact age, or there are no references.
        """
        for name, crops in (("train", train), ("val", val)):
            missing = int(np.isnan(crops.ages).sum())
            if missing:
                raise InputError(
                    f"the objective {self.objective_name!r} needs an exact age for every image: {missing} of "
                    f"{len(crops)} in split {name} have none (a band is not an age)"
                )
        counts = np.bincount(self.age_bins.index(train.ages), minlength=len(self.age_bins))
        self.counts = torch.as_tensor(counts, dtype=torch.float32)
        head = _head_of(self.objective)
        if isinstance(head, type) and issubclass(head, ReferenceHead):
            count = self.head_settings["references"]
            self.references = choose_references(train, self.age_bins, count, self.recipe.seed)
        return ()

    def to(self, device: torch.device) -> None:
        """Move the ages and counts of the bins."""
        self.bin_ages, self.counts = self.bin_ages.to(device), self.counts.to(device)

    def network(self) -> AgeNetwork:
        """Backbone and the objective's head."""
        backbone = make_backbone(self.recipe.network.backbone, pretrained=self.recipe.network.pretrained)
        network = age_network(backbone, self.head(backbone.num_features))
        if self.start is not None:
            prefix = "backbone."
            backbone.load_state_dict(
                {key.removeprefix(prefix): t for key, t in self.start.items() if key.startswith(prefix)}
            )
        return network

    def head(self, num_features: int) -> Head:
        """The objective's head on features of a length."""
        make = self.objective.head
        if isinstance(make, str):
            make = resolve("heads", make, HEADS)
        made: Head = make(num_features, self.age_bins, **self.head_settings)
        return made

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The objective of a batch.

        Args:
            outputs: Of the network.
            batch: Its targets are (B, 4), labels that have an age.
        Returns:
            ``loss``.
        """
        scores = outputs.raw if hasattr(outputs, "raw") else outputs.logits
        labels = AgeLabels.of(batch.targets, batch.known)
        known = {
            "counts": self.counts,
            "deviations": labels.deviations,
            "features": outputs.features.detach(),
        }
        data = {name: known[name] for name in self.objective.context()}
        return {"loss": self.objective.loss(scores, labels.ages, self.bin_ages, **self.loss_settings, **data)}

    def score(self, network: AgeNetwork, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The MAE in years, where a head estimates ages in training."""
        return {} if outputs.logits is None else super().score(network, outputs, batch)

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Judge a network as an age network; one that compares sees its references first."""
        if self.references is not None:
            inner: Any = network.network if isinstance(network, MirroredNetwork) else network
            keep_references(inner, self.references, size)
        return super().validate(network, crops, size)

    def stepped(self, network: AgeNetwork, outputs: Any, batch: Batch) -> None:
        """Let the head see the batch."""
        if isinstance(network.head, ScoringHead):
            network.head.observe(outputs.raw, AgeLabels.of(batch.targets, batch.known).ages)


class BaselineSettings(BaseModel):
    """Settings of the method: the objective, and all that its loss and its head take.

    Attributes:
        objective: A key of ``OBJECTIVES``, or the name of a plug-in.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    objective: str


class Baseline(Method):
    """The method: one stage.

    Args:
        recipe: Its ``method.settings`` are :class:`BaselineSettings`.
        age_bins: The K ages.
        start: Weights whose backbone it starts from, or None.
    Raises:
        RecipeError: No objective, an unknown setting, a value out of range, or heads that are not
            the objective's.
        PluginError: An unknown objective.
    """

    settings_type = BaselineSettings
    settings: BaselineSettings

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(recipe, age_bins, start)
        objective = find_objective(self.settings.objective)
        of_loss, of_head = _keywords(objective)
        values = self.settings.model_dump()
        loss_settings, head_settings = (
            {key: values[key] for key in model.model_fields} for model in (of_loss, of_head)
        )
        stage = BaselineStage(recipe, objective, age_bins, loss_settings, head_settings, start)
        heads = getattr(_head_of(objective), "learns", ("ldl",))
        if recipe.network.heads != heads:
            raise RecipeError(
                recipe.name,
                "network.heads",
                f"the objective {self.settings.objective!r} trains the head {heads[0]!r}",
                list(recipe.network.heads),
            )
        self._stages = [stage]

    @classmethod
    def validate(cls, recipe: Recipe) -> BaselineSettings:
        """Validate the objective's name, then all settings by the signatures of its loss and its head."""
        table = dict(recipe.method.settings)
        name = table.pop("objective", None)
        if not isinstance(name, str):
            raise RecipeError(
                recipe.name, "method.settings.objective", f"must name one of {', '.join(OBJECTIVES)}", name
            )
        models = _keywords(find_objective(name))
        known = [key for model in models for key in model.model_fields]
        for key, value in table.items():
            if key not in known:
                message = f"objective {name!r} has no such setting; it has {', '.join(known) or 'none'}"
                raise RecipeError(recipe.name, f"method.settings.{key}", message, value)
        values: dict[str, Any] = {}
        for model in models:
            of_model = {key: value for key, value in table.items() if key in model.model_fields}
            values |= validated(model, of_model, recipe.name, "method.settings").model_dump()
        return BaselineSettings(objective=name, **values)

    def stages(self) -> Sequence[BaselineStage]:
        """The one stage."""
        return self._stages


def _keywords(objective: Objective) -> tuple[type[BaseModel], type[BaseModel]]:
    """The settings of an objective's loss and of its head, by their signatures."""
    return settings_of(objective.loss, without=CONTEXT), settings_of(_head_of(objective))


def _head_of(objective: Objective) -> Callable[..., Any]:
    """The factory of an objective's head."""
    if callable(objective.head):
        return objective.head
    make: Callable[..., Any] = resolve("heads", objective.head, HEADS)
    return make
