"""The interface between the epoch loop and a method: stages, each one network to train.

A stage overrides the hooks in which it differs; the defaults are those of an age network trained on labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agelens.data.crop_set import CropSet
from agelens.errors import RecipeError
from agelens.label_distribution import AgeBins, softmax
from agelens.metrics import (
    AAR_GROUPS,
    aar,
    band_accuracy,
    band_distance,
    cumulative_accuracy,
    mae,
    most_probable_band,
)
from agelens.networks.age_network import AnyNetwork
from agelens.networks.backbones import backbone_origin
from agelens.plugins import Origin
from agelens.training.crop_source import crop_tensor
from agelens.training.labels import AgeLabels
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.samplers import set_weighted
from agelens.training.transforms import Augmentation, augment, network_input

__all__ = [
    "SELECTED_FIGURES",
    "Batch",
    "CropOutputs",
    "Finished",
    "Order",
    "Stage",
    "Validation",
    "judge_ages",
    "run_on_crops",
    "validate_ages",
]

SELECTED_FIGURES = {"mae": "MAE age", "aar": "AAR", "band": "band accuracy"}
"""The validation figure of each criterion of a recipe's ``select``."""
_WITHOUT_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")


@dataclass(frozen=True)
class Order:
    """Crops and labels of an epoch, in order; M is the same in every epoch of a stage.

    Attributes:
        rows: (M,) crops of the training set, or (M, n) sequences of n crops. A batch of B of these is B
            (or B·n, sequence after sequence) images.
        targets: (M, ...) labels of each, for the loss; their shape and meaning are the stage's
            (:meth:`Stage.order`).
    """

    rows: NDArray[np.int64]
    targets: NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Everything of one step but the network's outputs: arguments of :meth:`Stage.loss`.

    Attributes:
        images: Input of the network, as :meth:`Stage.inputs` made it: (B, 3, S, S) views, B·n of them for
            sequences of n; (B, C) where a stage keeps features.
        targets: (B, ...) rows of :attr:`Order.targets`, on the device.
        extras: Further tensors of the same crops by name (a view in another size, soft labels), as
            :meth:`Stage.inputs` made them, each (B, ...).
        known: The targets on the CPU, where a look at them waits for no device; None: not given.
    """

    images: Tensor
    targets: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None


@dataclass(frozen=True)
class Validation:
    """Validation result of a network.

    Attributes:
        figures: Columns of the log; the loop puts ``val`` before each name.
        table: Entries of ``validation.json`` besides the number of images.
        arrays: Arrays of ``validation.npz``.
    """

    figures: dict[str, float]
    table: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class Finished(Protocol):
    """The stages before this one, by name."""

    def __call__(self, name: str) -> Any:
        """The finished network."""

    def validation(self, name: str) -> dict[str, Any]:
        """Its ``validation.json``."""

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Its ``validation.npz``."""


