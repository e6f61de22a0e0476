"""Teacher 1, the ranker: a network that tells by which permutation faces in age order were shuffled.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.methods.ordinal_dark.permutations import SequenceSampler, permutation_set, shuffle_sequences
from agelens.methods.ordinal_dark.stage import OrdinalDarkStage
from agelens.networks.chain import normal_weights
from agelens.networks.pvp import PermutationNetwork
from agelens.training.stage import Batch, Order, Validation
from agelens.training.transforms import network_input

__all__ = ["RankerStage"]

_VALIDATION_SEQUENCES = 450
_VALIDATION_SEED = 20_200
_BATCH = 32  # sequences
_REHEARSED = 12  # permutations


@dataclass
class RankerStage(OrdinalDarkStage):
    """Teacher 1: which permutation shuffled the faces ([1], Sec. III-A, Eq. 1)?

    Its figure is the accuracy of the permutations, of chance 1/K; validation shuffles the same sequences
    every time.
    """

    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent", "band")  # bands that do not meet are in order
    permutations: NDArray[np.int64] = field(init=False, repr=False)
    _sampler: SequenceSampler | None = field(default=None, init=False, repr=False)
    _validation: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        settings = self.settings
        count = settings.permutations
        if self.recipe.rehearsal:  # the search for them, not their number in the network, takes time
            count = min(count, _REHEARSED)
        self.permutations = permutation_set(settings.length, count, self.recipe.seed)

    @property
    def name(self) -> str:
        """``ranker``."""
        return "ranker"

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Prepare the sequences; those of validation are drawn once, as many of each kind.

        Raises:
            InputError: The training crops cannot fill the groups, or validation has too few different ages.
        """
        super().look(train, val)
        settings = self.settings
        groups = settings.groups if settings.curriculum else ()
        self._sampler = SequenceSampler(train.ages, settings.length, groups, settings.inter, train.bounds)
        self._validation = {}
        random = np.random.default_rng(_VALIDATION_SEED)
        notes = [*self._sampler.notes]
        count = settings.sequences if self.recipe.rehearsal else _VALIDATION_SEQUENCES // 2
        drawn: dict[str, NDArray[np.int64]]
        try:
            if not settings.curriculum:
                sampler = replace(self._sampler, ages=val.ages, bounds=val.bounds)
                drawn = {"all": sampler.epoch(2 * count, random, curriculum=False)}
            else:
                kinds = {"inter": 1.0} | ({"inner": 0.0} if settings.inter < 1 else {})
                samplers = {
                    kind: replace(self._sampler, ages=val.ages, bounds=val.bounds, inter=inter)
                    for kind, inter in kinds.items()
                }
                drawn = {kind: sampler.epoch(count, random) for kind, sampler in samplers.items()}
                notes += [f"validation: {note}" for note in [*samplers.values()][-1].notes]
        except InputError as error:
            whole = SequenceSampler(val.ages, settings.length, (), inter=0.0, bounds=val.bounds)
            drawn = {"all": whole.epoch(2 * count, random, curriculum=False)}
            notes.append(f"validation sequences are drawn from all ages, not from the groups: {error}")
        for kind, sequences in drawn.items():
            self._validation[kind] = self._shuffled(sequences, random)
        return notes

    def _shuffled(
        self, sequences: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shuffle sequences in age order (M, n) by permutations drawn; those, and which they are (M,)."""
        labels = random.integers(len(self.permutations), size=len(sequences))
        if self.settings.either_direction:
            turned = random.random(len(sequences)) < 0.5
            sequences = np.where(turned[:, None], sequences[:, ::-1], sequences)
        return shuffle_sequences(sequences, self.permutations, labels), labels

    def begin(self, epoch: int) -> None:
        """Inter-group sequences alone at first, where the settings say so."""
        inter = 1.0 if epoch < self.settings.inter_epochs else self.settings.inter
        if self._sampler is not None and self.settings.curriculum and self._sampler.inter != inter:
            self._sampler = replace(self._sampler, inter=inter)

    def network(self) -> PermutationNetwork:
        """The Siamese network at its start."""
        settings = self.settings
        network = PermutationNetwork(
            settings.length,
            settings.permutations,
            self.recipe.network.input_size,
            trunk=settings.ranker,
            joint=settings.joint,
            width=settings.width,
            zca=settings.zca,
        )
        if settings.initialise == "normal":
            normal_weights(network, settings.width)
        self.whiten(network.whitening)
        return network

    def order(self, crops: CropSet, epoch: int, generator: torch.Generator) -> Order:
        """Shuffled sequences (M, n), inter-group ones first; targets (M,), the permutation of each."""
        assert self._sampler is not None  # look() made it
        seed = int(torch.randint(2**62, (), generator=generator))
        random = np.random.default_rng(seed)
        sequences = self._sampler.epoch(self.settings.sequences, random, curriculum=self.settings.curriculum)
        return Order(*self._shuffled(sequences, random))

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the permutations (B,), the batch's targets (Eq. 1)."""
        return {"loss": F.cross_entropy(outputs, batch.targets)}

    def score(self, network: Any, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Share of the permutations that are right."""
        return {"train accuracy": (outputs.argmax(1) == batch.targets).float().mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Permutation accuracy on the validation sequences, beside chance.

        ``accuracy`` is that of both kinds, in the shares that ``settings.inter`` sets; ``inter`` and
        ``inner`` are those of each kind.
        """
        training = network.training
        network.eval()
        device = next(network.parameters()).device
        accuracies: dict[str, float] = {}
        for kind, (sequences, labels) in self._validation.items():
            predicted = []
            with torch.inference_mode():
                for start in range(0, len(sequences), _BATCH):
                    rows = sequences[start : start + _BATCH].reshape(-1)
                    images = network_input(crops.crops(rows), size, device)
                    predicted.append(network(images).argmax(1).cpu().numpy())
            accuracies[kind] = float(np.mean(np.concatenate(predicted) == labels))
        network.train(training)
        inter = self.settings.inter
        accuracy = (
            inter * accuracies["inter"] + (1 - inter) * accuracies["inner"]
            if "inner" in accuracies
            else next(iter(accuracies.values()))
        )
        count = sum(len(labels) for _, labels in self._validation.values())
        table = {
            "sequences": count,
            "accuracy": accuracy,
            "chance": 1 / len(self.permutations),
            "by kind": accuracies,
        }
        figures = {"accuracy": accuracy, **{k: v for k, v in accuracies.items() if k != "all"}}
        rounded = {kind: round(value, 5) for kind, value in figures.items()}
        return Validation(rounded, {"permutations": table})

    def merit(self, figures: Mapping[str, float]) -> float:
        """The accuracy."""
        return figures["accuracy"]

    def describe(self, network: Any) -> dict[str, Any]:
        """The network's description, and the permutations."""
        return {**network.describe(), "set": self.permutations.tolist()}
