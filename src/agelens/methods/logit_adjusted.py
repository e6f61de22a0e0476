"""Logit adjustment: the prior over ages that a network learned, taken out of its answers.

A network trained on few old people leans to the ages it saw often. With π the share of the training images at
each age,

    logit_k - strength · tau · log π_k

answers as if the ages had been drawn by π^(1 - strength): at 1 uniformly ([1], Eq. 9, there with the strength
called τ). Nothing is trained: the bias of the FC layer changes, and the strength is chosen on the validation
split, by AAR as LAE's classification stage is, whose rival this is; where the labels are bands, by the mean
over the bands of the distance to them. It takes bands, for which LAE's stage has no loss.

π is smoothed over neighbouring ages, which look alike, as in [2]; a band's share lies on all its ages.

[1] Menon et al., Long-tail learning via logit adjustment, ICLR 2021.
[2] Yang et al., Delving into deep imbalanced regression, ICML 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, RecipeError
from agelens.label_distribution import AgeBins, softmax
from agelens.methods.finishing import network_to_finish, stage_to_finish
from agelens.metrics import AAR_GROUPS, aar
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.training.recipe import Recipe, validated
from agelens.training.stage import Batch, Finished, Stage, Validation

__all__ = ["LogitAdjustedSettings", "LogitAdjustedStage", "age_prior", "evenness"]

FloatArray = NDArray[np.float64]


class LogitAdjustedSettings(BaseModel):
    """Settings of the stage.

    Attributes:
        strengths: Those tried on the validation split; a single one needs none.
        smooth: Deviation of the kernel that smooths the prior, years.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    strengths: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        default=tuple(step / 10 for step in range(11)), min_length=1
    )
    smooth: float = Field(default=2.0, ge=0, le=100)


def age_prior(bounds: NDArray[Any], bins: AgeBins, smooth: float) -> FloatArray:
    """Share of the images at each age.

    Args:
        bounds: (N, 2) both ends of the labels, years, included; equal for an age. Beyond the bins they are
            clamped.
        bins: K age bins.
        smooth: Deviation of the Gaussian kernel over the ages, years.
    Returns:
        (K,) positive, of sum 1. One more image lies evenly on all ages, so that none has no share.
    """
    first, last = np.floor(np.clip(bounds, bins.minimum, bins.maximum)).astype(np.int64).T - bins.minimum
    edges = np.zeros(len(bins) + 1)
    width = 1.0 / (last - first + 1)
    np.add.at(edges, first, width)
    np.add.at(edges, last + 1, -width)
    counts = np.maximum(edges[:-1].cumsum(), 0.0)
    if smooth:
        counts = gaussian_filter1d(counts, smooth, mode="nearest")
    counts += 1.0 / len(bins)
    shares: FloatArray = counts / counts.sum()
    return shares


def evenness(estimates: FloatArray, ages: NDArray[Any], bounds: NDArray[Any]) -> float:
    """Merit of estimates for rare ages as for common ones; larger is better.

    Args:
        estimates: (N,) years.
        ages: (N,) years; NaN where the label is a band.
        bounds: (N, 2) both ends of the labels, years.
    Returns:
        AAR of the images with ages; without any in its groups, minus the mean over the bands of the mean
        distance to them, years.
    """
    exact = ~np.isnan(ages)
    completed = np.floor(ages[exact])
    if any(((completed >= low) & (completed <= high)).any() for low, high in AAR_GROUPS):
        return float(aar(estimates[exact], ages[exact]).aar)
    low, high = bounds.T
    distance = np.maximum(np.maximum(low - estimates, estimates - high), 0.0)
    _, own = np.unique(bounds, axis=0, return_inverse=True)
    counts = np.bincount(own.reshape(-1))
    return -float((np.bincount(own.reshape(-1), distance) / counts).mean())