class Stage(ABC):
    """One network to train.

    The loop calls ``ready``, ``look`` and ``to`` once, then ``network``; in each epoch ``begin`` and
    ``order``, in each step ``inputs``, the network, ``loss``, ``stepped`` and ``score``; after each epoch
    ``validate``; at the end ``result``, ``validate`` and ``describe``. A stage that is solved ``at_once`` has
    ``solve`` in place of the epochs.
    """

    recipe: Recipe
    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent")
    """The kinds of labels it learns from: ``exact``, ``apparent``, ``band``."""
    at_once: ClassVar[bool] = False
    """Whether its network is found by :meth:`solve`, without epochs."""
    restarts: ClassVar[bool] = False
    """Whether a damaged checkpoint is passed over, and the stage begun again, instead of ending the run."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Folder name in the run, e.g. ``generation-2``."""

    @property
    def training(self) -> TrainSettings:
        """Settings of the optimisation; default: the recipe's ``train``."""
        return self.recipe.train

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of its training views; default: the recipe's ``augment``."""
        return self.recipe.augment.augmentation()

    def precision(self, device: torch.device) -> str:
        """Precision on a device: as ``training`` says, but float32 on a CPU without bfloat16."""
        emulated = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BFLOAT16
        return "no" if self.training.precision == "bf16" and emulated else self.training.precision

    def ready(self, finished: Finished) -> None:  # noqa: B027
        """Fetch networks and figures of earlier stages, by their names (the frozen ancestor)."""

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """See the crops before the network is made (people, age groups, features to keep).

        Returns:
            Notes for the user (a class without an image), a line each.
        """
        return ()

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Move the tensors and networks of ``ready`` and ``look``; compute what is kept for all epochs."""

    def check_without_validation(self) -> None:
        """Check that it can be trained without a validation part; default: no best epoch is selected.

        Raises:
            RecipeError: It cannot.
        """
        if self.training.keep == "best":
            raise RecipeError(
                self.recipe.name,
                f"{self.name}: keep",
                "selects an epoch on the validation part, and there is none: 'last'",
                "best",
            )

    @property
    def finishable(self) -> bool:
        """Whether its network may have an FC layer over the ages, which a finisher finishes."""
        return "ldl" in self.recipe.network.heads

    def plugins(self) -> Sequence[Origin]:
        """Parts of other packages that this stage is made of; default: the recipe's backbone."""
        backbone = backbone_origin(self.recipe.network.backbone)
        return () if backbone is None else (backbone,)

    @abstractmethod
    def network(self) -> nn.Module:
        """A new network at its start; the generator of torch is seeded before the call."""

    def solve(self, train: CropSet, val: CropSet, device: torch.device) -> nn.Module:
        """Find the network from all crops at once, where ``at_once``; the generator of torch is seeded.

        Args:
            train: The training crops.
            val: The validation crops.
            device: Of the network.
        """
        raise NotImplementedError(f"{self.name} is trained in epochs")

    def frozen(self, network: Any) -> Sequence[nn.Module]:
        """Parts of the network that keep their weights and stay in evaluation mode; default: the recipe's.

        Raises:
            RecipeError: The backbone has no part of that name.
        """
        parts = []
        for index, name in enumerate(self.recipe.network.frozen):
            try:
                parts.append(network.backbone.get_submodule(name) if name else None)
            except AttributeError:
                parts.append(None)
            if parts[-1] is None:
                there = ", ".join(part for part, _ in network.backbone.named_children())
                message = f"{self.recipe.network.backbone} has no such part; it has {there}"
                raise RecipeError(self.recipe.name, f"network.frozen.{index}", message, name)
        return [part for part in parts if part is not None]

    def begin(self, epoch: int) -> None:  # noqa: B027
        """Set values that change by epoch (annealed weights); ``epoch`` counts from 0."""

    def order(self, crops: CropSet, epoch: int, generator: torch.Generator) -> Order:
        """Draw the crops and labels of an epoch: the same in every process, which takes its share of a batch.

        Args:
            crops: The N training crops.
            epoch: Counts from 0.
            generator: The only source of chance.
        Returns:
            Default: a permutation, or a draw by ``train.sets``; targets (N, 4), the labels that
            ``AgeLabels.of`` names.
        """
        if self.training.sets:
            assert crops.sets is not None  # checked before the run began
            rows = set_weighted(crops.sets, self.training.sets, len(crops), generator)
        else:
            rows = torch.randperm(len(crops), generator=generator).numpy()
        return Order(rows, crops.labels()[rows])

    def inputs(
        self,
        crops: CropSet,
        rows: NDArray[np.int64],
        size: int,
        views: torch.Generator,
        device: torch.device,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Make the network's input from crops, and what else the loss needs of them.

        Args:
            crops: The training crops, at the side of this phase.
            rows: (B,) crops of the batch, sequences flattened.
            size: Side of the views, pixels.
            views: CPU generator of the views; the only source of chance.
            device: Of the result.
        Returns:
            Images and extras, see :class:`Batch`. Default: a training view (B, 3, size, size) of each crop,
            and no extras.
        """
        return augment(crop_tensor(crops, rows, device), self.augmentation, size, views), {}

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss`` and its parts from the network's outputs and their batch, each ()."""

    def stepped(self, network: Any, outputs: Any, batch: Batch) -> None:  # noqa: B027
        """Change what the network keeps besides its weights, after each step; without a gradient."""

    def score(self, network: Any, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Figures of a training batch for the log besides the losses.

        Default: the MAE in years; a label that is a band counts by the distance to it.
        """
        labels = AgeLabels.of(batch.targets, batch.known)
        return {"train MAE": labels.distance(network.head.decode(outputs).age).mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Judge a network on N validation crops at an input size; default: as an age network."""
        return validate_ages(network, crops, size)

    def merit(self, figures: Mapping[str, float]) -> float:
        """Merit of an epoch by its validation figures: larger is better; NaN never wins.

        Default: by what the recipe selects, the smallest MAE of the estimate, the largest AAR, or the largest
        band accuracy.
        """
        if self.recipe.select == "mae":
            return -figures.get("MAE age", float("nan"))
        return figures.get(SELECTED_FIGURES[self.recipe.select], float("nan"))

    def result(self, network: Any) -> nn.Module:
        """Take the network that is kept from the one that was trained; default: the same."""
        kept: nn.Module = network
        return kept

    def describe(self, network: Any) -> dict[str, Any]:
        """Describe the finished network, so that it can be rebuilt; default: as it describes itself."""
        described: dict[str, Any] = network.describe()
        return described


@dataclass
class CropOutputs:
    """Outputs of an age network for a set of crops.

    Attributes:
        ldl, reg: (N,) years, or None without that head.
        age: (N,) years, the estimate.
        logits: (N, K) or None.
    """

    ldl: NDArray[np.float64] | None
    reg: NDArray[np.float64] | None
    age: NDArray[np.float64]
    logits: NDArray[np.float64] | None

    def estimates(self) -> dict[str, NDArray[np.float64]]:
        """The estimates by name: ``ldl`` and ``reg`` of the heads, and ``age``, the network's."""
        named = {"ldl": self.ldl, "reg": self.reg, "age": self.age}
        return {name: values for name, values in named.items() if values is not None}

    def select(self, mask: NDArray[np.bool_]) -> CropOutputs:
        """The outputs of the crops where ``mask`` (N,) is true."""
        chosen = [None if part is None else part[mask] for part in (self.ldl, self.reg, self.logits)]
        return CropOutputs(chosen[0], chosen[1], self.age[mask], chosen[2])

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """The estimates, and ``logits`` where there are any."""
        return self.estimates() | ({} if self.logits is None else {"logits": self.logits})


def run_on_crops(network: AnyNetwork, crops: CropSet, size: int, batch: int = 64) -> CropOutputs:
    """Estimate the ages of crops.

    Args:
        network: In any mode; evaluated in evaluation mode and put back.
        crops: N crops.
        size: Side the crops are resized to, pixels.
        batch: Crops at a time.
    Returns:
        The ages of each head, the estimate, the logits.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = {"ldl": [], "reg": [], "age": [], "logits": []}
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            outputs = network(network_input(crops.crops(slice(start, start + batch)), size, device))
            decoded = network.head.decode(outputs)
            for name, value in (
                ("ldl", decoded.ldl),
                ("reg", decoded.reg),
                ("age", decoded.age),
                ("logits", outputs.logits),
            ):
                if value is not None:
                    parts[name].append(value.float().cpu())
    network.train(training)
    joined = {n: torch.cat(v).numpy().astype(np.float64) if v else None for n, v in parts.items()}
    age = joined["age"]
    if age is None:
        raise ValueError("no crops")
    return CropOutputs(joined["ldl"], joined["reg"], age, joined["logits"])


def validate_ages(network: AnyNetwork, crops: CropSet, size: int) -> Validation:
    """Judge an age network on labelled crops: see :func:`judge_ages`."""
    return judge_ages(run_on_crops(network, crops, size), crops.ages, crops.bounds, network.head.age_bins)


def judge_ages(
    outputs: CropOutputs,
    ages: NDArray[Any],
    bounds: NDArray[Any] | None = None,
    age_bins: AgeBins | None = None,
) -> Validation:
    """Judge the outputs of a network for N crops.

    Args:
        outputs: Of the network.
        ages: (N,) years; NaN where the label is a band.
        bounds: (N, 2) both ends of the labels where some are bands; None: all are ages.
        age_bins: The bins of the logits, for the most probable band.
    Returns:
        MAE and CA(5) of every estimate, AAR, σ and the groups' MAE of ``age`` where labels are ages;
        distance and band accuracy where they are bands.
    """
    banded = np.isnan(ages)
    if bounds is None or not banded.any():
        return _judge_exact(outputs, ages)
    exact = _judge_exact(outputs.select(~banded), ages[~banded]) if not banded.all() else Validation({})
    of_bands = _judge_bands(outputs.select(banded), bounds[banded], age_bins)
    estimates = {
        name: exact.table.get("estimates", {}).get(name, {}) | of_bands.table["estimates"][name]
        for name in of_bands.table["estimates"]
    }
    return Validation(
        exact.figures | of_bands.figures,
        {**of_bands.table, "estimates": estimates, "bands": int(banded.sum())},
        {"ages": ages, "bounds": bounds, **outputs.arrays()},
    )


def _judge_bands(outputs: CropOutputs, bounds: NDArray[Any], age_bins: AgeBins | None) -> Validation:
    low, high = bounds.T
    figures: dict[str, float] = {}
    estimates: dict[str, dict[str, Any]] = {}
    for name, values in outputs.estimates().items():
        estimates[name] = {
            "band distance": band_distance(values, low, high),
            "band accuracy": band_accuracy(values, low, high),
        }
        figures[f"band distance {name}"] = round(estimates[name]["band distance"], 4)
    hits = estimates["age"]["band accuracy"]
    if outputs.logits is not None and age_bins is not None:
        bands, own = np.unique(bounds, axis=0, return_inverse=True)
        guessed = most_probable_band(softmax(outputs.logits), age_bins, bands)
        hits = estimates["ldl"]["most probable band"] = 100.0 * float((guessed == own.reshape(-1)).mean())
    figures["band accuracy"] = round(hits, 4)
    return Validation(figures, {"estimates": estimates, "band accuracy": hits})


def _judge_exact(outputs: CropOutputs, ages: NDArray[Any]) -> Validation:
    estimates: dict[str, dict[str, Any]] = {}
    figures: dict[str, float] = {}
    for name, values in outputs.estimates().items():
        figures[f"MAE {name}"] = round(float(mae(values, ages)), 4)
        estimates[name] = {
            "MAE": float(mae(values, ages)),
            "CA(5)": float(cumulative_accuracy(values, ages, 5)),
        }
    completed = np.floor(ages)
    if any(((completed >= low) & (completed <= high)).any() for low, high in AAR_GROUPS):
        found = aar(outputs.age, ages)
        groups = {
            f"{low}-{high}": value
            for (low, high), value in zip(AAR_GROUPS, found.group_mae, strict=True)
            if np.isfinite(value)
        }
        estimates["age"] |= {"AAR": found.aar, "sigma": found.sigma, "groups": groups}
        figures |= {"AAR": round(found.aar, 4), "sigma": round(found.sigma, 4)}
        figures |= {f"MAE({group})": round(value, 4) for group, value in groups.items()}
    return Validation(figures, {"estimates": estimates}, {"ages": ages, **outputs.arrays()})
