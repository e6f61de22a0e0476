"""Hints: the student up to its guided layers learns the ranker's maps.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, RunError
from agelens.losses import hint_error
from agelens.methods.ordinal_dark.stage import OrdinalDarkStage, width_of
from agelens.networks.age_network import AgeNetwork
from agelens.networks.chain import normal_weights
from agelens.networks.guided import GuidedStudent, HintSource
from agelens.networks.pvp import PermutationNetwork
from agelens.networks.stored import load_network
from agelens.training.run import locate_network
from agelens.training.stage import Batch, Finished, Validation
from agelens.training.transforms import network_input

__all__ = ["GuidedStage", "HintStage"]

_BATCH = 256


@dataclass
class GuidedStage(OrdinalDarkStage):
    """Common part of the student's two stages: the ranker and its hints."""

    start: Mapping[str, Tensor] | None = None
    ranker: PermutationNetwork | HintSource | None = field(default=None, init=False, repr=False)

    def to(self, device: torch.device) -> None:
        """Move the ranker."""
        if self.ranker is not None:
            self.ranker.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def frozen_ranker(self, finished: Finished) -> PermutationNetwork | HintSource:
        """Fetch the network that gives hints: of ``settings.ranker_run``, or this run's ranker.

        Raises:
            InputError: There is none, or its input has another size than the student's.
            RunError: ``ranker_run`` is no run, or has neither a ranker nor an age network that is a chain.
        """
        ranker: Any
        if self.settings.ranker_run:
            run, file = locate_network(self.settings.ranker_run, "ranker")
            ranker = load_network(file)
            if isinstance(ranker, AgeNetwork):
                try:
                    ranker = HintSource(ranker, run.recipe.network.input_size)
                except InputError as error:
                    raise RunError(file, "holds no ranker, nor a chain of numbered convolutions") from error
            if not isinstance(ranker, PermutationNetwork | HintSource):
                raise RunError(file, "holds no ranker")
        elif "ranker" in self.settings.stages:
            ranker = finished("ranker")
        else:
            raise InputError(
                "hints need a ranker: list the stage 'ranker', pass --ranker RUN, or leave out the stage "
                "'hint' and set method.settings.lambda_1 = 0"
            )
        size = ranker.input_size
        if size != self.recipe.network.input_size:
            raise InputError(f"the ranker sees {size} px, the student {self.recipe.network.input_size}")
        ranker.eval().requires_grad_(False)
        frozen: PermutationNetwork | HintSource = ranker
        return frozen

    def _hint_channels(self, ranker: PermutationNetwork | HintSource | None) -> list[int]:
        if ranker is None:
            return []
        return [ranker.chain.channels(number) for number in self.settings.hint_layers]

    def new_student(self) -> GuidedStudent:
        """Make the student, from ``--start`` or at its own start, and its regressors."""
        student = self.new_age_network(
            self.recipe.network.backbone,
            self.recipe.network.heads,
            self.settings.head_tau,
            pretrained=self.recipe.network.pretrained,
        )
        if self.start is not None:
            student.load_state_dict(dict(self.start))
        guided = () if self.ranker is None else self.settings.guided_layers
        channels = self._hint_channels(self.ranker)
        network = GuidedStudent(student, guided, channels, rectified=self.settings.rectified)
        normal_weights(network.regressors, width_of(self.recipe.network.backbone))
        return network

    def hint_errors(self, hints: Sequence[Tensor], images: Tensor) -> Tensor:
        """Sum the errors of regressed hints over the guided layers ([1], Eq. 3); images (B, 3, S, S)."""
        assert self.ranker is not None
        with torch.no_grad():
            wanted = self.ranker.maps(images, list(self.settings.hint_layers))
        pairs = zip(hints, wanted, strict=True)
        return torch.stack([hint_error(mine, theirs.float()) for mine, theirs in pairs]).sum()


@dataclass
class HintStage(GuidedStage):
    """The student up to its guided layers learns the ranker's maps ([1], Eq. 3 and Algorithm 1, step 4)."""

    @property
    def name(self) -> str:
        """``hint``."""
        return "hint"

    def ready(self, finished: Finished) -> None:
        """Fetch and freeze the ranker."""
        self.ranker = self.frozen_ranker(finished)

    def network(self) -> GuidedStudent:
        """The student and its regressors at their start."""
        return self.new_student()

    def frozen(self, network: Any) -> Sequence[torch.nn.Module]:
        """The layers that no hint reaches."""
        unguided: Sequence[torch.nn.Module] = network.unguided()
        return unguided

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The hints' errors, summed; the labels are not used."""
        return {"loss": self.hint_errors(outputs.hints, batch.images)}

    def score(self, network: Any, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Nothing besides the loss: this stage estimates no age."""
        return {}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """The hints' error on the validation crops."""
        training = network.training
        network.eval()
        device = next(network.parameters()).device
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                images = network_input(crops.crops(slice(start, start + _BATCH)), size, device)
                total += float(self.hint_errors([h.float() for h in network(images).hints], images)) * len(
                    images
                )
        network.train(training)
        error = total / len(crops)
        return Validation({"hint error": round(error, 6)}, {"hint_error": error})

    def merit(self, figures: Mapping[str, float]) -> float:
        """The smaller the error, the better."""
        return -figures["hint error"]