@dataclass
class LogitAdjustedStage(Stage):
    """The bias of the FC layer, less the logarithm of the prior.

    Attributes:
        recipe: Of the run.
        settings: Of this stage.
        age_bins: The K ages.
        earlier: Names of the stages whose best is finished.
    """

    recipe: Recipe
    settings: LogitAdjustedSettings
    age_bins: AgeBins
    earlier: tuple[str, ...]
    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent", "band")
    at_once: ClassVar[bool] = True
    source: str = field(init=False, default="")
    trunk: AgeNetwork = field(init=False, repr=False)
    head: AgeHead = field(init=False, repr=False)
    strength: float = field(init=False, default=0.0)
    merits: dict[str, float] = field(init=False, default_factory=dict)
    log_prior: FloatArray = field(init=False, repr=False)
    said: Mapping[str, NDArray[Any]] = field(init=False, repr=False)
    before: dict[str, Any] = field(init=False, default_factory=dict)

    @classmethod
    def after(cls, stages: Sequence[Stage], recipe: Recipe, age_bins: AgeBins) -> Self:
        """Make the stage that finishes a method's stages.

        Raises:
            RecipeError: An unknown setting of the stage, or a value out of range.
        """
        settings = validated(LogitAdjustedSettings, recipe.finish.settings, recipe.name, "finish.settings")
        return cls(recipe, settings, age_bins, tuple(stage.name for stage in stages))

    @property
    def name(self) -> str:
        """``logit-adjusted``."""
        return "logit-adjusted"

    def check_without_validation(self) -> None:
        """Check that the strength is given, which is chosen on the validation part.

        Raises:
            RecipeError: There are several.
        """
        if len(self.settings.strengths) > 1:
            raise RecipeError(
                self.recipe.name,
                f"{self.name}: strengths",
                "one is chosen on the validation part, and there is none: give a single one",
            )

    def ready(self, finished: Finished) -> None:
        """Fetch the network to finish, and what it said of the validation images.

        Raises:
            InputError: No earlier stage has an age network with the head ``ldl``, or its head is another one.
        """
        self.source, _ = stage_to_finish(finished, self.earlier)
        self.trunk, self.head = network_to_finish(finished, self.source)
        self.before = finished.validation(self.source)["estimates"]["ldl"]
        self.said = finished.arrays(self.source)

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Measure the prior, and choose the strength.

        Raises:
            InputError: All training images have one label.
        """
        bounds = train.labels()[:, 2:]
        if len(np.unique(bounds, axis=0)) < 2:
            raise InputError(f"{len(train)} training images have one age: there is no prior to take out")
        self.log_prior = np.log(age_prior(bounds, self.age_bins, self.settings.smooth))
        self.strength = self.settings.strengths[0]
        if len(self.settings.strengths) > 1:
            logits = self.said["logits"] / self.head.tau
            for strength in self.settings.strengths:
                mass = softmax(logits - strength * self.log_prior)
                self.merits[str(strength)] = evenness(
                    mass @ self.age_bins.ages, val.ages, val.labels()[:, 2:]
                )
            self.strength = float(max(self.merits, key=lambda tried: self.merits[tried]))
        return [f"finishes {self.source}: the prior over ages is taken out with strength {self.strength}"]

    def network(self) -> nn.Module:
        """The network to finish, as it is."""
        return self.trunk

    def solve(self, train: CropSet, val: CropSet, device: torch.device) -> nn.Module:
        """Give the network with the new bias, and with the head ``ldl`` alone."""
        head = AgeHead(self.head.num_features, self.age_bins, ("ldl",), self.head.tau)
        assert head.ldl is not None
        assert self.head.ldl is not None
        head.ldl.load_state_dict(self.head.ldl.state_dict())
        shift = self.strength * self.head.tau * (self.log_prior - self.log_prior.mean())
        with torch.no_grad():
            head.ldl.bias.sub_(torch.from_numpy(shift).to(head.ldl.bias))
        return AgeNetwork(self.trunk.backbone, head).eval().to(device)

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """None: nothing is trained."""
        raise NotImplementedError(f"{self.name} is not trained")

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """As an age network; the table also has the strength, each one's merit, and the figures before."""
        validation = super().validate(network, crops, size)
        validation.table.update({"finishes": self.source, "strength": self.strength})
        validation.table.update({"tried": self.merits, "before": self.before})
        return validation
